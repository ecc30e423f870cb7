"""Scatter operators: a copy of the data with updates written or folded in, in order."""

from __future__ import annotations

import numpy as np

from tallow.dim import bounds
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.gather import _checked
from tallow.ops.rules import axis_in, rank_is, same_dtype, shape_is, tensors
from tallow.ops.table import Op, register

_FOLD = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _infer(name):
    def infer(types, attributes):
        data, indices, updates = tensors(name, types)
        same_dtype(name, [data, updates])
        if not indices.dtype.is_integer:
            raise GraphError(f"{name}: expected integer indices, got {indices}")
        if attributes["reduction"] not in ("none", *_FOLD):
            raise GraphError(
                f"{name}: unknown reduction {attributes['reduction']!r}: expected none, {', '.join(_FOLD)}"
            )
        if name == "scatter_elements":
            axis_in(name, attributes["axis"], data.rank)
            rank_is(name, indices, data.rank, "indices")
            shape_is(name, updates, indices.shape, "updates")
            for axis, (size, count) in enumerate(zip(data.shape, indices.shape, strict=True)):
                if axis != attributes["axis"] and (bounds(count - size)[0] or 0) > 0:
                    raise GraphError(
                        f"{name}: axis {axis} of indices {indices} is longer than that of {data}"
                    )
        else:
            _check_places(data, indices, updates)
        return (data,)

    return infer


def _check_places(data: TensorType, indices: TensorType, updates: TensorType) -> None:
    depth = indices.shape[-1] if indices.rank else None
    if not isinstance(depth, int) or depth > data.rank:
        raise GraphError(
            f"scatter_nd: the last axis of indices {indices} must be a constant of at most {data.rank}"
        )
    shape_is("scatter_nd", updates, (*indices.shape[:-1], *data.shape[depth:]), "updates")


def _write(data: np.ndarray, place: tuple, updates: np.ndarray, reduction: str) -> np.ndarray:
    carrier = data.dtype
    wide = carrier.kind == "V" or carrier == np.float16
    out = data.astype(np.float32) if wide else data.copy()
    if reduction == "none":
        out[place] = updates
    else:
        with np.errstate(all="ignore"):
            _FOLD[reduction].at(out, place, updates)
    return out.astype(carrier)


def _evaluate_elements(arrays, attributes):
    data, indices, updates = arrays
    axis = attributes["axis"]
    at = _checked(indices, data.shape[axis], "scatter_elements").astype(np.int64)
    place = list(np.indices(indices.shape, sparse=True)) if indices.ndim else []
    place[axis] = at
    return (_write(data, tuple(place), updates, attributes["reduction"]),)


def _evaluate_nd(arrays, attributes):
    data, indices, updates = arrays
    depth = indices.shape[-1]
    parts = [_checked(indices[..., k], data.shape[k], "scatter_nd").astype(np.int64) for k in range(depth)]
    return (_write(data, tuple(parts), updates, attributes["reduction"]),)


register(Op("scatter_elements", "scatter", _infer("scatter_elements"), _evaluate_elements, arity=(3, 3)))
register(Op("scatter_nd", "scatter", _infer("scatter_nd"), _evaluate_nd, arity=(3, 3)))
