"""Tallow: a tensor compiler and inference runtime.

import tallow
run = tallow.compile("model.onnx")
y = run(x)

Importing it imports what runs a compiled model. The compiler comes when something is compiled.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tallow.compile import compile, load, open
from tallow.errors import (
    ArtifactError,
    CompileError,
    GraphError,
    ImportFailed,
    InputError,
    NotAModel,
    PluginError,
    TallowError,
    Unavailable,
    VerifyError,
)
from tallow.evaluate import evaluate
from tallow.executable import Executable
from tallow.runtime.device_array import DeviceArray

if TYPE_CHECKING:
    from tallow.compiler import Model

__version__ = "0.1.0"
__all__ = [
    "ArtifactError",
    "CompileError",
    "DeviceArray",
    "Executable",
    "GraphError",
    "ImportFailed",
    "InputError",
    "Model",
    "NotAModel",
    "PluginError",
    "TallowError",
    "Unavailable",
    "VerifyError",
    "compile",
    "evaluate",
    "load",
    "open",
]


def __getattr__(name: str):
    """The names of the compiler, and modules of this package that nothing has imported yet."""
    if name == "Model":
        return import_module("tallow.compiler").Model
    try:
        return import_module(f"tallow.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"tallow.{name}":
            raise
    raise AttributeError(f"module 'tallow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
