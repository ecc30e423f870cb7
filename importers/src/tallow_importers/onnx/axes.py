"""Axes that only the run can tell: shapes and amounts worked out by the graph itself, over all axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tallow.dim import Dim
from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context


def marked(context: Context, axes: Value, rank: int) -> tuple[Value, Value]:
    """Which axis each entry of `axes` names, bool [n, rank], and whether any names it, bool [rank]."""
    b = context.builder
    at = b.cast(b.reshape(axes, shape=(axes.type.size, 1)), dtype=i64)
    at = b.select(b.lt(at, 0), b.add(at, rank), at)
    hits = b.eq(at, b.iota(shape=(1, rank), axis=1, dtype=i64))
    any_ = b.gt(b.reduce(b.cast(hits, dtype=i64), function="add", axes=(0,), keepdims=False), 0)
    return hits, any_


def spread(context: Context, axes: Value, values: Value, default: Value) -> Value:
    """i64 [rank]: each value at the axis beside it, `default` [rank] at the others."""
    b = context.builder
    hits, any_ = marked(context, axes, default.shape[0])
    column = b.cast(b.reshape(values, shape=(values.type.size, 1)), dtype=i64)
    placed = b.reduce(b.select(hits, column, 0), function="add", axes=(0,), keepdims=False)
    return b.select(any_, placed, default)


def read_shape(context: Context, dims: Value) -> tuple[Dim, ...]:
    """Fresh symbols that the run binds to the elements of an i64 vector."""
    fresh = [context.builder.fresh_symbol("u") for _ in range(dims.shape[0])]
    context.builder.read_dims(dims, defines=tuple(map(str, fresh)))
    return tuple(fresh)


def held(context: Context, places: Value, extent: Dim) -> Value:
    """Places inside an axis of this size, the nearest to those that lie outside: for values that are then
    not used."""
    b = context.builder
    return b.max(b.min(places, context.size(extent - 1, places.dtype)), 0)


def _earlier(context: Context, flags: Value) -> Value:
    """i64 [rank]: how many flags before each are set."""
    b, rank = context.builder, flags.shape[0]
    before = b.constant(np.tri(rank, k=-1, dtype=np.int64))
    row = b.reshape(b.cast(flags, dtype=i64), shape=(1, rank))
    return b.reduce(b.mul(before, row), function="add", axes=(1,), keepdims=False)


def unsqueezed(context: Context, shape: Sequence[Dim], axes: Value) -> tuple[Dim, ...]:
    """The sizes of `shape` with ones put in at `axes`."""
    b = context.builder
    rank = len(shape) + axes.type.size
    _, new = marked(context, axes, rank)
    source = _earlier(context, b.not_(new))
    padded = context.shape_tensor([*shape, *(1,) * (rank - len(shape))])
    dims = b.select(new, b.constant(np.ones(rank, np.int64)), b.gather(padded, source, axis=0))
    return read_shape(context, dims)


def squeezed(context: Context, shape: Sequence[Dim], axes: Value) -> tuple[Dim, ...]:
    """The sizes of `shape` without those at `axes`; the run refuses to drop one that is not 1."""
    b, rank = context.builder, len(shape)
    left = rank - axes.type.size
    _, dropped = marked(context, axes, rank)
    sizes = context.shape_tensor(shape)
    wrong = b.cast(b.and_(dropped, b.ne(sizes, 1)), dtype=i64)
    wrong = b.reduce(wrong, function="add", axes=(0,), keepdims=True)
    place = b.select(dropped, -1, _earlier(context, b.not_(dropped)))
    here = b.eq(b.iota(shape=(left, 1), axis=0, dtype=i64), b.reshape(place, shape=(1, rank)))
    kept = b.select(here, b.reshape(sizes, shape=(1, rank)), 0)
    dims = b.reduce(kept, function="add", axes=(1,), keepdims=False)
    return read_shape(context, b.select(b.gt(wrong, 0), -1, dims))
