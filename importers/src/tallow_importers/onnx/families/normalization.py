"""Normalisations and softmax of ONNX."""

from __future__ import annotations

import functools

from tallow.builder import Builder
from tallow.dim import product
from tallow.dtype import f32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.convolution import per_channel
from tallow_importers.onnx.registry import onnx_op

MOST_SLICES = 32  # channels on both sides that LRN adds one by one


def mean(context: Context, x: Value, axes: tuple[int, ...]) -> Value:
    b = context.builder
    total = b.reduce(x, function="add", axes=axes, keepdims=True)
    return b.div(total, context.size(product(x.shape[a] for a in axes), x.dtype))


def standardise(context: Context, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over `axes`."""
    b = context.builder
    centred = b.sub(x, mean(context, x, axes))
    return b.mul(centred, b.rsqrt(b.add(mean(context, b.mul(centred, centred), axes), epsilon)))


@onnx_op("BatchNormalization")
def batch_normalization(context: Context, node: NodeView):
    x, scale, bias, average, variance = node.inputs[:5]
    b = context.builder
    epsilon = node.attribute("epsilon", 1e-5)
    results = []
    if node.attribute("training_mode", 0):
        momentum = node.attribute("momentum", 0.9)
        axes = tuple(a for a in range(x.rank) if a != 1)
        here = b.reshape(mean(context, x, axes), shape=average.shape)
        centred = b.sub(x, per_channel(context, here, x.rank))
        spread = b.reshape(mean(context, b.mul(centred, centred), axes), shape=average.shape)
        for old, new in ((average, here), (variance, spread)):
            results.append(b.add(b.mul(old, momentum), b.mul(b.cast(new, dtype=old.dtype), 1 - momentum)))
        average, variance = here, spread
    kind = variance.dtype
    factor = b.div(b.cast(scale, dtype=kind), b.sqrt(b.add(variance, epsilon)))
    shift = b.sub(b.cast(bias, dtype=kind), b.mul(b.cast(average, dtype=kind), factor))
    wide = b.cast(x, dtype=kind)
    y = b.add(b.mul(wide, per_channel(context, factor, x.rank)), per_channel(context, shift, x.rank))
    return [b.cast(y, dtype=x.dtype), *results]


@onnx_op("InstanceNormalization")
def instance_normalization(context: Context, node: NodeView) -> Value:
    x, scale, bias = node.inputs
    b = context.builder
    y = standardise(context, x, tuple(range(2, x.rank)), node.attribute("epsilon", 1e-5))
    return b.add(b.mul(y, per_channel(context, scale, x.rank)), per_channel(context, bias, x.rank))


@onnx_op("GroupNormalization", since=18)
def group_normalization(context: Context, node: NodeView) -> Value:
    x, scale, bias = node.inputs
    b, groups = context.builder, node.attribute("num_groups")
    channels = x.shape[1]
    wide = b.cast(x, dtype=f32) if x.dtype.bits < 32 else x
    grouped = b.reshape(wide, shape=(x.shape[0], groups, product(x.shape[1:]) // groups))
    y = standardise(context, grouped, (2,), node.attribute("epsilon", 1e-5))
    if node.opset < 21 and scale.shape[0] != channels:  # one factor for each group
        scale, bias = (
            b.reshape(
                b.broadcast(b.reshape(v, shape=(groups, 1)), shape=(groups, channels // groups)),
                shape=(channels,),
            )
            for v in (scale, bias)
        )
    y = b.cast(b.reshape(y, shape=x.shape), dtype=x.dtype)
    return b.add(b.mul(y, per_channel(context, scale, x.rank)), per_channel(context, bias, x.rank))


@onnx_op("LayerNormalization")
def layer_normalization(context: Context, node: NodeView):
    x, b = node.input(0), context.builder
    axis = context.axis(node.attribute("axis", -1), x.rank)
    epsilon = node.attribute("epsilon", 1e-5)
    operands = [v for v in node.inputs if v is not None]
    y = b.layer_norm(*operands, axis=axis, epsilon=epsilon)
    if not node.wants(1) and not node.wants(2):
        return y
    wide = b.cast(x, dtype=f32) if x.dtype.bits < 32 else x
    axes = tuple(range(axis, x.rank))
    average = mean(context, wide, axes)
    centred = b.sub(wide, average)
    inverse = b.rsqrt(b.add(mean(context, b.mul(centred, centred), axes), epsilon))
    return y, average, inverse


@onnx_op("RMSNormalization")
def rms_normalization(context: Context, node: NodeView) -> Value:
    x, scale = node.inputs
    b = context.builder
    axis = context.axis(node.attribute("axis", -1), x.rank)
    return b.rms_norm(x, b.cast(scale, dtype=x.dtype), axis=axis, epsilon=node.attribute("epsilon", 1e-5))


@onnx_op("LRN")
def lrn(context: Context, node: NodeView) -> Value:
    x, b, size = node.input(0), context.builder, node.attribute("size")
    alpha, beta, bias = (
        node.attribute("alpha", 1e-4),
        node.attribute("beta", 0.75),
        node.attribute("bias", 1.0),
    )
    total = _sum_of_neighbours(b, b.mul(x, x), size)
    return b.div(x, _power(b, b.add(b.mul(total, alpha / size), bias), beta))


def _sum_of_neighbours(b: Builder, x: Value, size: int) -> Value:
    """Sums over `size` channels around each, by shifted slices where they are few: they fuse, and go wherever
    a layout moves the channels."""
    channels, rest = x.shape[1], (0,) * (x.rank - 2)
    low, high = (size - 1) // 2, size // 2
    if isinstance(channels, int):
        low, high = min(low, channels), min(high, channels)
    if low + high >= MOST_SLICES:
        flat = b.reshape(x, shape=(x.shape[0], 1, channels, product(x.shape[2:])))
        window = {"kernel": (low + high + 1, 1), "pads": ((low, high), (0, 0))}
        ones = (1, 1)
        return b.reshape(b.pool(flat, function="add", strides=ones, dilations=ones, **window), shape=x.shape)
    padded = b.pad(x, before=(0, low, *rest), after=(0, high, *rest), mode="constant")
    starts = range(low + high + 1)
    return functools.reduce(
        b.add, (b.slice(padded, starts=(0, k, *rest), steps=(1,) * x.rank, shape=x.shape) for k in starts)
    )


def _power(b: Builder, x: Value, exponent: float) -> Value:
    """x ** exponent for x that are positive, by square roots where they do."""
    if exponent == 0.75:
        root = b.sqrt(x)
        return b.mul(root, b.sqrt(root))
    return b.sqrt(x) if exponent == 0.5 else b.pow(x, exponent)


@onnx_op("MeanVarianceNormalization")
def mean_variance_normalization(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    axes = tuple(context.axis(a, x.rank) for a in node.attribute("axes") or [0, 2, 3])
    average = mean(context, x, axes)
    variance = b.sub(mean(context, b.mul(x, x), axes), b.mul(average, average))
    return b.div(b.sub(x, average), b.add(b.sqrt(variance), 1e-9))


@onnx_op("LpNormalization")
def lp_normalization(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    axes = (context.axis(node.attribute("axis", -1), x.rank),)
    if node.attribute("p", 2) == 1:
        norm = b.reduce(b.abs(x), function="add", axes=axes, keepdims=True)
    else:
        norm = b.sqrt(b.reduce(b.mul(x, x), function="add", axes=axes, keepdims=True))
    return b.select(b.eq(norm, 0), b.scalar(0, x.dtype), b.div(x, norm))


@onnx_op("Softmax", "LogSoftmax", since=13)
def softmax(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    op = context.builder.softmax if node.op_type == "Softmax" else context.builder.log_softmax
    return op(x, axis=context.axis(node.attribute("axis", -1), x.rank))


@onnx_op("Softmax", "LogSoftmax")
def softmax_1(context: Context, node: NodeView) -> Value:
    """Before opset 13: over all axes from `axis` on together."""
    x, b = node.input(0), context.builder
    axis = context.axis(node.attribute("axis", 1), x.rank)
    op = b.softmax if node.op_type == "Softmax" else b.log_softmax
    if axis == x.rank - 1:
        return op(x, axis=axis)
    flat = b.reshape(x, shape=(product(x.shape[:axis]), product(x.shape[axis:])))
    return b.reshape(op(flat, axis=1), shape=x.shape)


@onnx_op("Hardmax", since=13)
def hardmax(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    axis = context.axis(node.attribute("axis", -1), x.rank)
    return _hardmax(context, x, axis) if x.rank else b.scalar(1, x.dtype)


def _hardmax(context: Context, x: Value, axis: int) -> Value:
    if x.shape[axis] == 0:
        return x
    b = context.builder
    best = b.argmax(x, axis=axis, keepdims=True, last=False)
    line = b.iota(
        shape=tuple(d if a == axis else 1 for a, d in enumerate(x.shape)), axis=axis, dtype=best.dtype
    )
    return b.cast(b.eq(line, best), dtype=x.dtype)


@onnx_op("Hardmax")
def hardmax_1(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    axis = context.axis(node.attribute("axis", 1), x.rank)
    flat = b.reshape(x, shape=(product(x.shape[:axis]), product(x.shape[axis:])))
    return b.reshape(_hardmax(context, flat, 1), shape=x.shape)
