"""Operators that order or select elements by value: top-k, unique, nonzero, non-maximum suppression."""

from __future__ import annotations

import numpy as np

from tallow.dim import symbol
from tallow.dtype import f32, i64
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.rules import axis_in, rank_is, shape_is, tensors
from tallow.ops.table import Op, register


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" or array.dtype == np.float16 else array


def _infer_topk(types, attributes):
    (x,) = tensors("topk", types)
    axis = axis_in("topk", attributes["axis"], x.rank)
    k, extent = attributes["k"], x.shape[axis]
    if isinstance(k, int) and isinstance(extent, int) and not 0 <= k <= extent:
        raise GraphError(f"topk: expected k in 0..{extent} for axis {axis} of {x}, got {k}")
    shape = (*x.shape[:axis], attributes["k"], *x.shape[axis + 1 :])
    return TensorType(x.dtype, shape), TensorType(i64, shape)


def _evaluate_topk(arrays, attributes):
    (x,) = arrays
    axis, k = attributes["axis"], attributes["k"]
    keys = _wide(x)
    if attributes["largest"]:  # a stable sort of the negated ranks keeps the lower index first
        ranks = np.unique(keys, return_inverse=True)[1].reshape(keys.shape) if keys.size else keys
        order = np.argsort(-ranks.astype(np.int64), axis, kind="stable")
    else:
        order = np.argsort(keys, axis, kind="stable")
    index = np.take(order, np.arange(k), axis)
    return np.take_along_axis(x, index, axis), index.astype(np.int64)


def _infer_nonzero(types, attributes):
    (x,) = tensors("nonzero", types)
    return (TensorType(i64, (x.rank, symbol(attributes["defines"][0]))),)


def _evaluate_nonzero(arrays, attributes):
    (x,) = arrays
    if x.ndim == 0:
        return (np.zeros((0, int(bool(x))), np.int64),)
    return (np.stack(np.nonzero(_wide(x))).astype(np.int64),)


def _infer_unique(types, attributes):
    (x,) = tensors("unique", types)
    count = symbol(attributes["defines"][0])
    axis = attributes["axis"]
    if axis is None:
        shape, length = (count,), x.size
    else:
        axis_in("unique", axis, x.rank)
        shape, length = (*x.shape[:axis], count, *x.shape[axis + 1 :]), x.shape[axis]
    counted = TensorType(i64, (count,))
    return TensorType(x.dtype, shape), counted, TensorType(i64, (length,)), counted


def _evaluate_unique(arrays, attributes):
    (x,) = arrays
    axis = attributes["axis"]
    values, index, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not attributes["sorted"]:
        order = np.argsort(index, kind="stable")
        values = np.take(values, order, 0 if axis is None else axis)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        index, inverse, counts = index[order], place[inverse], counts[order]
    return values, index.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


def _infer_nms(types, attributes):
    boxes, scores = tensors("nms", types)[:2]
    rank_is("nms", boxes, 3, "boxes")
    rank_is("nms", scores, 3, "scores")
    shape_is("nms", boxes, (scores.shape[0], scores.shape[2], 4), "boxes")
    if any(t.size == 0 for t in tensors("nms", types)[2:]):
        raise GraphError(f"nms: expected a limit and thresholds, got {', '.join(map(str, types[2:]))}")
    return (TensorType(i64, (symbol(attributes["defines"][0]), 3)),)


def _evaluate_nms(arrays, attributes):
    """Greedy selection by score, dropping boxes that overlap a chosen one by more than the threshold."""
    boxes, scores, limit, threshold, least = arrays
    limit, threshold = int(np.reshape(limit, -1)[0]), float(np.reshape(threshold, -1)[0])
    least = float(np.reshape(least, -1)[0])
    chosen: list[tuple[int, int, int]] = []
    for batch in range(scores.shape[0]):
        corners, areas = _corners(boxes[batch], attributes["center_point_box"])
        for kind in range(scores.shape[1]):
            line = scores[batch, kind]
            order = np.argsort(-line, kind="stable")
            order = order[line[order] > least]
            taken = 0
            while order.size and taken < limit:
                best, order = order[0], order[1:]
                chosen.append((batch, kind, int(best)))
                taken += 1
                order = order[_overlap(corners, areas, best, order) <= threshold]
    return (np.array(chosen, np.int64).reshape(-1, 3),)


def _corners(boxes: np.ndarray, centred: bool):
    if centred:
        x, y, w, h = boxes.T
        low, high = np.stack([y - h / 2, x - w / 2]), np.stack([y + h / 2, x + w / 2])
    else:
        a, b = boxes[:, :2].T, boxes[:, 2:].T
        low, high = np.minimum(a, b), np.maximum(a, b)
    return (low, high), np.prod(high - low, 0)


def _overlap(corners, areas, best: int, others: np.ndarray) -> np.ndarray:
    low = np.maximum(corners[0][:, others], corners[0][:, best, None])
    high = np.minimum(corners[1][:, others], corners[1][:, best, None])
    shared = np.prod(np.maximum(high - low, 0), 0)
    union = areas[others] + areas[best] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0).astype(f32.numpy)


register(Op("topk", "host", _infer_topk, _evaluate_topk))
register(Op("nonzero", "host", _infer_nonzero, _evaluate_nonzero))
register(Op("unique", "host", _infer_unique, _evaluate_unique))
register(Op("nms", "host", _infer_nms, _evaluate_nms, arity=(5, 5)))
