"""onnxruntime.capi.onnxruntime_inference_collection: sessions, values and bindings."""

from tallow.compat.onnxruntime.binding import IOBinding
from tallow.compat.onnxruntime.providers import check_and_normalize_provider_args
from tallow.compat.onnxruntime.refused import AdapterFormat, ModelCompiler, SparseTensor
from tallow.compat.onnxruntime.session import InferenceSession, Session
from tallow.compat.onnxruntime.values import OrtDevice, OrtDeviceVendorId, OrtValue, copy_tensors

__all__ = [
    "AdapterFormat",
    "IOBinding",
    "InferenceSession",
    "ModelCompiler",
    "OrtDevice",
    "OrtDeviceVendorId",
    "OrtValue",
    "Session",
    "SparseTensor",
    "check_and_normalize_provider_args",
    "copy_tensors",
]
