"""OrtValue and OrtDevice: values with a place in memory, which here is always the host's."""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import numpy as np

from tallow.compat.onnxruntime.kinds import NUMBER, element_dtype, type_word
from tallow.dtype import DType, dtype
from tallow.graph import TensorType, Type, UnrankedType

_TYPES = {"cpu": 0, "cuda": 1, "gpu": 1, "dml": 1, "webgpu": 1, "npu": 3, "cann": 3}
_VENDORS = {"cuda": 0x10DE, "dml": 0x1414, "cann": 0x19E5}


class OrtDeviceVendorId(IntEnum):
    NONE = 0x0000
    AMD = 0x1002
    NVIDIA = 0x10DE
    ARM = 0x13B5
    MICROSOFT = 0x1414
    HUAWEI = 0x19E5
    QUALCOMM = 0x5143
    INTEL = 0x8086


class OrtDevice:
    """The name of a device: OrtDevice(another), OrtDevice(type, memory, number) or (type, memory, vendor, number)."""

    def __init__(self, *parts):
        if len(parts) == 1:
            parts = parts[0]._parts
        if len(parts) not in (3, 4):
            raise TypeError(
                f"OrtDevice(...): expected a device, or 3 or 4 numbers, got {len(parts)} arguments"
            )
        kind, memory, *rest = map(operator.index, parts)
        self._parts = (kind, memory, *(rest if len(rest) == 2 else (0, *rest)))

    @staticmethod
    def make(ort_device_name: str, device_id: int, vendor_id: int = -1) -> OrtDevice:
        if ort_device_name not in _TYPES:
            raise Exception(f"Unsupported device type: {ort_device_name}")
        vendor = _VENDORS.get(ort_device_name, 0) if vendor_id < 0 else vendor_id
        return OrtDevice(_TYPES[ort_device_name], OrtDevice.default_memory(), vendor, device_id)

    def device_id(self) -> int:
        return self._parts[3]

    def device_type(self) -> int:
        return self._parts[0]

    def device_vendor_id(self) -> int:
        return self._parts[2]

    def device_mem_type(self) -> int:
        return self._parts[1]

    def _get_c_device(self) -> OrtDevice:
        return self

    @staticmethod
    def cpu() -> int:
        return 0

    @staticmethod
    def cuda() -> int:
        return 1

    @staticmethod
    def gpu() -> int:
        return 1

    @staticmethod
    def fpga() -> int:
        return 2

    @staticmethod
    def npu() -> int:
        return 3

    @staticmethod
    def cann() -> int:
        return 3

    @staticmethod
    def dml() -> int:
        return 4

    @staticmethod
    def webgpu() -> int:
        return 1

    @staticmethod
    def default_memory() -> int:
        return 0


def need_host(device_type: str, device_id: int = 0, vendor_id: int = -1) -> None:
    """RuntimeError for memory of another device: a program hands it over as an address, and no Tallow
    device takes those."""
    if OrtDevice.make(device_type, device_id, vendor_id).device_type() != OrtDevice.cpu():
        raise RuntimeError(
            f"Can't use memory of the device {device_type!r}: values and bindings lie in the host's memory, "
            "whatever device the session runs on; use 'cpu'"
        )


