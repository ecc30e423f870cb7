"""The ONNX importer as a plugin of Tallow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tallow.hookspecs import hook
from tallow_importers.onnx.reading import PLAIN, Reading

TALLOW_API = 1


class OnnxImporter:
    """Files that end in .onnx."""

    suffixes = (".onnx",)

    def __init__(self, reading: Reading = PLAIN):
        self.reading = reading
        self.name = ", ".join(["onnx", *reading.words()])

    def of(
        self,
        untied: Iterable[str] = (),
        fed: Iterable[str] = (),
        replaced: Mapping[str, np.ndarray] | None = None,
    ) -> OnnxImporter:
        """One that disbelieves these names of sizes, drops the defaults of these inputs and takes these values for
        initializers."""
        return OnnxImporter(Reading(frozenset(untied), frozenset(fed), dict(replaced or {})))

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

        return load(path, dims, self.reading)

    def load_bytes(self, data: bytes, dims=None):
        from tallow_importers.onnx.importer import load_bytes

        return load_bytes(data, dims, self.reading)


class UntiedOnnxImporter(OnnxImporter):
    """The same of models whose names of sizes are not to be believed; only asked for by its name."""

    suffixes = ()

    def __init__(self):
        super().__init__(Reading(untied=None))

    def claims(self, path: Path) -> bool:
        return False


@hook
def register_importers(register) -> None:
    register("onnx", OnnxImporter)
    register("onnx-untied", UntiedOnnxImporter)
