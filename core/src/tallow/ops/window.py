"""Pooling: windows of a tensor folded to their sum or maximum."""

from __future__ import annotations

import numpy as np

from tallow.dtype import dtype, i64
from tallow.graph import TensorType
from tallow.kernel.updates import identity
from tallow.ops.contraction import check_window, window_sizes, windows
from tallow.ops.rules import tensors
from tallow.ops.table import Op, register


def _infer_pool(types, attributes):
    (x,) = tensors("pool", types)
    check_window("pool", x, attributes, ("kernel", "strides", "dilations"))
    sizes = window_sizes("pool", x.shape[2:], attributes["kernel"], attributes)
    return (TensorType(x.dtype, (*x.shape[:2], *sizes)),)


def _evaluate_pool(arrays, attributes):
    (x,) = arrays
    carrier = x.dtype
    wide = x.astype(np.float32) if carrier.kind == "V" or carrier == np.float16 else x
    maximum = attributes["function"] == "max"
    fill = identity("max", dtype(wide.dtype)) if maximum else 0
    view = windows(
        wide, attributes["kernel"], attributes["strides"], attributes["pads"], attributes["dilations"], fill
    )
    axes = tuple(range(x.ndim, view.ndim))
    result = view.max(axis=axes, initial=fill) if maximum else view.sum(axis=axes, dtype=view.dtype)
    return (result.astype(carrier),)


def _infer_pool_index(types, attributes):
    (type_,) = _infer_pool(types, attributes)
    return type_, TensorType(i64, type_.shape)


def _evaluate_pool_index(arrays, attributes):
    (x,) = arrays
    wide = x.astype(np.float32) if x.dtype.kind == "V" or x.dtype == np.float16 else x
    fill = identity("max", dtype(wide.dtype))
    shape = x.shape[2:]
    flat = np.arange(int(np.prod(shape))).reshape(shape, order="F" if attributes["column_major"] else "C")
    places = np.broadcast_to(flat, (1, 1, *shape))
    spec = (attributes["kernel"], attributes["strides"], attributes["pads"], attributes["dilations"])
    values = windows(wide, *spec, fill)
    where = windows(places, *spec, -1)
    head, taps = values.shape[: x.ndim], int(np.prod(attributes["kernel"]))
    values, where = values.reshape(*head, taps), where.reshape(1, 1, *head[2:], taps)
    values = np.where(where < 0, fill, values)
    best = np.argmax(np.where(where < 0, -np.inf, values.astype(np.float64)), axis=-1)[..., None]
    planes = np.arange(head[0] * head[1]).reshape(head[0], head[1], *[1] * len(shape)) * flat.size
    index = np.take_along_axis(np.broadcast_to(where, values.shape), best, -1)[..., 0] + planes
    return np.take_along_axis(values, best, -1)[..., 0].astype(x.dtype), index.astype(np.int64)


register(Op("pool", "window", _infer_pool, _evaluate_pool))
register(Op("max_pool_with_index", "host", _infer_pool_index, _evaluate_pool_index))
