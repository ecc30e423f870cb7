"""Arrays of other libraries on the same GPU, in and out with no copy: dlpack and `__cuda_array_interface__`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALIGNMENT = 64  # of all memory of a device
ON_GPU = 2  # dlpack's kDLCUDA


def dtype_is_known(dtype: np.dtype) -> bool:
    """Whether cupy has arrays of a dtype: numpy's own, ml_dtypes' bfloat16 not among them."""
    return dtype.kind in "biufc"


@dataclass(frozen=True, slots=True)
class Exported:
    """Memory of a device as an array of cupy's, which speaks for it. Takers' streams are made to wait for
    the device's."""

    device: object
    memory: object
    shape: tuple[int, ...]
    dtype: np.dtype

    def array(self):
        return self.device.cupy.ndarray(self.shape, self.dtype, self.memory)

    def __dlpack__(self, **options):
        with self.device.current():
            return self.array().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return ON_GPU, self.device.number

    @property
    def __cuda_array_interface__(self) -> dict:
        with self.device.current():
            return self.array().__cuda_array_interface__


class Adopted:
    """Another library's memory as a device's: its owner may free it when it is dropped here and the kernels
    that read it are done."""

    __slots__ = ("device", "array", "ptr", "__weakref__")

    def __init__(self, device, array):
        self.device, self.array, self.ptr = device, array, array.data.ptr

    @classmethod
    def of(cls, device, value: object):
        """Memory, shape and dtype of an array on the device, or None. The device's stream waits for the one
        that made it; an array with gaps, in another order or not aligned is copied on the
        device."""
        cupy = device.cupy
        if getattr(value, "__dlpack_device__", None) is not None:
            kind, number = value.__dlpack_device__()
            if (int(kind), number) != (ON_GPU, device.number):
                return None
            array = cupy.from_dlpack(value)
        elif hasattr(value, "__cuda_array_interface__"):
            array = cupy.asarray(value)
            if array.device.id != device.number:
                return None
        else:
            return None
        shape = array.shape
        array = cupy.ascontiguousarray(array).reshape(shape)
        if array.data.ptr % ALIGNMENT:
            array = array.copy()
        return cls(device, array), array.shape, array.dtype

    def __del__(self):
        self.device.keep(self.array)
