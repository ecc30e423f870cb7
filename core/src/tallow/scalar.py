"""The scalar functions: one row each, shared by graph operators and the kernel language.

A row gives the name, how many operands of which kinds, the result's dtype and the numpy meaning.
Floats follow IEEE 754; integers wrap; `max` and `min` propagate NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tallow.dtype import DType, bool_

FLOAT = frozenset({"float"})
INTEGER = frozenset({"int", "uint"})
NUMBER = FLOAT | INTEGER
LOGICAL = frozenset({"bool"})
ANY = NUMBER | LOGICAL
EVERYTHING = ANY | {"complex", "string"}


@dataclass(frozen=True, slots=True)
class ScalarFunction:
    """`result` is "same" (as the last operand) or "bool". `select` alone takes a bool first operand.
    `flops` is what profiles count for one application."""

    name: str
    arity: int
    kinds: frozenset[str]
    numpy: Callable[..., np.ndarray]
    result: str = "same"
    flops: int = 1

    def result_dtype(self, operand: DType) -> DType:
        return bool_ if self.result == "bool" else operand


def _erf(x: np.ndarray) -> np.ndarray:
    wide = np.asarray(x, np.float64)
    return _ERF(wide).astype(x.dtype) if wide.size else x.copy()


_ERF = np.vectorize(math.erf, otypes=[np.float64])


def _div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """True division of floats; C's division (towards zero) of integers, with x / 0 = 0."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    quotient = np.floor_divide(a, safe)
    if a.dtype.kind == "i":
        quotient = quotient + ((a - quotient * safe != 0) & ((a < 0) != (safe < 0)))
    return np.where(b == 0, 0, quotient).astype(a.dtype)


def _mod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Python's remainder (sign of the divisor); x mod 0 = 0 for integers."""
    return np.mod(a, b) if a.dtype.kind not in "iu" else _nonzero(np.mod, a, b)


def _fmod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """C's remainder (sign of the dividend); 0 for an integer divisor of 0."""
    return np.fmod(a, b) if a.dtype.kind not in "iu" else _nonzero(np.fmod, a, b)


