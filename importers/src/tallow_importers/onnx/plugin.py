"""The ONNX importer as a plugin of Tallow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tallow.hookspecs import hook

TALLOW_API = 1


class OnnxImporter:
    """Files that end in .onnx."""

    name = "onnx"
    suffixes = (".onnx",)

    def tied(self, size: str) -> bool:
        """Whether axes whose size has this name are equal."""
        return True

    def claims(self, path: Path) -> bool:
        return path.suffix == ".onnx"

    def files(self, path: Path) -> list[Path]:
        """The file and its external data. Only a file that says where such data lies is parsed for it."""
        # Both deferred, so that finding the plugin, or a model in the cache, imports little.
        from tallow_importers.onnx.weights import read_without_weights

        if b"location" not in read_without_weights(path):
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
    """The same of models whose names of sizes are not to be believed, all of them or some; only asked for by its
    name."""

    suffixes = ()

    def __init__(self, sizes: Iterable[str] = ()):
        self._sizes = frozenset(sizes)
        self.name = " ".join(["onnx-untied", *sorted(self._sizes)])

    def of(self, sizes: Iterable[str]) -> UntiedOnnxImporter:
        """One that disbelieves these names alone."""
        return UntiedOnnxImporter(sizes)

    def tied(self, size: str) -> bool:
        return bool(self._sizes) and size not in self._sizes

    def claims(self, path: Path) -> bool:
        return False


@hook
def register_importers(register) -> None:
    register("onnx", OnnxImporter)
    register("onnx-untied", UntiedOnnxImporter)
