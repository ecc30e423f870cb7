"""Composite operators: softmax, normalisations, activations and attention, each with its meaning in simpler ones."""

from __future__ import annotations

import math

import numpy as np

from tallow.dim import product
from tallow.dtype import bf16, f16, f32, i64
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.rules import axis_in, broadcast_shapes, of_kind, same_dtype, tensors
from tallow.ops.table import Op, register
from tallow.scalar import apply

FLOAT = ("float",)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" or array.dtype == np.float16 else array


def _unary(name):
    def infer(types, attributes):
        x = tensors(name, types)[0]
        of_kind(name, x.dtype, FLOAT)
        if "axis" in attributes:
            axis_in(name, attributes["axis"], x.rank)
        return (x,)

    return infer


def _evaluate_softmax(arrays, attributes):
    x = _wide(arrays[0])
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(attributes["axis"], keepdims=True, initial=-np.inf))
        return ((e / e.sum(attributes["axis"], keepdims=True)).astype(arrays[0].dtype),)


def _reduce(builder, x, function, axes):
    return builder.reduce(x, function=function, axes=tuple(axes), keepdims=True)


def _decompose_softmax(builder, node):
    (x,) = node.inputs
    axis = (node["axis"],)
    e = builder.exp(builder.sub(x, _reduce(builder, x, "max", axis)))
    return builder.div(e, _reduce(builder, e, "add", axis))


def _evaluate_log_softmax(arrays, attributes):
    x = _wide(arrays[0])
    with np.errstate(all="ignore"):
        moved = x - x.max(attributes["axis"], keepdims=True, initial=-np.inf)
        total = np.log(np.exp(moved).sum(attributes["axis"], keepdims=True))
        return ((moved - total).astype(arrays[0].dtype),)


def _decompose_log_softmax(builder, node):
    (x,) = node.inputs
    axis = (node["axis"],)
    moved = builder.sub(x, _reduce(builder, x, "max", axis))
    return builder.sub(moved, builder.log(_reduce(builder, builder.exp(moved), "add", axis)))


def _infer_norm(name):
    def infer(types, attributes):
        operands = tensors(name, types)
        x = operands[0]
        same_dtype(name, operands)
        of_kind(name, x.dtype, FLOAT)
        axis_in(name, attributes["axis"], x.rank)
        for other in operands[1:]:
            if broadcast_shapes(name, [x.shape, other.shape]) != x.shape:
                raise GraphError(f"{name}: scale or bias {other} does not fit {x}")
        return (x,)

    return infer


