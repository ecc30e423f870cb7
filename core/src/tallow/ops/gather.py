"""Gather operators: elements picked by indices that are data; negative indices count from the end.

The numpy meaning refuses an index outside; a kernel takes the nearest element instead.
"""

from __future__ import annotations

import numpy as np

from tallow.dtype import i64
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.kernel.build import add, cast, const, from_dim, less, select
from tallow.kernel.grammar import Expr
from tallow.ops.rules import axis_in, inside, tensors, unless_empty
from tallow.ops.table import Op, register


def _wrap(at: Expr, dim) -> Expr:
    """An index that may be negative, counted from the start."""
    at = cast(at, i64)
    return inside(select(less(at, const(0)), add(at, from_dim(dim)), at), dim)


def _checked(indices: np.ndarray, size: int, name: str) -> np.ndarray:
    """Indices in 0..size-1; GraphError when one is outside."""
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise GraphError(
            f"{name}: expected indices in {-size}..{size - 1}, got {indices.min()}..{indices.max()}"
        )
    return np.where(indices < 0, indices + size, indices)


def _integer(name: str, type_: TensorType) -> None:
    if not type_.dtype.is_integer:
        raise GraphError(f"{name}: expected integer indices, got {type_}")


def _infer_gather(types, attributes):
    data, indices = tensors("gather", types)
    _integer("gather", indices)
    axis = axis_in("gather", attributes["axis"], data.rank)
    return (TensorType(data.dtype, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])),)


def _evaluate_gather(arrays, attributes):
    data, indices = arrays
    axis = attributes["axis"]
    return (np.take(data, _checked(indices, data.shape[axis], "gather").astype(np.int64), axis),)


def _index_gather(node, index, read):
    data, indices = node.inputs
    axis = node["axis"]
    middle = index[axis : axis + indices.rank]
    at = _wrap(read(1, middle), data.shape[axis])
    return read(0, (*index[:axis], at, *index[axis + indices.rank :]), unless_empty([data.shape[axis]]))


def _infer_elements(types, attributes):
    data, indices = tensors("gather_elements", types)
    _integer("gather_elements", indices)
    axis = axis_in("gather_elements", attributes["axis"], data.rank)
    if indices.rank != data.rank:
        raise GraphError(f"gather_elements: expected indices of rank {data.rank}, got {indices}")
    for other, (have, want) in enumerate(zip(data.shape, indices.shape, strict=True)):
        if other != axis and isinstance(have, int) and isinstance(want, int) and want > have:
            raise GraphError(
                f"gather_elements: axis {other} of indices {indices} is longer than that of {data}"
            )
    return (TensorType(data.dtype, indices.shape),)


def _evaluate_elements(arrays, attributes):
    data, indices = arrays
    axis = attributes["axis"]
    at = _checked(indices, data.shape[axis], "gather_elements").astype(np.int64)
    data = data[tuple(slice(None) if a == axis else slice(0, n) for a, n in enumerate(indices.shape))]
    return (np.take_along_axis(data, at, axis),)


def _index_elements(node, index, read):
    axis = node["axis"]
    size = node.inputs[0].shape[axis]
    at = _wrap(read(1, index), size)
    return read(0, (*index[:axis], at, *index[axis + 1 :]), unless_empty([size]))


def _infer_nd(types, attributes):
    data, indices = tensors("gather_nd", types)
    _integer("gather_nd", indices)
    batch = attributes["batch_dims"]
    depth = indices.shape[-1] if indices.rank else None
    if indices.rank and not 0 <= batch < min(data.rank + 1, indices.rank):
        raise GraphError(
            f"gather_nd: batch_dims = {batch}: expected 0 or more, and fewer than axes of {indices}"
        )
    if not isinstance(depth, int) or batch + depth > data.rank:
        raise GraphError(
            f"gather_nd: the last axis of indices {indices} must be a constant of at most {data.rank - batch}"
        )
    for have, want in zip(data.shape[:batch], indices.shape, strict=False):
        if isinstance(have, int) and isinstance(want, int) and want != have:
            raise GraphError(f"gather_nd: indices {indices} do not have the {batch} batch axes of {data}")
    return (TensorType(data.dtype, (*indices.shape[:-1], *data.shape[batch + depth :])),)


def _evaluate_nd(arrays, attributes):
    data, indices = arrays
    batch, depth = attributes["batch_dims"], indices.shape[-1]
    parts = [
        _checked(indices[..., k], data.shape[batch + k], "gather_nd").astype(np.int64) for k in range(depth)
    ]
    lead = []
    for axis in range(batch):
        shape = [1] * (indices.ndim - 1)
        shape[axis] = data.shape[axis]
        lead.append(np.arange(data.shape[axis]).reshape(shape))
    if not lead and not parts:
        return (np.broadcast_to(data, (*indices.shape[:-1], *data.shape)),)
    return (data[tuple(np.broadcast_arrays(*lead, *parts))],)


def _index_nd(node, index, read):
    data, indices = node.inputs
    batch, depth = node["batch_dims"], indices.shape[-1]
    head = index[: indices.rank - 1]
    picked = [_wrap(read(1, (*head, const(k))), data.shape[batch + k]) for k in range(depth)]
    guard = unless_empty(data.shape[batch : batch + depth])
    return read(0, (*index[:batch], *picked, *index[indices.rank - 1 :]), guard)


register(Op("gather", "gather", _infer_gather, _evaluate_gather, _index_gather, arity=(2, 2)))
register(Op("gather_elements", "gather", _infer_elements, _evaluate_elements, _index_elements, arity=(2, 2)))
register(Op("gather_nd", "gather", _infer_nd, _evaluate_nd, _index_nd, arity=(2, 2)))
