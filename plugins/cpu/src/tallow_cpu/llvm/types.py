"""How dtypes look in LLVM: in registers, in memory, as constants.

f64 and f32 are LLVM's own; narrower floats stay bit patterns in integers, since arithmetic on them is
done in f32. 4-bit and 2-bit integers are sign- or zero-extended to 8 bits in registers.
"""

from __future__ import annotations

import struct

import numpy as np

from tallow.dtype import DType

_FLOATS = {"f64": "double", "f32": "float"}


def is_narrow(dtype: DType) -> bool:
    """Whether the dtype is a float that registers hold as a bit pattern."""
    return dtype.is_float and dtype.name not in _FLOATS


def register(dtype: DType) -> str:
    """The scalar type of a value in a register."""
    if dtype.kind == "bool":
        return "i1"
    return _FLOATS.get(dtype.name) or f"i{dtype.itemsize * 8}"


def memory(dtype: DType) -> str:
    """The scalar type of an element in memory."""
    return "i8" if dtype.kind == "bool" else register(dtype)


def suffix(dtype: DType, lanes: int = 1, scalar: str | None = None) -> str:
    """The part of an overloaded intrinsic's name that gives the type."""
    scalar = scalar or register(dtype)
    scalar = {"double": "f64", "float": "f32"}.get(scalar, scalar)
    return scalar if lanes == 1 else f"v{lanes}{scalar}"


def vector(scalar: str, lanes: int) -> str:
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def constant(value, dtype: DType, lanes: int = 1) -> str:
    """The text of a constant, the same in all lanes; floats are rounded to the dtype."""
    text = _scalar(value, dtype)
    return text if lanes == 1 else f"splat ({register(dtype)} {text})"


def _scalar(value, dtype: DType) -> str:
    if dtype.kind == "bool":
        return "true" if value else "false"
    if not dtype.is_float:
        return str(int(value))
    with np.errstate(over="ignore"):
        rounded = np.asarray(value, np.float64).astype(dtype.numpy)
    if is_narrow(dtype):
        return str(int(rounded.view(f"u{dtype.itemsize}")))
    return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
