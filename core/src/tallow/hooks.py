"""Hooks of a plugin through pluggy, which refuses names and arguments that no hook has."""

from __future__ import annotations

from types import ModuleType

import pluggy

from tallow import hookspecs

HOOKS = ("register_backends", "register_importers", "register_ops", "register_commands")
_implementation = pluggy.HookimplMarker(hookspecs.GROUP)
_specification = pluggy.HookspecMarker(hookspecs.GROUP)
for _name in HOOKS:
    _specification(getattr(hookspecs, _name))


def checked_hooks(module: ModuleType, name: str):
    """The caller of a plugin's hooks; pluggy's PluginValidationError says what is wrong with one."""
    for member in list(vars(module).values()):
        if getattr(member, "tallow_hook", False) is True:
            _implementation(member)
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    return manager.hook
