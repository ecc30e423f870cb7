"""The memory that kernels work on: the host's own, or a device's with copies to and fro.

A value of a run is an array of the host or a `DeviceArray`. A `Memory` says where a value's elements are
for kernels and brings values to the side that needs them, so that the machine knows one kind of device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from tallow.backend import Device
from tallow.errors import Unavailable
from tallow.runtime.device_array import DeviceArray

Value = np.ndarray | DeviceArray


class Memory(Protocol):
    """What the machine asks of a device's memory."""

    device: Device

    def place(self, value: Value) -> tuple[object, int]:
        """The memory where kernels find the value, to be held as long as they may run, and its address."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, given: np.ndarray | None) -> tuple[Value, int]:
        """A result for kernels to write, and its address; `given` is the caller's array for it."""

    def part(self, memory: object, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Value:
        """The elements that lie in `memory` from byte `offset` on."""

    def keep(self, value: Value) -> DeviceArray:
        """The value as an array that stays on the device."""


class HostMemory:
    """A device that works on the host's memory: every value is a numpy array, used where it lies."""

    def __init__(self, device: Device):
        self.device = device

    def place(self, value: np.ndarray) -> tuple[object, int]:
        return value, value.__array_interface__["data"][0] if value.size else value.ctypes.data

    def empty(
        self, shape: tuple[int, ...], dtype: np.dtype, given: np.ndarray | None
    ) -> tuple[np.ndarray, int]:
        return self.place(np.empty(shape, dtype) if given is None else given)

    def part(self, memory: np.ndarray, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return memory[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def keep(self, value: Value) -> DeviceArray:
        array = value.numpy() if isinstance(value, DeviceArray) else value
        return DeviceArray(self.device, array, array.shape, array.dtype)


class DeviceMemory:
    """A device with memory of its own: arrays are uploaded for kernels, and their results stay there until
    the host reads them."""

    def __init__(self, device: Device):
        self.device = device

    def place(self, value: Value) -> tuple[object, int]:
        memory = value.memory if isinstance(value, DeviceArray) else self.device.upload(value)
        return memory, self.device.address(memory)

    def empty(
        self, shape: tuple[int, ...], dtype: np.dtype, given: np.ndarray | None
    ) -> tuple[DeviceArray, int]:
        memory = self.device.allocate(math.prod(shape) * dtype.itemsize)
        return DeviceArray(self.device, memory, shape, dtype), self.device.address(memory)

    def part(self, memory: object, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        size = math.prod(shape) * dtype.itemsize
        return DeviceArray(self.device, self.device.part(memory, offset, size), shape, dtype)

    def keep(self, value: Value) -> DeviceArray:
        if isinstance(value, DeviceArray):
            if value.device is self.device:
                return value
            value = value.numpy()
        return DeviceArray(self.device, self.device.upload(value), value.shape, value.dtype)


def memory_of(device: Device) -> Memory:
    return HostMemory(device) if device.is_host else DeviceMemory(device)


class Constants:
    """The constants of a program and its regions: arrays of the host, put on the device once."""

    def __init__(self, memory: Memory, arrays: Mapping[str, np.ndarray]):
        self.memory, self.arrays = memory, arrays
        self._placed: dict[str, tuple[object, int]] = {}

    def address(self, key: str) -> int:
        """Where kernels find a constant; Unavailable where the device has no memory for it."""
        if key not in self._placed:
            try:
                self._placed[key] = self.memory.place(np.ascontiguousarray(self.arrays[key]))
            except MemoryError as error:
                where = self.memory.device.info.name
                raise Unavailable(
                    f"the model's constants do not fit: {error}. Expected a device with more memory than {where}"
                ) from None
        return self._placed[key][1]

    def value(self, key: str) -> Value:
        """A constant as regions take it for their kernels."""
        array = self.arrays[key]
        if self.memory.device.is_host:
            return array
        self.address(key)
        return DeviceArray(self.memory.device, self._placed[key][0], array.shape, array.dtype)
