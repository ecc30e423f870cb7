"""How dtypes look in LLVM: in registers, in memory, as constants."""

from __future__ import annotations

import struct

from tallow.dtype import DType

_FLOATS = {"f64": "double", "f32": "float", "f16": "half"}
BIT_STORED = ("bf16", "f8e4m3", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f8e8m0")  # floats kept as integers


def register(dtype: DType) -> str:
    """The scalar type of a value in a register."""
    if dtype.kind == "bool":
        return "i1"
    if dtype.name in _FLOATS:
        return _FLOATS[dtype.name]
    return f"i{dtype.itemsize * 8}"


def memory(dtype: DType) -> str:
    """The scalar type of an element in memory."""
    return "i8" if dtype.kind == "bool" else register(dtype)


def vector(scalar: str, lanes: int) -> str:
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def constant(value, dtype: DType, lanes: int = 1) -> str:
    """The text of a constant, the same in all lanes."""
    if dtype.kind == "bool":
        text = "true" if value else "false"
    elif dtype.name in ("f32", "f16"):
        rounded = struct.unpack("<f", struct.pack("<f", _clamp(value)))[0]
        text = f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
        if dtype.name == "f16":
            text = f"0xH{struct.unpack('<H', struct.pack('<e', rounded))[0]:04X}"
    elif dtype.name == "f64":
        text = f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    else:
        text = str(int(value))
    if lanes == 1:
        return text
    return "<" + ", ".join([f"{register(dtype)} {text}"] * lanes) + ">"


def _clamp(value: float) -> float:
    """Values beyond f32 become infinite, as rounding does."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value