def _nonzero(function, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    return np.where(b == 0, 0, function(a, safe)).astype(a.dtype)


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Floats as C's pow; an integer to a negative power is its truncated reciprocal."""
    if a.dtype.kind not in "iu":
        return np.power(a, b)
    negative = b < 0
    power = np.power(a, np.where(negative, 0, b).astype(b.dtype))
    inverse = np.where(
        a == 1, 1, np.where((a == -1) if a.dtype.kind == "i" else False, np.where(b % 2, -1, 1), 0)
    )
    return np.where(negative, inverse, power).astype(a.dtype)


def _shift_left(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shifts by the width or more, or by a negative number, give 0."""
    width = a.dtype.itemsize * 8
    inside = (b >= 0) & (b < width)
    return np.where(inside, np.left_shift(a, np.where(inside, b, 0).astype(b.dtype)), 0).astype(a.dtype)


def _shift_right(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Arithmetic for signed numbers; too far a shift leaves the sign alone."""
    width = a.dtype.itemsize * 8
    inside = (b >= 0) & (b < width)
    return (
        np.right_shift(a, np.where(inside, b, width - 1).astype(b.dtype))
        if a.dtype.kind == "i"
        else np.where(inside, np.right_shift(a, np.where(inside, b, 0).astype(b.dtype)), 0).astype(a.dtype)
    )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c rounded once (exactly so up to f32; f64 is rounded twice here)."""
    if a.dtype.kind in "iu":
        return a * b + c
    wide = np.float64 if a.dtype.itemsize < 8 else np.longdouble
    return (a.astype(wide) * b.astype(wide) + c.astype(wide)).astype(a.dtype)


def _dot_bytes(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """c plus the products of the bytes of a, unsigned, with those of b, signed; lowest bits first."""
    total = np.array(c)
    for shift in range(0, 8 * total.dtype.itemsize, 8):
        left, right = (np.right_shift(x, np.asarray(shift, x.dtype)) for x in (a, b))
        total = total + left.astype(np.uint8).astype(c.dtype) * right.astype(np.int8).astype(c.dtype)
    return total


_ROWS = (
    ScalarFunction("add", 2, NUMBER | {"complex"}, np.add),
    ScalarFunction("sub", 2, NUMBER | {"complex"}, np.subtract),
    ScalarFunction("mul", 2, NUMBER | {"complex"}, np.multiply),
    ScalarFunction("div", 2, NUMBER | {"complex"}, _div),
    ScalarFunction("mod", 2, NUMBER, _mod),
    ScalarFunction("fmod", 2, NUMBER, _fmod),
    ScalarFunction("pow", 2, NUMBER, _pow, flops=10),
    ScalarFunction("max", 2, NUMBER, np.maximum),
    ScalarFunction("min", 2, NUMBER, np.minimum),
    ScalarFunction("atan2", 2, FLOAT, np.arctan2, flops=10),
    ScalarFunction("fma", 3, NUMBER, _fma, flops=2),
    ScalarFunction("neg", 1, NUMBER | {"complex"}, np.negative),
    ScalarFunction("abs", 1, NUMBER, np.abs),
    ScalarFunction("sign", 1, NUMBER, np.sign),
    ScalarFunction("floor", 1, FLOAT, np.floor),
    ScalarFunction("ceil", 1, FLOAT, np.ceil),
    ScalarFunction("trunc", 1, FLOAT, np.trunc),
    ScalarFunction("round", 1, FLOAT, np.rint),  # half to even
    ScalarFunction("sqrt", 1, FLOAT, np.sqrt),
    ScalarFunction("rsqrt", 1, FLOAT, lambda x: (1 / np.sqrt(x)).astype(x.dtype), flops=2),
    ScalarFunction("reciprocal", 1, FLOAT, lambda x: (1 / x).astype(x.dtype)),
    ScalarFunction("exp", 1, FLOAT, np.exp, flops=8),
    ScalarFunction("exp2", 1, FLOAT, np.exp2, flops=8),
    ScalarFunction("expm1", 1, FLOAT, np.expm1, flops=8),
    ScalarFunction("log", 1, FLOAT, np.log, flops=8),
    ScalarFunction("log2", 1, FLOAT, np.log2, flops=8),
    ScalarFunction("log1p", 1, FLOAT, np.log1p, flops=8),
    ScalarFunction("sigmoid", 1, FLOAT, _sigmoid, flops=10),
    ScalarFunction("tanh", 1, FLOAT, np.tanh, flops=10),
    ScalarFunction("erf", 1, FLOAT, _erf, flops=12),
    ScalarFunction("sin", 1, FLOAT, np.sin, flops=10),
    ScalarFunction("cos", 1, FLOAT, np.cos, flops=10),
    ScalarFunction("tan", 1, FLOAT, np.tan, flops=10),
    ScalarFunction("asin", 1, FLOAT, np.arcsin, flops=10),
    ScalarFunction("acos", 1, FLOAT, np.arccos, flops=10),
    ScalarFunction("atan", 1, FLOAT, np.arctan, flops=10),
    ScalarFunction("sinh", 1, FLOAT, np.sinh, flops=10),
    ScalarFunction("cosh", 1, FLOAT, np.cosh, flops=10),
    ScalarFunction("asinh", 1, FLOAT, np.arcsinh, flops=10),
    ScalarFunction("acosh", 1, FLOAT, np.arccosh, flops=10),
    ScalarFunction("atanh", 1, FLOAT, np.arctanh, flops=10),
    ScalarFunction("eq", 2, EVERYTHING, np.equal, "bool"),
    ScalarFunction("ne", 2, EVERYTHING, np.not_equal, "bool"),
    ScalarFunction("lt", 2, ANY, np.less, "bool"),
    ScalarFunction("le", 2, ANY, np.less_equal, "bool"),
    ScalarFunction("gt", 2, ANY, np.greater, "bool"),
    ScalarFunction("ge", 2, ANY, np.greater_equal, "bool"),
    ScalarFunction("isnan", 1, FLOAT, np.isnan, "bool"),
    ScalarFunction("isinf", 1, FLOAT, np.isinf, "bool"),
    ScalarFunction("and", 2, LOGICAL, np.logical_and),
    ScalarFunction("or", 2, LOGICAL, np.logical_or),
    ScalarFunction("xor", 2, LOGICAL, np.logical_xor),
    ScalarFunction("not", 1, LOGICAL, np.logical_not),
    ScalarFunction("bit_and", 2, INTEGER, np.bitwise_and),
    ScalarFunction("bit_or", 2, INTEGER, np.bitwise_or),
    ScalarFunction("bit_xor", 2, INTEGER, np.bitwise_xor),
    ScalarFunction("bit_not", 1, INTEGER, np.bitwise_not),
    ScalarFunction("shift_left", 2, INTEGER, _shift_left),
    ScalarFunction("shift_right", 2, INTEGER, _shift_right),  # arithmetic for signed
    ScalarFunction("dot_bytes", 3, INTEGER, _dot_bytes, flops=8),
    ScalarFunction("select", 3, EVERYTHING, np.where),
)
SCALAR: dict[str, ScalarFunction] = {row.name: row for row in _ROWS}


def apply(function: str, *arguments: np.ndarray) -> np.ndarray:
    """The numpy meaning of a scalar function on arrays, without numpy's floating-point warnings."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(SCALAR[function].numpy(*arguments))
