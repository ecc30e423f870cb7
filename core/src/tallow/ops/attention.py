"""Attention and rotary embedding, each with its meaning in simpler operators."""

from __future__ import annotations

import math

import numpy as np

from tallow.dim import bounds
from tallow.dtype import bool_, i64
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.composite import FLOAT, evaluate_softmax, widened
from tallow.ops.rules import differ, of_kind, rank_is, same_dtype, spreads_to, tensors
from tallow.ops.table import Op, register


def _infer_attention(types, attributes):
    q, k, v = operands = tensors("attention", types[:3])
    dtype = same_dtype("attention", operands)
    of_kind("attention", dtype, FLOAT)
    if any(t.rank != 4 for t in operands):
        raise GraphError(f"attention: expected queries, keys and values of rank 4, got {q}, {k}, {v}")
    heads, groups = q.shape[1], k.shape[1]
    if isinstance(heads, int) and isinstance(groups, int) and (groups == 0 or heads % groups):
        raise GraphError(f"attention: {heads} query heads do not divide among {groups} key heads")
    pairs = (
        ("batches", 0, q, k),
        ("batches", 0, k, v),
        ("features", 3, q, k),
        ("keys", 2, k, v),
        ("heads", 1, k, v),
    )
    for what, axis, one, other in pairs:
        a, b = one.shape[axis], other.shape[axis]
        if differ(a, b):
            raise GraphError(f"attention: {a} and {b} {what} in {one} and {other}, expected the same number")
    if len(types) > 3:
        (mask,) = tensors("attention", types[3:])
        if mask.dtype not in (dtype, bool_):
            raise GraphError(f"attention: expected a mask of {dtype} or bool, got {mask}")
        spreads_to("attention", mask, (q.shape[0], heads, q.shape[2], k.shape[2]), "mask")
    return (TensorType(dtype, (q.shape[0], heads, q.shape[2], v.shape[3])),)


def _decompose_attention(builder, node):
    q, k, v, *mask = node.inputs
    k, v = (_repeat_heads(builder, t, q.shape[1]) for t in (k, v))
    scores = builder.matmul(builder.mul(q, node["scale"]), builder.transpose(k, permutation=(0, 1, 3, 2)))
    cap = node.attributes.get("softcap", 0.0)
    if cap:
        scores = builder.mul(builder.tanh(builder.mul(scores, 1 / cap)), cap)
    if mask and mask[0].dtype == bool_:
        fill = builder.scalar(node.attributes.get("fill", -math.inf), q.dtype)
        scores = builder.select(mask[0], scores, fill)
    elif mask:
        scores = builder.add(scores, mask[0])
    if node["causal"]:
        rows, columns = scores.shape[2:]
        offset = builder.dims(values=(node.attributes.get("causal_offset", 0),), shape=())
        row = builder.add(builder.iota(shape=(rows, 1), axis=0, dtype=i64), offset)
        column = builder.iota(shape=(1, columns), axis=1, dtype=i64)
        scores = builder.select(builder.le(column, row), scores, builder.scalar(-math.inf, q.dtype))
    weights = builder.softmax(scores, axis=3)
    if node.attributes.get("safe", False):
        weights = builder.select(builder.isnan(weights), builder.scalar(0, q.dtype), weights)
    return builder.matmul(weights, v)


