"""Types in onnxruntime's words: `tensor(float)`, ONNX's numbers of element types, and arrays as it hands them out."""

from __future__ import annotations

import numpy as np

from tallow.dtype import DTYPES, DType, dtype
from tallow.errors import GraphError
from tallow.graph import MapType, OptionalType, SequenceType, TensorType, Type, UnrankedType

_ROWS = (  # ONNX's number of an element type, our name, its name
    (1, "f32", "float"),
    (2, "u8", "uint8"),
    (3, "i8", "int8"),
    (4, "u16", "uint16"),
    (5, "i16", "int16"),
    (6, "i32", "int32"),
    (7, "i64", "int64"),
    (8, "string", "string"),
    (9, "bool", "bool"),
    (10, "f16", "float16"),
    (11, "f64", "double"),
    (12, "u32", "uint32"),
    (13, "u64", "uint64"),
    (14, "c64", "complex64"),
    (15, "c128", "complex128"),
    (16, "bf16", "bfloat16"),
    (17, "f8e4m3", "float8e4m3fn"),
    (18, "f8e4m3fnuz", "float8e4m3fnuz"),
    (19, "f8e5m2", "float8e5m2"),
    (20, "f8e5m2fnuz", "float8e5m2fnuz"),
    (21, "u4", "uint4"),
    (22, "i4", "int4"),
    (23, "f4e2m1", "float4e2m1"),
    (24, "f8e8m0", "float8e8m0"),
    (25, "u2", "uint2"),
    (26, "i2", "int2"),
)
NUMBER = {DTYPES[ours]: number for number, ours, _ in _ROWS}
WORD = {DTYPES[ours]: word for _, ours, word in _ROWS}
OF_NUMBER = {number: DTYPES[ours] for number, ours, _ in _ROWS}


def type_word(of: Type | DType) -> str:
    """`tensor(float)`, `seq(map(int64,tensor(float)))`."""
    match of:
        case SequenceType():
            return f"seq({type_word(of.element)})"
        case OptionalType():
            return f"optional({type_word(of.element)})"
        case MapType():
            return f"map({WORD[of.key]},{type_word(of.element)})"
    return f"tensor({WORD[of if isinstance(of, DType) else of.dtype]})"


def element_dtype(of: object) -> DType:
    """The DType of a numpy type or of ONNX's number; RuntimeError for what is neither."""
    if isinstance(of, (int, np.integer)) and not isinstance(of, bool):
        if int(of) in OF_NUMBER:
            return OF_NUMBER[int(of)]
        raise RuntimeError(f"{of} is not the number of an ONNX element type")
    try:
        return dtype(of)
    except GraphError as refused:
        raise RuntimeError(f"element type {of!r}: {refused}") from None


def handed_out(value: object, of: Type) -> object:
    """A result as onnxruntime gives it: 8-bit floats as their bits, keys and values of maps as Python's."""
    match of:
        case TensorType() | UnrankedType():
            return value.view(np.uint8) if of.dtype.is_float and of.dtype.bits == 8 else value
        case OptionalType():
            return None if value is None else handed_out(value, of.element)
        case SequenceType():
            return [handed_out(element, of.element) for element in value]
        case MapType():
            return {_plain(key): _plain(element) for key, element in value.items()}
    return value


def _plain(value: object) -> object:
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value
