"""Element types: a closed table that numpy and ml_dtypes carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np

from tallow.errors import GraphError

Kind = Literal["float", "int", "uint", "bool", "complex", "string"]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type. `bits` is its width in the type's own terms; `numpy` is what carries it."""

    name: str
    kind: Kind
    bits: int
    numpy: np.dtype

    @property
    def itemsize(self) -> int:
        """Bytes that one element takes in memory (4-bit types take a whole byte)."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_signed(self) -> bool:
        return self.kind in ("int", "float")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self):
        return (dtype, (self.name,))


def _row(name: str, kind: Kind, bits: int, carrier) -> DType:
    return DType(name, kind, bits, np.dtype(carrier))


f64 = _row("f64", "float", 64, np.float64)
f32 = _row("f32", "float", 32, np.float32)
f16 = _row("f16", "float", 16, np.float16)
bf16 = _row("bf16", "float", 16, ml_dtypes.bfloat16)
f8e4m3 = _row("f8e4m3", "float", 8, ml_dtypes.float8_e4m3fn)
f8e4m3fnuz = _row("f8e4m3fnuz", "float", 8, ml_dtypes.float8_e4m3fnuz)
f8e5m2 = _row("f8e5m2", "float", 8, ml_dtypes.float8_e5m2)
f8e5m2fnuz = _row("f8e5m2fnuz", "float", 8, ml_dtypes.float8_e5m2fnuz)
f8e8m0 = _row("f8e8m0", "float", 8, ml_dtypes.float8_e8m0fnu)
f4e2m1 = _row("f4e2m1", "float", 4, ml_dtypes.float4_e2m1fn)
i64 = _row("i64", "int", 64, np.int64)
i32 = _row("i32", "int", 32, np.int32)
i16 = _row("i16", "int", 16, np.int16)
i8 = _row("i8", "int", 8, np.int8)
i4 = _row("i4", "int", 4, ml_dtypes.int4)
i2 = _row("i2", "int", 2, ml_dtypes.int2)
u64 = _row("u64", "uint", 64, np.uint64)
u32 = _row("u32", "uint", 32, np.uint32)
u16 = _row("u16", "uint", 16, np.uint16)
u8 = _row("u8", "uint", 8, np.uint8)
u4 = _row("u4", "uint", 4, ml_dtypes.uint4)
u2 = _row("u2", "uint", 2, ml_dtypes.uint2)
bool_ = _row("bool", "bool", 8, np.bool_)
c64 = _row("c64", "complex", 64, np.complex64)
c128 = _row("c128", "complex", 128, np.complex128)
string = _row("string", "string", 64, np.object_)

DTYPES: dict[str, DType] = {
    row.name: row
    for row in (
        *(f64, f32, f16, bf16),
        *(f8e4m3, f8e4m3fnuz, f8e5m2, f8e5m2fnuz, f8e8m0, f4e2m1),
        *(i64, i32, i16, i8, i4, i2),
        *(u64, u32, u16, u8, u4, u2),
        *(bool_, c64, c128, string),
    )
}
_BY_NUMPY = {row.numpy: row for row in DTYPES.values()}


def dtype(of: str | DType | np.dtype | type) -> DType:
    """The DType of a name (`"f32"`), a numpy dtype or a numpy scalar type; GraphError if there is none."""
    if isinstance(of, DType):
        return of
    if isinstance(of, str) and of in DTYPES:
        return DTYPES[of]
    try:
        carrier = np.dtype(of)
    except TypeError:
        raise GraphError(f"unknown dtype {of!r}: expected one of {', '.join(DTYPES)}") from None
    if carrier.kind in "US":
        return string
    found = _BY_NUMPY.get(carrier.newbyteorder("=") if carrier.kind in "fiuc" else carrier)
    if found is None:
        raise GraphError(f"no dtype carries numpy's {carrier}: expected one of {', '.join(DTYPES)}")
    return found
