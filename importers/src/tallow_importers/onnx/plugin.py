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
    tied = True  # sizes of one name are equal

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

        return load(path, dims, self.tied)

    def load_bytes(self, data: bytes, dims=None):
        from tallow_importers.onnx.importer import load_bytes

        return load_bytes(data, dims, self.tied)


class UntiedOnnxImporter(OnnxImporter):
    """The same of models whose names of sizes are not to be believed; only asked for by its name."""

    name = "onnx-untied"
    suffixes = ()
    tied = False

    def claims(self, path: Path) -> bool:
        return False


@hook
def register_importers(register) -> None:
    register("onnx", OnnxImporter)
    register("onnx-untied", UntiedOnnxImporter)
