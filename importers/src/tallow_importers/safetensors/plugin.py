"""The safetensors importer as a plugin of Tallow."""

from __future__ import annotations

from pathlib import Path

from tallow.hookspecs import hook

TALLOW_API = 1


class SafetensorsImporter:
    """Files that end in .safetensors, and folders with a config.json."""

    name = "safetensors"
    suffixes = (".safetensors", "a folder with config.json")

    def claims(self, path: Path) -> bool:
        return path.suffix == ".safetensors" or (path.is_dir() and (path / "config.json").is_file())

    def files(self, path: Path) -> list[Path]:
        """All JSON and safetensors files of the model's folder: configuration, index and shards."""
        folder = path if path.is_dir() else path.parent
        return sorted(f for f in folder.iterdir() if f.suffix in (".json", ".safetensors") and f.is_file())

    def load(self, path: Path, dims=None):
        from tallow_importers.safetensors.importer import load

        return load(path, dims)


@hook
def register_importers(register) -> None:
    register("safetensors", SafetensorsImporter)