class OrtValue:
    """A tensor, sequence, map or absent optional. A tensor made from a numpy array is that array."""

    def __init__(self, ortvalue: OrtValue, numpy_obj: np.ndarray | None = None):
        """Another name of a value; `numpy_obj` is what it was made from, which onnxruntime keeps alive by it."""
        if not isinstance(ortvalue, OrtValue):
            raise ValueError(
                "`Provided ortvalue` needs to be of type `onnxruntime.capi.onnxruntime_pybind11_state.OrtValue`"
            )
        self._value, self._type = ortvalue._value, ortvalue._type

    @classmethod
    def _of(cls, value: object, type_: Type | DType) -> OrtValue:
        made = cls.__new__(cls)
        made._value, made._type = value, type_
        return made

    @classmethod
    def ortvalue_from_numpy(cls, numpy_obj, /, device_type="cpu", device_id=0, vendor_id=-1) -> OrtValue:
        need_host(device_type, device_id, vendor_id)
        if not isinstance(numpy_obj, np.ndarray) or numpy_obj.dtype.kind in "OUS":
            raise RuntimeError(
                "Creation of OrtValues is currently only supported from non-string numpy arrays"
            )
        array = numpy_obj if numpy_obj.flags.c_contiguous else np.ascontiguousarray(numpy_obj)
        return cls._of(array, element_dtype(array.dtype))

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(cls, data: np.ndarray, /, onnx_element_type: int) -> OrtValue:
        """The bytes of an array as another type of the same width, without a copy."""
        kind = element_dtype(int(onnx_element_type))
        if kind.itemsize != data.dtype.itemsize:
            raise RuntimeError(f"an array of {data.dtype} cannot be read as {type_word(kind)}")
        return cls._of(data.view(kind.numpy), kind)

    @classmethod
    def ortvalue_from_shape_and_type(
        cls,
        shape: Sequence[int],
        element_type,
        device_type="cpu",
        device_id=0,
        vendor_id=-1,
        memory_info=None,
    ) -> OrtValue:
        """Memory for a tensor; what is in it is whatever was there."""
        need_host(device_type, device_id, vendor_id)
        kind = element_dtype(element_type)
        if kind.kind == "string":
            raise RuntimeError(
                "Creation of OrtValues is currently only supported from non-string numpy arrays"
            )
        sizes = tuple(map(operator.index, shape))
        if any(size < 0 for size in sizes):
            raise RuntimeError(f"Tensor shape cannot contain any negative value: {list(sizes)}")
        return cls._of(np.empty(sizes, kind.numpy), kind)

    @classmethod
    def from_dlpack(cls, data, /) -> OrtValue:
        """The tensor of an object with `__dlpack__`, or of a capsule that such a method gave, without a copy."""
        if type(data).__name__ == "PyCapsule":
            data = _Capsule(data)
        if not hasattr(data, "__dlpack__"):
            raise TypeError(f"expected an object with __dlpack__ or its capsule, got {type(data)}")
        array = np.from_dlpack(data)
        if not array.flags.writeable and array.flags.c_contiguous and isinstance(data, _Capsule):
            array = at_address(array.ctypes.data, array.shape, dtype(array.dtype), array)  # may be written to
        return cls._of(array, dtype(array.dtype))

    @classmethod
    def ort_value_from_sparse_tensor(cls, sparse_tensor) -> OrtValue:
        raise RuntimeError("sparse tensors are not supported: give a dense array")

    def as_sparse_tensor(self):
        raise RuntimeError("sparse tensors are not supported: this value is none")

    def _tensor(self) -> np.ndarray:
        if not self.is_tensor():
            raise RuntimeError(f"Only OrtValues that are Tensors have this, got {self.data_type()}")
        return self._value

    def numpy(self) -> np.ndarray:
        """The tensor itself; 8-bit floats as their bits, bfloat16 as ml_dtypes carries it."""
        array = self._tensor()
        kind = dtype(array.dtype)
        return array.view(np.uint8) if kind.is_float and kind.bits == 8 else array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = self.numpy()
        if copy is not None:
            return np.array(array, dtype=dtype, copy=copy)
        return array if dtype is None else np.asarray(array, dtype=dtype)

    def __dlpack__(self, *, stream=None):
        return self._tensor().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._tensor().__dlpack_device__()

    def to_dlpack(self):
        return self.__dlpack__()

    def data_ptr(self) -> int:
        return self._tensor().ctypes.data

    def device_name(self) -> str:
        return "cpu"

    def shape(self) -> list[int]:
        return list(self._tensor().shape)

    def data_type(self) -> str:
        return type_word(self._type)

    def element_type(self) -> int:
        return NUMBER[dtype(self._tensor().dtype)]

    def tensor_size_in_bytes(self) -> int:
        return self._tensor().nbytes

    def has_value(self) -> bool:
        return self._value is not None

    def is_tensor(self) -> bool:
        return isinstance(self._value, np.ndarray)

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return isinstance(self._value, list)

    def update_inplace(self, data) -> None:
        """Writes other elements into this tensor's memory."""
        source = data._tensor() if isinstance(data, OrtValue) else data
        if not isinstance(source, np.ndarray):
            raise TypeError("data must be a numpy.ndarray or an OrtValue.")
        target = self._tensor()
        if source.dtype != target.dtype or source.size != target.size:
            raise RuntimeError(
                f"The input size of numpy arrays does not match the size of the OrtValue: got {source.dtype} "
                f"{list(source.shape)}, it is {target.dtype} {list(target.shape)}"
            )
        target[...] = source.reshape(target.shape)

    def _get_c_value(self) -> OrtValue:
        return self

    @property
    def _ortvalue(self) -> OrtValue:
        return self

    @property
    def _numpy_obj(self) -> object:
        return self._value


class _Capsule:
    """A tensor of the host's memory that is at hand as a capsule of DLPack alone."""

    def __init__(self, capsule: object):
        self._capsule = capsule

    def __dlpack__(self, **kwargs) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class OrtValueVector(list):
    """OrtValues in a row, as `run_with_ortvaluevector` takes and fills them."""

    def push_back(self, value: object) -> None:
        """Adds an OrtValue, or a tensor of DLPack."""
        self.append(value if isinstance(value, OrtValue) else OrtValue.from_dlpack(value))

    def reserve(self, count: int) -> None:
        """Lists grow by themselves."""

    def shrink_to_fit(self) -> None:
        """Lists shrink by themselves."""

    def element_type_at(self, idx: int) -> int:
        return self[idx].element_type()

    def dlpack_at(self, idx: int):
        return self[idx].to_dlpack()

    def to_dlpacks(self, to_tensor: Callable | None) -> list:
        """Capsules of all values, or what `to_tensor` makes of each."""
        capsules = (value.to_dlpack() for value in self)
        return list(capsules if to_tensor is None else map(to_tensor, capsules))


def at_address(address: int, shape: Sequence[int], kind: DType, owner: object = None) -> np.ndarray:
    """The array at an address, which stays its owner's; one that is given lives as long as the array."""
    size = math.prod(shape) * kind.itemsize
    if not size:
        return np.empty(tuple(shape), kind.numpy)
    memory = (ctypes.c_byte * size).from_address(address)
    memory.owner = owner
    return np.frombuffer(memory, kind.numpy).reshape(tuple(shape))


def of_result(value: object, type_: Type) -> OrtValue:
    """A result of a run as an OrtValue."""
    tensor = isinstance(type_, (TensorType, UnrankedType))
    return OrtValue._of(np.asarray(value) if tensor else value, type_)


def copy_tensors(src: Sequence[OrtValue], dst: Sequence[OrtValue], stream=None) -> None:
    """Copies each tensor of `src` into the one of `dst` at its place."""
    for source, target in zip(src, dst, strict=True):
        target.update_inplace(source)


def plain(feed: Mapping[str, object]) -> dict[str, object]:
    """A feed with what its OrtValues hold."""
    return {name: value._value if isinstance(value, OrtValue) else value for name, value in feed.items()}