def _repeat_heads(builder, x, heads):
    b, groups, s, d = x.shape
    if groups == heads:
        return x
    opened = builder.reshape(x, shape=(b, groups, 1, s, d))
    many = builder.broadcast(opened, shape=(b, groups, heads // groups, s, d))
    return builder.reshape(many, shape=(b, heads, s, d))


def _evaluate_attention(arrays, attributes):
    """softmax(scale q k^T + mask) v (Vaswani et al., 2017), heads sharing keys in groups.

    A bool mask replaces scores where it is false by `fill`. `safe`: weights that are not a number (those
    of a row without a key to look at) count as 0.
    """
    q, k, v = (widened(a) for a in arrays[:3])
    times = q.shape[1] // max(k.shape[1], 1)
    k, v = np.repeat(k, times, 1), np.repeat(v, times, 1)
    with np.errstate(all="ignore"):
        scores = np.matmul(q * np.asarray(attributes["scale"], q.dtype), k.transpose(0, 1, 3, 2))
        cap = attributes.get("softcap", 0.0)
        scores = np.tanh(scores / cap) * cap if cap else scores
        for mask in arrays[3:]:
            if mask.dtype == bool:
                fill = attributes.get("fill", -math.inf)
                scores = np.where(mask, scores, np.asarray(fill, scores.dtype))
            else:
                scores = scores + widened(mask)
        if attributes["causal"]:
            rows = np.arange(scores.shape[2])[:, None] + attributes.get("causal_offset", 0)
            scores = np.where(np.arange(scores.shape[3])[None] <= rows, scores, -np.inf).astype(scores.dtype)
        weights = evaluate_softmax([scores], {"axis": 3})[0]
        if attributes.get("safe", False):
            weights = np.where(np.isnan(weights), np.zeros((), weights.dtype), weights)
        return (np.matmul(weights, v).astype(arrays[0].dtype),)


def _infer_rotary(types, attributes):
    x, *turns = tensors("rotary", types)
    same_dtype("rotary", types)
    rank_is("rotary", x, 4, "data")
    if not 0 <= attributes["dims"] or (bounds(x.shape[3] - attributes["dims"])[1] or 0) < 0:
        raise GraphError(
            f"rotary: {attributes['dims']} features to turn: expected as many as {x} has at most"
        )
    for turn in turns:
        spreads_to("rotary", turn, (*x.shape[:3], attributes["dims"] // 2), "cosines and sines")
    return (x,)


def _decompose_rotary(builder, node):
    """Pairs of the first `dims` features turned by an angle (Su et al., 2021)."""
    x, cosine, sine = node.inputs
    dims, interleaved = node["dims"], node["interleaved"]
    b, h, s, d = x.shape
    half = dims // 2

    def take(start, step, size):
        return builder.slice(x, starts=(0, 0, 0, start), steps=(1, 1, 1, step), shape=(b, h, s, size))

    first, second = (
        (take(0, 2, half), take(1, 2, half)) if interleaved else (take(0, 1, half), take(half, 1, half))
    )
    real = builder.sub(builder.mul(first, cosine), builder.mul(second, sine))
    imaginary = builder.add(builder.mul(first, sine), builder.mul(second, cosine))
    if interleaved:
        pairs = [builder.reshape(v, shape=(b, h, s, half, 1)) for v in (real, imaginary)]
        turned = builder.reshape(builder.concat(*pairs, axis=4), shape=(b, h, s, dims))
    else:
        turned = builder.concat(real, imaginary, axis=3)
    return turned if dims == d else builder.concat(turned, take(dims, 1, d - dims), axis=3)


def _evaluate_rotary(arrays, attributes):
    x, cosine, sine = (widened(a) for a in arrays)
    dims = attributes["dims"]
    head, tail = x[..., :dims], x[..., dims:]
    pick = (
        (slice(0, None, 2), slice(1, None, 2))
        if attributes["interleaved"]
        else (slice(0, dims // 2), slice(dims // 2, None))
    )
    first, second = head[..., pick[0]], head[..., pick[1]]
    out = np.empty_like(head)
    out[..., pick[0]] = first * cosine - second * sine
    out[..., pick[1]] = first * sine + second * cosine
    return (np.concatenate([out, tail], -1).astype(arrays[0].dtype),)


register(
    Op(
        "attention",
        "composite",
        _infer_attention,
        _evaluate_attention,
        decompose=_decompose_attention,
        arity=(3, 4),
    )
)
register(
    Op("rotary", "composite", _infer_rotary, _evaluate_rotary, decompose=_decompose_rotary, arity=(3, 3))
)
