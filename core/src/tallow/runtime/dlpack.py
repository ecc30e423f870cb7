"""dlpack for the dtypes that numpy itself does not take: bfloat16 and the 8-bit floats, as views.

Source: dlpack.h 1.1, github.com/dmlc/dlpack.
"""

from __future__ import annotations

import ctypes

import numpy as np

from tallow.dtype import DTYPES

CODES = {
    (4, 16): "bf16",
    (10, 8): "f8e4m3",
    (11, 8): "f8e4m3fnuz",
    (12, 8): "f8e5m2",
    (13, 8): "f8e5m2fnuz",
    (14, 8): "f8e8m0",
}


class _Tensor(ctypes.Structure):
    """DLTensor, which a DLManagedTensor begins with."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p


def view(value: object) -> np.ndarray | None:
    """The array of a host object's dlpack capsule, when its dtype is one of CODES; else None.

    The capsule is not taken over but kept as long as the array, and frees the memory when it goes.
    """
    capsule = value.__dlpack__()
    tensor = _Tensor.from_address(_pointer(capsule, b"dltensor"))
    name = CODES.get((tensor.code, tensor.bits))
    if name is None or tensor.lanes != 1:
        return None
    carrier = DTYPES[name].numpy
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    if 0 in shape:
        return np.empty(shape, carrier)
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape)))
    if min(strides, default=0) < 0:
        return None
    count = 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    memory = (ctypes.c_uint8 * (count * carrier.itemsize)).from_address(tensor.data + tensor.byte_offset)
    memory.owner = capsule
    steps = tuple(stride * carrier.itemsize for stride in strides)
    return np.ndarray(shape, carrier, memory, strides=steps)
