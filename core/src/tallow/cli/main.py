"""The group of all verbs of `tallow`. Exit codes: 0 done, 1 failed or different, 2 misused."""

from __future__ import annotations

import click

import tallow
from tallow import plugins
from tallow.cli import bench, compare, compiling, devices, inspecting, running
from tallow.errors import TallowError


class Group(click.Group):
    """Errors of Tallow and of the system end in one message and exit code 1."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except (TallowError, OSError) as error:
            click.echo(f"tallow: {error}", err=True)
            context.exit(1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tallow.__version__, prog_name="tallow")
def main() -> None:
    """Compile models and run them."""


for _module in (inspecting, compiling, running, bench, compare, devices):
    for _verb in _module.VERBS:
        main.add_command(_verb)
for _make in plugins.host().commands:
    main.add_command(_make())
