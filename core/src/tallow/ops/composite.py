"""Composite operators: softmax, normalisations and activations, each with its meaning in simpler ones."""

from __future__ import annotations

import math

import numpy as np

from tallow.dim import product
from tallow.dtype import bf16, f16, f32
from tallow.errors import GraphError
from tallow.ops.rules import axis_in, differ, of_kind, same_dtype, tensors
from tallow.ops.table import Op, register
from tallow.scalar import apply

FLOAT = ("float",)


def widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" or array.dtype == np.float16 else array


def _unary(name):
    def infer(types, attributes):
        x = tensors(name, types)[0]
        of_kind(name, x.dtype, FLOAT)
        if "axis" in attributes:
            axis_in(name, attributes["axis"], x.rank)
        return (x,)

    return infer


def evaluate_softmax(arrays, attributes):
    x = widened(arrays[0])
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
    x = widened(arrays[0])
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
            pairs = zip(reversed(x.shape), reversed(other.shape), strict=False)
            if other.rank > x.rank or any(d != 1 and differ(d, full) for full, d in pairs):
                raise GraphError(f"{name}: scale or bias {other} does not fit {x}")
        return (x,)

    return infer


def _evaluate_layer_norm(arrays, attributes):
    x, *rest = (widened(a) for a in arrays)
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
    """Narrow floats are widened for the whole computation and rounded once. The result has the sizes of the
    data, also where a scale or bias states them otherwise (5 for n)."""

    def wrapped(builder, node):
        narrow, shape = node.inputs[0].dtype, node.output.shape
        wide = [builder.cast(v, dtype=f32) if narrow in (f16, bf16) else v for v in node.inputs]
        y = decompose(builder, node, wide)
        y = builder.cast(y, dtype=narrow) if y.dtype != narrow else y
        return y if y.shape == shape else builder.reshape(y, shape=shape)

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
    x, *rest = (widened(a) for a in arrays)
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
    x = widened(arrays[0])
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


register(Op("softmax", "composite", _unary("softmax"), evaluate_softmax, decompose=_decompose_softmax))
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
