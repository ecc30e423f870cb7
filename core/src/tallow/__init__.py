"""Tallow: a tensor compiler and inference runtime.

import tallow
run = tallow.compile("model.onnx")
y = run(x)
"""

from tallow.compile import Model, compile, load, open
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
