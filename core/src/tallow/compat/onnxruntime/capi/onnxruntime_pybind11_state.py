"""onnxruntime.capi.onnxruntime_pybind11_state: exceptions, and the classes that are not Python there."""

from tallow.compat.onnxruntime.binding import (
    IOBinding as SessionIOBinding,
)
from tallow.compat.onnxruntime.enumerations import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    OrtAllocatorType,
    OrtMemType,
    OrtSparseFormat,
)
from tallow.compat.onnxruntime.environment import (
    disable_telemetry_events,
    enable_telemetry_events,
    get_build_info,
    get_ep_devices,
    get_version_string,
    has_collective_ops,
    set_global_thread_pool_sizes,
    set_seed,
)
from tallow.compat.onnxruntime.errors import (
    DeviceReset,
    EngineError,
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    ModelLoadCanceled,
    ModelLoaded,
    ModelRequiresCompilation,
    NoModel,
    NoSuchFile,
    NotFound,
    NotImplemented,
    RuntimeException,
)
from tallow.compat.onnxruntime.interface import (
    ModelMetadata,
    NodeArg,
)
from tallow.compat.onnxruntime.memory import (
    OrtArenaCfg,
    OrtMemoryInfo,
    create_and_register_allocator,
    create_and_register_allocator_v2,
)
from tallow.compat.onnxruntime.options import (
    RunOptions,
    SessionOptions,
)
from tallow.compat.onnxruntime.providers import (
    get_all_providers,
    get_available_providers,
    get_device,
)
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
from tallow.compat.onnxruntime.session import (
    InferenceSession,
)
from tallow.compat.onnxruntime.values import (
    OrtDevice,
    OrtValue,
    OrtValueVector,
    copy_tensors,
)

__all__ = [
    "AdapterFormat",
    "DeviceReset",
    "EPFail",
    "EngineError",
    "ExecutionMode",
    "ExecutionOrder",
    "Fail",
    "GraphOptimizationLevel",
    "InferenceSession",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "LoraAdapter",
    "ModelCompiler",
    "ModelLoadCanceled",
    "ModelLoaded",
    "ModelMetadata",
    "ModelRequiresCompilation",
    "NoModel",
    "NoSuchFile",
    "NodeArg",
    "NotFound",
    "NotImplemented",
    "OrtAllocatorType",
    "OrtArenaCfg",
    "OrtDevice",
    "OrtMemType",
    "OrtMemoryInfo",
    "OrtSparseFormat",
    "OrtValue",
    "OrtValueVector",
    "RunOptions",
    "RuntimeException",
    "SessionIOBinding",
    "SessionOptions",
    "SparseTensor",
    "copy_tensors",
    "create_and_register_allocator",
    "create_and_register_allocator_v2",
    "disable_telemetry_events",
    "enable_telemetry_events",
    "get_all_providers",
    "get_available_providers",
    "get_build_info",
    "get_device",
    "get_ep_devices",
    "get_version_string",
    "has_collective_ops",
    "register_execution_provider_library",
    "set_default_logger_callback",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
    "set_global_thread_pool_sizes",
    "set_seed",
    "unregister_execution_provider_library",
]
