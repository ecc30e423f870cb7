"""The entry point for pytest: brings the kit's options when its tests are asked for, and nothing otherwise."""

from __future__ import annotations


def pytest_load_initial_conftests(early_config, args) -> None:
    if any(str(word).startswith("tallow.testing") for word in args):
        early_config.pluginmanager.import_plugin("tallow.testing.kit")
