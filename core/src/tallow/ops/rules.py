"""Shared parts of type rules: checks that speak the operator's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from tallow.dim import Dim, bounds, broadcast
from tallow.dtype import DType
from tallow.errors import GraphError
from tallow.graph import TensorType, Type
from tallow.kernel.build import const, from_dim, less, logical_and, maximum, minimum, sub
from tallow.kernel.grammar import Expr


def tensors(name: str, types: Sequence[Type]) -> list[TensorType]:
    """The operand types, all of which must be tensors."""
    for number, type_ in enumerate(types):
        if not isinstance(type_, TensorType):
            raise GraphError(f"{name}: expected a tensor for operand {number}, got {type_}")
    return list(types)


def same_dtype(name: str, types: Sequence[TensorType]) -> DType:
    """The one dtype of all operands."""
    found = dict.fromkeys(t.dtype for t in types)
    if len(found) != 1:
        raise GraphError(f"{name}: expected operands of one dtype, got {', '.join(map(str, found))}")
    return next(iter(found))


def of_kind(name: str, dtype: DType, kinds: Sequence[str]) -> None:
    if dtype.kind not in kinds:
        raise GraphError(f"{name}: expected a dtype of kind {' or '.join(sorted(kinds))}, got {dtype}")


def broadcast_shapes(name: str, shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """The shape that numpy gives operands of these shapes together."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    try:
        return tuple(reduce(broadcast, column) for column in zip(*padded, strict=True))
    except GraphError as error:
        listed = ", ".join(str(list(s)) for s in shapes)
        raise GraphError(f"{name}: shapes {listed}: {error}") from None


def axis_in(name: str, axis: int, rank: int) -> int:
    """An axis that must be an integer in 0..rank-1."""
    if not isinstance(axis, (int, np.integer)):
        raise GraphError(f"{name}: expected an integer for an axis, got {axis!r}")
    if not 0 <= axis < rank:
        raise GraphError(f"{name}: axis {axis} is outside 0..{rank - 1}")
    return axis


def rank_is(name: str, type_: TensorType, rank: int, what: str) -> None:
    if type_.rank != rank:
        raise GraphError(f"{name}: expected {what} of rank {rank}, got {type_}")


def differ(a: Dim, b: Dim) -> bool:
    """Whether two sizes are surely not equal; where that is open, a run checks the rule again."""
    if isinstance(a, int) and isinstance(b, int):
        return a != b
    low, high = (0, 0) if a == b else bounds(a - b)
    return (low is not None and low > 0) or (high is not None and high < 0)


def shape_is(name: str, type_: TensorType, shape: Sequence[Dim], what: str) -> None:
    """GraphError for a tensor that cannot be of this shape."""
    if type_.rank != len(shape) or any(map(differ, type_.shape, shape)):
        raise GraphError(f"{name}: expected {what} of shape [{', '.join(map(str, shape))}], got {type_}")


def spreads_to(name: str, type_: TensorType, shape: Sequence[Dim], what: str) -> None:
    """GraphError for a tensor that numpy's rules do not spread to this shape."""
    pairs = zip(reversed(type_.shape), reversed(shape), strict=False)
    if type_.rank > len(shape) or any(have != 1 and differ(have, want) for have, want in pairs):
        wanted = ", ".join(map(str, shape))
        raise GraphError(f"{name}: expected {what} that spread to [{wanted}], got {type_}")


def attribute(name: str, attributes: Mapping, key: str):
    if key not in attributes:
        raise GraphError(f"{name}: attribute {key!r} is missing")
    return attributes[key]


def inside(at: Expr, dim: Dim) -> Expr:
    """An index that data gives, held in 0..dim-1: a kernel cannot refuse, and must not read elsewhere."""
    return maximum(minimum(at, sub(from_dim(dim), const(1))), const(0))


def unless_empty(dims: Sequence[Dim]) -> Expr | None:
    """The guard of reads at such indices: false where an axis is empty; None where none can be."""
    tests = [less(const(0), from_dim(d)) for d in dims if (bounds(d)[0] or 0) < 1]
    return reduce(logical_and, tests) if tests else None
