"""The command `tallow`: one verb for each thing users do with a model."""

from tallow.cli.main import main

__all__ = ["main"]