def _evaluate_layer_norm(arrays, attributes):
    x, *rest = (_wide(a) for a in arrays)
    axes = tuple(range(attributes["axis"], x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    with np.errstate(all="ignore"):
        y = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + attributes["epsilon"]).astype(
            x.dtype
        )
    y = y * rest[0] if rest else y
    y = y + rest[1] if len(rest) > 1 else y
    return (y.astype(arrays[0].dtype),)


def _mean(builder, x, axes):
    count = product(x.shape[a] for a in axes)
    size = builder.scalar(count, x.dtype) if isinstance(count, int) else None
    if size is None:
        size = builder.cast(builder.dims(values=(count,), shape=()), dtype=x.dtype)
    return builder.div(_reduce(builder, x, "add", axes), size)


def _in_f32(decompose):
    """Narrow floats are widened for the whole computation and rounded once."""

    def wrapped(builder, node):
        narrow = node.inputs[0].dtype
        if narrow not in (f16, bf16):
            return decompose(builder, node, node.inputs)
        wide = [builder.cast(v, dtype=f32) for v in node.inputs]
        return builder.cast(decompose(builder, node, wide), dtype=narrow)

    return wrapped


@_in_f32
def _decompose_layer_norm(builder, node, inputs):
    x, *rest = inputs
    axes = range(node["axis"], x.rank)
    centred = builder.sub(x, _mean(builder, x, axes))
    variance = _mean(builder, builder.mul(centred, centred), axes)
    y = builder.mul(centred, builder.rsqrt(builder.add(variance, node["epsilon"])))
    y = builder.mul(y, rest[0]) if rest else y
    return builder.add(y, rest[1]) if len(rest) > 1 else y


def _evaluate_rms_norm(arrays, attributes):
    x, *rest = (_wide(a) for a in arrays)
    axes = tuple(range(attributes["axis"], x.ndim))
    y = x / np.sqrt((x * x).mean(axes, keepdims=True) + attributes["epsilon"]).astype(x.dtype)
    return ((y * rest[0] if rest else y).astype(arrays[0].dtype),)


@_in_f32
def _decompose_rms_norm(builder, node, inputs):
    x, *rest = inputs
    axes = range(node["axis"], x.rank)
    y = builder.mul(x, builder.rsqrt(builder.add(_mean(builder, builder.mul(x, x), axes), node["epsilon"])))
    return builder.mul(y, rest[0]) if rest else y


def _evaluate_gelu(arrays, attributes):
    x = _wide(arrays[0])
    if attributes["approximate"] == "tanh":
        y = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    else:
        y = 0.5 * x * (1 + apply("erf", x * np.asarray(math.sqrt(0.5), x.dtype)))
    return (y.astype(arrays[0].dtype),)


def _decompose_gelu(builder, node):
    """Hendrycks and Gimpel (2016), exact or with tanh."""
    (x,) = node.inputs
    half = builder.mul(x, 0.5)
    if node["approximate"] == "tanh":
        cube = builder.mul(builder.mul(x, x), builder.mul(x, 0.044715))
        inner = builder.tanh(builder.mul(builder.add(x, cube), math.sqrt(2 / math.pi)))
    else:
        inner = builder.erf(builder.mul(x, math.sqrt(0.5)))
    return builder.add(builder.mul(half, inner), half)


def _decompose_relu(builder, node):
    return builder.max(node.inputs[0], 0)


def _infer_relu(types, attributes):
    (x,) = tensors("relu", types)
    of_kind("relu", x.dtype, ("float", "int", "uint"))
    return (x,)


def _infer_attention(types, attributes):
    q, k, v = operands = tensors("attention", types[:3])
    dtype = same_dtype("attention", operands)
    of_kind("attention", dtype, FLOAT)
    if any(t.rank != 4 for t in operands):
        raise GraphError(f"attention: expected queries, keys and values of rank 4, got {q}, {k}, {v}")
    heads, groups = q.shape[1], k.shape[1]
    if isinstance(heads, int) and isinstance(groups, int) and (groups == 0 or heads % groups):
        raise GraphError(f"attention: {heads} query heads do not divide among {groups} key heads")
    if len(types) > 3:
        bias = tensors("attention", types[3:])[0]
        broadcast_shapes("attention", [bias.shape, (q.shape[0], heads, q.shape[2], k.shape[2])])
    return (TensorType(dtype, (q.shape[0], heads, q.shape[2], v.shape[3])),)


def _decompose_attention(builder, node):
    """softmax(scale q k^T + bias) v (Vaswani et al., 2017), heads sharing keys in groups."""
    q, k, v, *bias = node.inputs
    k, v = (_repeat_heads(builder, t, q.shape[1]) for t in (k, v))
    scores = builder.matmul(builder.mul(q, node["scale"]), builder.transpose(k, permutation=(0, 1, 3, 2)))
    cap = node.attributes.get("softcap", 0.0)
    if cap:
        scores = builder.mul(builder.tanh(builder.mul(scores, 1 / cap)), cap)
    if bias:
        scores = builder.add(scores, bias[0])
    if node["causal"]:
        rows, columns = scores.shape[2:]
        offset = builder.dims(values=(node.attributes.get("causal_offset", 0),), shape=())
        row = builder.add(builder.iota(shape=(rows, 1), axis=0, dtype=i64), offset)
        column = builder.iota(shape=(1, columns), axis=1, dtype=i64)
        scores = builder.select(builder.le(column, row), scores, builder.scalar(-math.inf, q.dtype))
    return builder.matmul(builder.softmax(scores, axis=3), v)


def _repeat_heads(builder, x, heads):
    b, groups, s, d = x.shape
    if groups == heads:
        return x
    opened = builder.reshape(x, shape=(b, groups, 1, s, d))
    many = builder.broadcast(opened, shape=(b, groups, heads // groups, s, d))
    return builder.reshape(many, shape=(b, heads, s, d))


def _evaluate_attention(arrays, attributes):
    q, k, v, *bias = (_wide(a) for a in arrays)
    times = q.shape[1] // max(k.shape[1], 1)
    k, v = np.repeat(k, times, 1), np.repeat(v, times, 1)
    with np.errstate(all="ignore"):
        scores = np.matmul(q * np.asarray(attributes["scale"], q.dtype), k.transpose(0, 1, 3, 2))
        cap = attributes.get("softcap", 0.0)
        scores = np.tanh(scores / cap) * cap if cap else scores
        scores = scores + bias[0] if bias else scores
        if attributes["causal"]:
            rows = np.arange(scores.shape[2])[:, None] + attributes.get("causal_offset", 0)
            scores = np.where(np.arange(scores.shape[3])[None] <= rows, scores, -np.inf).astype(scores.dtype)
        weights = _evaluate_softmax([scores], {"axis": 3})[0]
        return (np.matmul(weights, v).astype(arrays[0].dtype),)


def _infer_rotary(types, attributes):
    x = tensors("rotary", types)[0]
    same_dtype("rotary", types)
    if x.rank != 4:
        raise GraphError(f"rotary: expected data of rank 4, got {x}")
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
    x, cosine, sine = (_wide(a) for a in arrays)
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


register(Op("softmax", "composite", _unary("softmax"), _evaluate_softmax, decompose=_decompose_softmax))
register(
    Op(
        "log_softmax",
        "composite",
        _unary("log_softmax"),
        _evaluate_log_softmax,
        decompose=_decompose_log_softmax,
    )
)
register(
    Op(
        "layer_norm",
        "composite",
        _infer_norm("layer_norm"),
        _evaluate_layer_norm,
        decompose=_decompose_layer_norm,
        arity=(1, 3),
    )
)
register(
    Op(
        "rms_norm",
        "composite",
        _infer_norm("rms_norm"),
        _evaluate_rms_norm,
        decompose=_decompose_rms_norm,
        arity=(1, 2),
    )
)
register(Op("gelu", "composite", _unary("gelu"), _evaluate_gelu, decompose=_decompose_gelu))
register(
    Op(
        "relu",
        "composite",
        _infer_relu,
        lambda arrays, a: (np.maximum(arrays[0], 0).astype(arrays[0].dtype),),
        decompose=_decompose_relu,
    )
)
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
