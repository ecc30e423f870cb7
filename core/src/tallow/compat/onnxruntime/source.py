"""Where a session's model comes from, and what it is compiled to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import tallow
from tallow import declared, plugins
from tallow.compat.onnxruntime import interface
from tallow.compat.onnxruntime.errors import (
    InvalidArgument,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    error,
    loaded,
    loading,
    unreadable,
)
from tallow.compat.onnxruntime.options import SessionOptions
from tallow.executable import Executable

ONNX = "onnx"
NONE: frozenset[str] = frozenset()


class Source:
    """A file or the bytes of one, of ONNX or of an artifact, with the options of a session.

    TypeError for what is neither path nor bytes; the rest is looked at when it is compiled.
    """

    def __init__(self, path_or_bytes: str | os.PathLike | bytes, options: SessionOptions):
        if not isinstance(path_or_bytes, (str, os.PathLike, bytes)):
            raise TypeError(f"Unable to load from type '{type(path_or_bytes)}'")
        given = path_or_bytes if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        self.given, self._options = given, options
        self.path = given if isinstance(given, str) else None
        self.is_artifact = self.path is not None and self.path.endswith(".tallow")

    def opened(self) -> Executable:
        """The artifact, whose constants are in it."""
        if self._options._initializers:
            names = ", ".join(sorted(self._options._initializers))
            raise error(NotImplemented, f"{self.path}: the initializers {names} are constants of an artifact")
        with loading(self.given):
            return tallow.open(self._checked(), self._threads())

    def compiled(
        self, devices: list[str], fed: frozenset[str] = NONE, untied: frozenset[str] = NONE
    ) -> Executable:
        """The model for these devices; `fed` are inputs that are given although the model has a default for them,
        `untied` names of sizes that may differ from themselves."""
        source, format, replaced = self._checked(), ONNX, self._options._initializers
        if fed or untied or replaced:
            format = plugins.installed().get("importer", ONNX).of(untied, fed, replaced)
        with loading(self.given):
            dims = self._dims(format)
            return tallow.compile(source, devices, dims=dims, threads=self._threads(), format=format)

    def write(self, path: str) -> None:
        """The model as it came, for programs that go on with what they find at `optimized_model_filepath`."""
        if not path or self.is_artifact:
            return
        if isinstance(self.given, bytes):
            Path(path).write_bytes(self.given)
        elif not (Path(path).exists() and Path(path).samefile(self.given)):
            shutil.copyfile(self.given, path)

    def _threads(self) -> int | None:
        return max(self._options.intra_op_num_threads, 0) or None

    def _dims(self, format: str | plugins.Importer) -> dict[str, int]:
        """The sizes that the options fix, by Tallow's names."""
        names, meanings = self._options._sizes, self._options._meanings
        if not names and not meanings:
            return {}
        model = tallow.load(self.given, format=format)
        said = declared.read(model.graph.metadata)
        return interface.sizes_by_name(model.inputs, said, names, meanings)

    def _checked(self) -> str | bytes:
        """What was given, which is there and holds something."""
        source = self.given
        if source == "":
            raise TypeError("InferenceSession(path_or_bytes=''): expected the path of a model, or its bytes")
        if isinstance(source, str):
            if not Path(source).exists():
                raise error(NoSuchFile, f"{loaded(source)}Load model {source} failed. File doesn't exist")
            if Path(source).is_dir():
                raise error(InvalidProtobuf, f"{unreadable(source)} It is a folder")
            if source.endswith(".ort"):
                raise error(
                    NotImplemented, f"{source}: onnxruntime's own format is not read: give the ONNX file"
                )
        if not (len(source) if isinstance(source, bytes) else Path(source).stat().st_size):
            raise error(InvalidArgument, f"{loaded(source)}No graph was found in the protobuf. It is empty")
        return source
