"""The exceptions of onnxruntime, raised for the mistakes that it raises them for."""

from __future__ import annotations

from contextlib import contextmanager

from tallow.errors import CompileError, GraphError, ImportFailed, NotAModel, TallowError, Unavailable


class OrtError(Exception):
    """Base of all; `code` and `word` are onnxruntime's status."""

    code, word = 1, "FAIL"


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
    return kind(f"[ONNXRuntimeError] : {kind.code} : {kind.word} : {message}")


_OF_LOADING = (  # the first row that fits counts
    (NotAModel, InvalidProtobuf),
    (ImportFailed, InvalidGraph),
    (GraphError, InvalidArgument),
    (CompileError, NotImplemented),
    (Unavailable, EPFail),
    (TallowError, Fail),
)


@contextmanager
def loading():
    """Tallow's errors of importing and compiling as onnxruntime's."""
    try:
        yield
    except TallowError as raised:
        kind = next(ours for theirs, ours in _OF_LOADING if isinstance(raised, theirs))
        raise error(kind, raised) from raised
