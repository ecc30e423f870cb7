"""The demo as a plugin of Tallow: one command, imported when the command line asks for it."""

from __future__ import annotations

from tallow.hookspecs import hook

TALLOW_API = 1


def _make():
    from tallow_demo.command import demo

    return demo


@hook
def register_commands(register) -> None:
    register(_make)
