"""The command `tallow`: one verb for each thing users do with a model."""

try:
    from tallow.cli.main import main
except ModuleNotFoundError as error:
    if error.name not in ("click", "rich"):
        raise
    raise SystemExit(f"tallow: the command needs {error.name}: pip install 'tallow[cli]'") from None

__all__ = ["main"]
