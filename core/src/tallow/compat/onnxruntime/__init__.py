"""The Python interface of onnxruntime on Tallow: `import tallow.compat.onnxruntime as onnxruntime`.

What a program asks for and Tallow cannot do is refused where it would change results, else said once through
the logger `tallow.compat.onnxruntime`. `python -m tallow.compat.onnxruntime program.py` runs a program
that imports onnxruntime.
"""

from tallow.compat.onnxruntime.binding import IOBinding
from tallow.compat.onnxruntime.capi import _pybind_state, onnxruntime_inference_collection  # noqa: F401
from tallow.compat.onnxruntime.enumerations import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    OrtAllocatorType,
    OrtMemType,
    OrtSparseFormat,
)
from tallow.compat.onnxruntime.environment import (
    API,
    disable_telemetry_events,
    enable_telemetry_events,
    get_build_info,
    get_ep_devices,
    get_version_string,
    has_collective_ops,
    preload_dlls,
    print_debug_info,
    set_global_thread_pool_sizes,
    set_seed,
)
from tallow.compat.onnxruntime.install import install
from tallow.compat.onnxruntime.interface import ModelMetadata, NodeArg
from tallow.compat.onnxruntime.memory import (
    OrtArenaCfg,
    OrtMemoryInfo,
    create_and_register_allocator,
    create_and_register_allocator_v2,
)
from tallow.compat.onnxruntime.options import RunOptions, SessionOptions
from tallow.compat.onnxruntime.providers import get_all_providers, get_available_providers, get_device
from tallow.compat.onnxruntime.refused import (
    AdapterFormat,
    LoraAdapter,
    ModelCompiler,
    SparseTensor,
    register_execution_provider_library,
    unregister_execution_provider_library,
)
from tallow.compat.onnxruntime.said import (
    set_default_logger_callback,
    set_default_logger_severity,
    set_default_logger_verbosity,
)
from tallow.compat.onnxruntime.session import InferenceSession
from tallow.compat.onnxruntime.values import OrtDevice, OrtDeviceVendorId, OrtValue, copy_tensors

SessionIOBinding = IOBinding
__version__ = version = API
package_name, cuda_version = "onnxruntime", ""
__all__ = [
    "AdapterFormat",
    "ExecutionMode",
    "ExecutionOrder",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "LoraAdapter",
    "ModelCompiler",
    "ModelMetadata",
    "NodeArg",
    "OrtAllocatorType",
    "OrtArenaCfg",
    "OrtDevice",
    "OrtDeviceVendorId",
    "OrtMemType",
    "OrtMemoryInfo",
    "OrtSparseFormat",
    "OrtValue",
    "RunOptions",
    "SessionIOBinding",
    "SessionOptions",
    "SparseTensor",
    "copy_tensors",
    "create_and_register_allocator",
    "create_and_register_allocator_v2",
    "cuda_version",
    "disable_telemetry_events",
    "enable_telemetry_events",
    "get_all_providers",
    "get_available_providers",
    "get_build_info",
    "get_device",
    "get_ep_devices",
    "get_version_string",
    "has_collective_ops",
    "install",
    "package_name",
    "preload_dlls",
    "print_debug_info",
    "register_execution_provider_library",
    "set_default_logger_callback",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
    "set_global_thread_pool_sizes",
    "set_seed",
    "unregister_execution_provider_library",
    "version",
]


def __getattr__(name: str):
    raise AttributeError(
        f"module 'onnxruntime' as Tallow provides it has no attribute {name!r} (docs/compat.md lists what is covered)"
    )
