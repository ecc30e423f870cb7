"""Binding: arrays are checked against a program's inputs and give its size symbols their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tallow.backend import Device
from tallow.dim import evaluate, name_of
from tallow.dtype import DType, dtype
from tallow.errors import InputError, TallowError
from tallow.runtime import dlpack
from tallow.runtime.device_array import DeviceArray
from tallow.schedule.program import Program
from tallow.types import VARIES, MapType, OptionalType, SequenceType, TensorType, Type


class Bound(NamedTuple):
    """Inputs of the right dtype, arrays of the host among them C-contiguous, and the value of each size
    symbol."""

    arrays: tuple
    sizes: dict[str, int]


_ON_HOST = (1, 3, 11)  # dlpack's kDLCPU, kDLCUDAHost and kDLROCMHost


def as_array(value: object, name: str) -> np.ndarray:
    """Anything array-like as a numpy array of this machine's byte order, without a copy where numpy or
    dlpack allow."""
    if isinstance(value, DeviceArray):
        value = _from_device(value, name)
    if not isinstance(value, np.ndarray):
        value = _from_dlpack(value, name) if hasattr(value, "__dlpack__") else _from_python(value, name)
    return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))


def _from_device(value: DeviceArray, name: str) -> np.ndarray:
    if not value.device.is_host:
        raise InputError(f'input "{name}": it lies on {value.device.info.name}: give its numpy()')
    return value.numpy()


def _from_dlpack(value: object, name: str) -> np.ndarray:
    try:
        kind, _ = value.__dlpack_device__()
        if kind in _ON_HOST:
            return _of_host(value)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f'input "{name}": numpy cannot take it through dlpack ({error}): give a numpy array'
        ) from None
    raise InputError(f'input "{name}": it lies on another device (dlpack {kind}): move it to the CPU first')


def _of_host(value: object) -> np.ndarray:
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError):  # perhaps a dtype that numpy lacks
        array = dlpack.view(value)
        if array is None:
            raise
        return array


def _from_python(value: object, name: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f'input "{name}": expected an array, got {type(value).__name__} ({error})') from None


def bind_inputs(program: Program, values: Sequence[object], device: Device) -> Bound:
    """Checks and converts every input; InputError names the input, what was expected and what came.
    Arrays on `device` are taken as they are."""
    sizes: dict[str, int] = {}
    arrays = []
    for name, slot, value in zip(program.input_names, program.inputs, values, strict=True):
        arrays.append(_check(name, program.slots[slot].type, value, sizes, device))
    for name, slot, array in zip(program.input_names, program.inputs, arrays, strict=True):
        _check_derived(name, program.slots[slot].type, array, sizes)
    check_bounds(program, sizes, "compile with other dims")
    return Bound(tuple(arrays), sizes)


def check_bounds(program: Program, sizes: Mapping[str, int], advice: str) -> None:
    """InputError for a size outside the bounds that a program has for it."""
    for symbol, (low, high) in program.symbols.items():
        size = sizes.get(symbol)
        if size is not None and (size < low or (high is not None and size > high)):
            raise InputError(
                f"size {symbol} = {size} is outside {low}..{'' if high is None else high}: {advice}"
            )


def _check(name: str, expected: Type, value: object, sizes: dict[str, int], device: Device | None):
    """The value as the program takes it; sizes that it shows are learnt."""
    match expected:
        case SequenceType():
            if not isinstance(value, (list, tuple)):
                raise InputError(f'input "{name}": expected {expected} as a list, got {type(value).__name__}')
            return [_check(f"{name}[{i}]", expected.element, v, {}, None) for i, v in enumerate(value)]
        case OptionalType():
            return None if value is None else _check(name, expected.element, value, {}, None)
        case MapType():
            if not isinstance(value, Mapping):
                raise InputError(
                    f'input "{name}": expected {expected} as a dictionary, got {type(value).__name__}'
                )
            return dict(value)
    if device is not None and not device.is_host:
        value = _adopted(value, device)
    stays = isinstance(value, DeviceArray) and value.device is device and not device.is_host
    array = value if stays else as_array(value, name)
    _check_dtype(name, expected, value, array)
    if expected.dtype.kind == "string":
        array = as_strings(array)
    if isinstance(expected, TensorType):
        _check_shape(name, expected, array, sizes)
    if stays:
        return array
    return array if array.flags.c_contiguous and array.flags.aligned else np.ascontiguousarray(array)


def _adopted(value: object, device: Device) -> object:
    """Another library's array on the device as one of the device's; any other value as it is."""
    if isinstance(value, (DeviceArray, np.ndarray)):
        return value
    found = device.adopt(value)
    return value if found is None else DeviceArray(device, *found)


def as_strings(array: np.ndarray) -> np.ndarray:
    """An array of any kind of text as Python strings; bytes are UTF-8."""
    if array.dtype == object and all(type(v) is str for v in array.reshape(-1)):
        return array
    decoded = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in array.reshape(-1)]
    strings = np.empty(len(decoded), object)
    strings[:] = decoded
    return strings.reshape(array.shape)


def _check_dtype(name: str, expected: Type, value: object, array) -> None:
    fits = array.dtype == expected.dtype.numpy
    if not fits and not (expected.dtype.kind == "string" and array.dtype.kind in "OUS"):
        raise InputError(
            f'input "{name}": expected {expected}, got {_described(value, array)}: '
            f"convert it with {_conversion(value, expected.dtype)}"
        )


def _check_shape(name: str, expected: TensorType, array, sizes: dict[str, int]) -> None:
    if array.ndim != expected.rank:
        raise InputError(
            f'input "{name}": expected {expected} (rank {expected.rank}), got shape {array.shape}'
        )
    for axis, (dim, size) in enumerate(zip(expected.shape, array.shape, strict=True)):
        if isinstance(dim, int):
            if dim != size:
                raise InputError(
                    f'input "{name}": expected {expected}, got shape {array.shape} (axis {axis} must be {dim})'
                )
        elif dim != VARIES and (symbol := name_of(dim)) is not None:
            known = sizes.setdefault(symbol, size)
            if known != size:
                raise InputError(
                    f'input "{name}": axis {axis} is {symbol}, which is {known} in another input, got {size}'
                )


def _described(value: object, array) -> str:
    """What came, in Tallow's words where it has some."""
    if array.ndim == 0 and array.dtype == object:
        return type(value).__name__
    try:
        kind = str(dtype(array.dtype))
    except TallowError:
        kind = str(array.dtype)
    return f"dtype {kind}" if isinstance(value, np.ndarray) else f"a {type(value).__name__} of {kind}"


def _conversion(value: object, wanted: DType) -> str:
    if wanted.kind == "string":
        return "numpy.asarray(x, object)"
    call = ".astype({})" if isinstance(value, np.ndarray) else "numpy.asarray(x, {})"
    return call.format(repr(str(wanted.numpy)))


def _check_derived(name: str, expected, array, sizes: dict[str, int]) -> None:
    """Sizes that are expressions of other sizes must agree with what came."""
    if not isinstance(expected, TensorType):
        return
    for axis, dim in enumerate(expected.shape):
        if isinstance(dim, int) or name_of(dim) is not None:
            continue
        try:
            wanted = evaluate(dim, sizes)
        except TallowError as error:
            raise InputError(f'input "{name}": axis {axis} is {dim}: {error}') from None
        if wanted != array.shape[axis]:
            raise InputError(f'input "{name}": axis {axis} is {dim} = {wanted}, got {array.shape[axis]}')
