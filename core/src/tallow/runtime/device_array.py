"""Arrays in the memory of a device: results that stay there, and inputs put there once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tallow.errors import InputError

if TYPE_CHECKING:
    from tallow.backend import Device


class DeviceArray:
    """An array that lies on a device. Its elements never change; `numpy()` gives them to the host.

    Executables on the same device take it for an input without a copy. It has `shape`, `dtype`, `ndim`,
    `size` and `nbytes` as numpy's arrays do, and dlpack where the device's memory has such a form.
    """

    __slots__ = ("device", "memory", "shape", "dtype")

    def __init__(self, device: Device, memory: object, shape: tuple[int, ...], dtype: np.dtype):
        self.device, self.memory, self.shape, self.dtype = device, memory, tuple(shape), dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def reshape(self, shape: tuple[int, ...]) -> DeviceArray:
        """The same elements in the same order under another shape; nothing is copied."""
        if math.prod(shape) != self.size:
            raise InputError(f"reshape of a device array: expected {self.size} elements, got shape {shape}")
        return DeviceArray(self.device, self.memory, shape, self.dtype)

    def numpy(self, out: np.ndarray | None = None) -> np.ndarray:
        """The elements on the host, once they are computed: copied into `out` or a fresh array; where the
        device is the host, without `out`, the very memory."""
        if out is None and self.device.is_host:
            return self.memory.reshape(-1).view(np.uint8)[: self.nbytes].view(self.dtype).reshape(self.shape)
        array = np.empty(self.shape, self.dtype) if out is None else out
        if array.nbytes:
            self.device.download(self.memory, array)
        return array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False and not self.device.is_host:
            raise ValueError(f"an array on {self.device.info.name} comes to the host only by a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=bool(copy))

    def __dlpack__(self, **options):
        return self._exported().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._exported().__dlpack_device__()

    def __getattr__(self, name: str):
        """Interfaces by which other libraries take arrays of the device, where its memory has them."""
        if name.endswith("_array_interface__") and not self.device.is_host:
            found = self.device.export(self.memory, self.shape, self.dtype)
            if hasattr(found, name):
                return getattr(found, name)
        raise AttributeError(f"a DeviceArray has no {name}")

    def _exported(self):
        found = self.device.export(self.memory, self.shape, self.dtype)
        if found is None:
            raise BufferError(f"memory of {self.device.info.name} has no dlpack form: take numpy() of it")
        return found

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        return f"<DeviceArray {self.dtype}[{shape}] on {self.device.info.name}>"
