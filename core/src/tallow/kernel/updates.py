"""What an update does: the scalar function that it applies, and what it leaves unchanged."""

from __future__ import annotations

import numpy as np

from tallow.dtype import DType
from tallow.kernel.build import splat
from tallow.kernel.grammar import Call, Expr


def scalar_of(op: str, dtype: DType) -> str:
    """The scalar function of an update."""
    if op in ("or", "and") and dtype.is_integer:
        return f"bit_{op}"
    return op if dtype.kind != "bool" else {"add": "or", "max": "or", "mul": "and", "min": "and"}.get(op, op)


def combine(op: str, before: Expr, value: Expr, lanes: int, dtype: DType) -> Expr:
    """`op(before, value)`, fused when it adds a product of floats."""
    value = splat(value, lanes)
    if op == "add" and dtype.is_float and isinstance(value, Call) and value.function == "mul":
        return Call("fma", (*value.arguments, before), dtype)
    return Call(scalar_of(op, dtype), (before, value), dtype)


def identity(op: str, dtype: DType) -> float | int | bool:
    """What an update leaves unchanged."""
    if dtype.kind == "bool":
        return op in ("mul", "min", "and")
    if op in ("add", "or"):
        return 0
    if op == "mul":
        return 1
    if op == "and":
        return -1 if dtype.kind == "int" else int(np.iinfo(dtype.numpy).max)
    if dtype.is_float:
        return -np.inf if op == "max" else np.inf
    info = np.iinfo(dtype.numpy)
    return int(info.min if op == "max" else info.max)
