"""onnxruntime.capi._pybind_state: another name of onnxruntime_pybind11_state."""

from tallow.compat.onnxruntime.capi.onnxruntime_pybind11_state import *  # noqa: F403
