"""The hooks of Tallow: what a plugin module may define. Each hook gets a callback to register with.

A plugin is a module named by an entry point of the group `tallow`; it must say `TALLOW_API = 1`.
"""

from __future__ import annotations

from collections.abc import Callable

GROUP = "tallow"


def hook(function: Callable) -> Callable:
    """Mark a plugin's function as the hook of its name. pluggy has such marks, and takes these over when it
    checks plugins; it is not imported for them, since running a compiled model needs no check."""
    function.tallow_hook = True
    return function


def register_backends(register: Callable[[str, Callable], None]) -> None:
    """Call `register(name, factory)` for each backend; `factory()` makes it when it is first used."""


def register_importers(register: Callable[[str, Callable], None]) -> None:
    """Call `register(name, factory)` for each importer; `factory()` makes it when it is first used."""


def register_ops(register: Callable) -> None:
    """Call `register(op)` with an `Op` row for each operator that the plugin adds. Called when something is
    compiled, so import the rows in here."""


def register_commands(register: Callable) -> None:
    """Call `register(make)` with a function of no arguments that returns a click command, for each
    subcommand of `tallow`; only the command calls it."""
