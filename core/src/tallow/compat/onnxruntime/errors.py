"""The exceptions of onnxruntime, raised for the mistakes that it raises them for."""

from __future__ import annotations

import re
from contextlib import contextmanager

from tallow.errors import CompileError, GraphError, ImportFailed, NotAModel, TallowError, Unavailable


class OrtError(Exception):
    """Base of all; `code` and `word` are onnxruntime's status, `message` is what follows them."""

    code, word, message = 1, "FAIL", ""


def _status(name: str, code: int, word: str) -> type[OrtError]:
    return type(name, (OrtError,), {"code": code, "word": word, "__module__": __name__})


Fail = _status("Fail", 1, "FAIL")
InvalidArgument = _status("InvalidArgument", 2, "INVALID_ARGUMENT")
NoSuchFile = _status("NoSuchFile", 3, "NO_SUCHFILE")
NoModel = _status("NoModel", 4, "NO_MODEL")
EngineError = _status("EngineError", 5, "ENGINE_ERROR")
RuntimeException = _status("RuntimeException", 6, "RUNTIME_EXCEPTION")
InvalidProtobuf = _status("InvalidProtobuf", 7, "INVALID_PROTOBUF")
ModelLoaded = _status("ModelLoaded", 8, "MODEL_LOADED")
NotImplemented = _status("NotImplemented", 9, "NOT_IMPLEMENTED")
InvalidGraph = _status("InvalidGraph", 10, "INVALID_GRAPH")
EPFail = _status("EPFail", 11, "EP_FAIL")
ModelLoadCanceled = _status("ModelLoadCanceled", 12, "MODEL_LOAD_CANCELED")
ModelRequiresCompilation = _status("ModelRequiresCompilation", 13, "MODEL_REQUIRES_COMPILATION")
NotFound = _status("NotFound", 14, "NOT_FOUND")
DeviceReset = _status("DeviceReset", 15, "DEVICE_RESET")


def error(kind: type[OrtError], message: object) -> OrtError:
    """An exception with onnxruntime's prefix before the message."""
    made = kind(f"[ONNXRuntimeError] : {kind.code} : {kind.word} : {message}")
    made.message = str(message)
    return made


_OF_LOADING = (  # the first row that fits counts
    (NotAModel, InvalidProtobuf),
    (ImportFailed, InvalidGraph),
    (GraphError, InvalidArgument),
    (CompileError, NotImplemented),
    (Unavailable, EPFail),
    (TallowError, Fail),
)
_OF_NODE = re.compile(r'\((\w+) node "([^"]*)" in [^()]*\)')  # where an error says that it arose


@contextmanager
def loading(source: str | bytes):
    """Tallow's errors of importing and compiling a model, from a path or the bytes of one, as onnxruntime's."""
    try:
        yield
    except TallowError as raised:
        kind = next(ours for theirs, ours in _OF_LOADING if isinstance(raised, theirs))
        message = f"{unreadable(source)} {raised}" if kind is InvalidProtobuf else raised
        raise error(kind, message) from raised


def loaded(source: str | bytes) -> str:
    """How onnxruntime begins to say what is wrong with a model."""
    return f"Load model from {source} failed:" if isinstance(source, str) else ""


def unreadable(source: str | bytes) -> str:
    """What onnxruntime says of a source that is no model."""
    if isinstance(source, str):
        return f"{loaded(source)}Protobuf parsing failed."
    return "Failed to load model because protobuf parsing failed."


def running(raised: Exception) -> str:
    """An error of a run, in the form that onnxruntime has where it names a node."""
    node = _OF_NODE.search(str(raised))
    if node is None:
        return str(raised)
    operator, name = node.groups()
    said = "Non-zero status code returned while running"
    return f"{said} {operator} node. Name:'{name}' Status Message: {raised}"
