"""The ONNX importer as a plugin of Tallow."""

from __future__ import annotations

from pathlib import Path

from tallow.hookspecs import hook

TALLOW_API = 1


class OnnxImporter:
    """Files that end in .onnx."""

    name = "onnx"
    suffixes = (".onnx",)

    def claims(self, path: Path) -> bool:
        return path.suffix == ".onnx"

    def load(self, path: Path, dims=None):
        from tallow_importers.onnx.importer import load

        return load(path, dims)


@hook
def register_importers(register) -> None:
    register("onnx", OnnxImporter)
