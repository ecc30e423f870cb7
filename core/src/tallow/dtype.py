"""Element types: a closed table that numpy and ml_dtypes carry."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tallow.errors import GraphError

Kind = Literal["float", "int", "uint", "bool", "complex", "string"]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type. `bits` is its width in the type's own terms; `numpy` is what carries it, named
    by `carrier` there or in ml_dtypes."""

    name: str
    kind: Kind
    bits: int
    carrier: str

    @property
    def numpy(self) -> np.dtype:
        return _carrier(self.carrier)

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


@functools.cache
def _carrier(name: str) -> np.dtype:
    module, _, own = name.rpartition(".")
    # ml_dtypes takes a while to import, and most models have none of its types.
    return np.dtype(getattr(importlib.import_module(module) if module else np, own))


f64 = DType("f64", "float", 64, "float64")
f32 = DType("f32", "float", 32, "float32")
f16 = DType("f16", "float", 16, "float16")
bf16 = DType("bf16", "float", 16, "ml_dtypes.bfloat16")
f8e4m3 = DType("f8e4m3", "float", 8, "ml_dtypes.float8_e4m3fn")
f8e4m3fnuz = DType("f8e4m3fnuz", "float", 8, "ml_dtypes.float8_e4m3fnuz")
f8e5m2 = DType("f8e5m2", "float", 8, "ml_dtypes.float8_e5m2")
f8e5m2fnuz = DType("f8e5m2fnuz", "float", 8, "ml_dtypes.float8_e5m2fnuz")
f8e8m0 = DType("f8e8m0", "float", 8, "ml_dtypes.float8_e8m0fnu")
f4e2m1 = DType("f4e2m1", "float", 4, "ml_dtypes.float4_e2m1fn")
i64 = DType("i64", "int", 64, "int64")
i32 = DType("i32", "int", 32, "int32")
i16 = DType("i16", "int", 16, "int16")
i8 = DType("i8", "int", 8, "int8")
i4 = DType("i4", "int", 4, "ml_dtypes.int4")
i2 = DType("i2", "int", 2, "ml_dtypes.int2")
u64 = DType("u64", "uint", 64, "uint64")
u32 = DType("u32", "uint", 32, "uint32")
u16 = DType("u16", "uint", 16, "uint16")
u8 = DType("u8", "uint", 8, "uint8")
u4 = DType("u4", "uint", 4, "ml_dtypes.uint4")
u2 = DType("u2", "uint", 2, "ml_dtypes.uint2")
bool_ = DType("bool", "bool", 8, "bool_")
c64 = DType("c64", "complex", 64, "complex64")
c128 = DType("c128", "complex", 128, "complex128")
string = DType("string", "string", 64, "object_")

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
_BY_NUMPY = {row.numpy: row for row in DTYPES.values() if not row.carrier.startswith("ml_dtypes.")}


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
    if found is None and carrier.type.__module__ == "ml_dtypes":
        found = next((row for row in DTYPES.values() if row.carrier == f"ml_dtypes.{carrier.name}"), None)
    if found is None:
        raise GraphError(f"no dtype carries numpy's {carrier}: expected one of {', '.join(DTYPES)}")
    return found
