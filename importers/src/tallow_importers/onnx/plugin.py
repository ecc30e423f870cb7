"""The ONNX importer as a plugin of Tallow."""

from __future__ import annotations

import mmap
from pathlib import Path

from tallow.hookspecs import hook

TALLOW_API = 1


class OnnxImporter:
    """Files that end in .onnx."""

    name = "onnx"
    suffixes = (".onnx",)

    def claims(self, path: Path) -> bool:
        return path.suffix == ".onnx"

    def files(self, path: Path) -> list[Path]:
        """The file and its external data. Only a file that says where such data lies is parsed for it."""
        with open(path, "rb") as file:
            if not path.stat().st_size:
                return [path]
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data.find(b"location") < 0:
                    return [path]
        from tallow_importers.onnx.external import files

        return files(path)

    def load(self, path: Path, dims=None):
        from tallow_importers.onnx.importer import load

        return load(path, dims)

    def load_bytes(self, data: bytes, dims=None):
        from tallow_importers.onnx.importer import load_bytes

        return load_bytes(data, dims)


@hook
def register_importers(register) -> None:
    register("onnx", OnnxImporter)
