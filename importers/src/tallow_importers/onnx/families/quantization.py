"""Quantised arithmetic of ONNX, written out exactly in integers and floats."""

from __future__ import annotations

from tallow.dtype import DType, f32, i32, u8
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.convolution import convolve, per_channel
from tallow_importers.onnx.families.matmul import matmul_any_rank
from tallow_importers.onnx.registry import onnx_op


def integer_range(dtype: DType) -> tuple[int, int]:
    if dtype.kind == "int":
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, (1 << dtype.bits) - 1


def spread(context: Context, value: Value, x: Value, axis: int, block: int = 0) -> Value:
    """A scale or zero point shaped to broadcast against x: per tensor, per axis or per block."""
    b = context.builder
    if value.type.size == 1:
        return b.reshape(value, shape=())
    if block:
        opened = b.reshape(value, shape=(*value.shape[: axis + 1], 1, *value.shape[axis + 1 :]))
        many = b.broadcast(opened, shape=(*value.shape[: axis + 1], block, *value.shape[axis + 1 :]))
        merged = b.reshape(
            many, shape=(*value.shape[:axis], value.shape[axis] * block, *value.shape[axis + 1 :])
        )
        return b.slice(merged, starts=(0,) * x.rank, steps=(1,) * x.rank, shape=x.shape)
    return b.reshape(value, shape=tuple(value.shape[0] if a == axis else 1 for a in range(x.rank)))


def quantize(context: Context, x: Value, scale: Value, zero: Value | None, target: DType) -> Value:
    """round(x / scale) + zero, saturated."""
    b = context.builder
    wide = f32 if scale.dtype.bits <= 32 else scale.dtype
    y = b.div(b.cast(x, dtype=wide), b.cast(scale, dtype=wide))
    if not target.is_integer:
        y = y if zero is None else b.add(y, b.cast(zero, dtype=wide))
        return b.cast(y, dtype=target, saturate=True)
    y = b.round(y)
    if zero is not None:
        y = b.add(y, b.cast(zero, dtype=wide))
    low, high = integer_range(target)
    return b.cast(b.max(b.min(y, high), low), dtype=target)


def dequantize(context: Context, x: Value, scale: Value, zero: Value | None) -> Value:
    """(x - zero) * scale in the scale's dtype."""
    b = context.builder
    if x.dtype.is_integer and zero is not None:
        y = b.cast(b.sub(b.cast(x, dtype=i32), b.cast(zero, dtype=i32)), dtype=f32)
    else:
        y = b.cast(x, dtype=f32)
        y = y if zero is None else b.sub(y, b.cast(zero, dtype=f32))
    return b.mul(y, b.cast(scale, dtype=f32))


@onnx_op("QuantizeLinear")
def quantize_linear(context: Context, node: NodeView) -> Value:
    x, scale, zero = node.input(0), node.input(1), node.input(2)
    target = zero.dtype if zero is not None else u8
    if zero is None and node.attribute("output_dtype", 0):
        target = context.dtype(node.attribute("output_dtype"))
    axis = context.axis(node.attribute("axis", 1), x.rank) if scale.type.size != 1 else 0
    block = node.attribute("block_size", 0)
    if node.attribute("precision", 0):
        scale = context.builder.cast(scale, dtype=context.dtype(node.attribute("precision")))
    zero = None if zero is None else spread(context, zero, x, axis, block)
    return quantize(context, x, spread(context, scale, x, axis, block), zero, target)


@onnx_op("DequantizeLinear")
def dequantize_linear(context: Context, node: NodeView) -> Value:
    x, scale, zero = node.input(0), node.input(1), node.input(2)
    axis = context.axis(node.attribute("axis", 1), x.rank) if scale.type.size != 1 else 0
    block = node.attribute("block_size", 0)
    zero = None if zero is None else spread(context, zero, x, axis, block)
    wanted = (
        context.dtype(node.attribute("output_dtype")) if node.attribute("output_dtype", 0) else scale.dtype
    )
    return context.builder.cast(
        dequantize(context, x, spread(context, scale, x, axis, block), zero), dtype=wanted
    )


@onnx_op("DynamicQuantizeLinear")
def dynamic_quantize_linear(context: Context, node: NodeView):
    x, b = node.input(0), context.builder
    axes = tuple(range(x.rank))
    low = b.min(b.reduce(x, function="min", axes=axes, keepdims=False), 0)
    high = b.max(b.reduce(x, function="max", axes=axes, keepdims=False), 0)
    range_ = b.div(b.sub(high, low), 255.0)
    scale = b.select(b.eq(range_, 0), 1.0, range_)  # of zeros alone: the standard has 0, its reference 1/255
    zero = b.round(b.max(b.min(b.div(b.neg(low), scale), 255.0), 0.0))
    y = b.max(b.min(b.add(b.round(b.div(x, scale)), zero), 255.0), 0.0)
    return b.cast(y, dtype=u8), scale, b.cast(zero, dtype=u8)


def centred(context: Context, x: Value, zero: Value | None, axis: int | None) -> Value:
    """x - zero in 32 bits; a vector of zero points lies along `axis`."""
    b = context.builder
    wide = b.cast(x, dtype=i32)
    if zero is None:
        return wide
    zero = b.cast(zero, dtype=i32)
    if zero.type.size == 1:
        return b.sub(wide, b.reshape(zero, shape=()))
    if zero.rank == 1:
        axis = axis % x.rank
        zero = b.reshape(zero, shape=tuple(zero.shape[0] if a == axis else 1 for a in range(x.rank)))
    return b.sub(wide, zero)


@onnx_op("MatMulInteger")
def matmul_integer(context: Context, node: NodeView) -> Value:
    a = centred(context, node.input(0), node.input(2), -2)
    b = centred(context, node.input(1), node.input(3), -1)
    return matmul_any_rank(context, a, b)


def requantize(context: Context, total: Value, factor: Value, zero: Value | None, target: DType) -> Value:
    """An i32 result times a float factor, rounded and saturated into the target."""
    b = context.builder
    y = b.round(b.mul(b.cast(total, dtype=f32), factor))
    y = y if zero is None else b.add(y, b.cast(b.reshape(zero, shape=()), dtype=f32))
    low, high = integer_range(target)
    return b.cast(b.max(b.min(y, high), low), dtype=target)


@onnx_op("QLinearMatMul")
def qlinear_matmul(context: Context, node: NodeView) -> Value:
    a, a_scale, a_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs
    b = context.builder
    total = matmul_any_rank(context, centred(context, a, a_zero, -2), centred(context, w, w_zero, -1))

    def lay(scale: Value, axis: int) -> Value:
        scale = b.cast(scale, dtype=f32)
        if scale.type.size == 1:
            return b.reshape(scale, shape=())
        return b.reshape(scale, shape=(scale.shape[0], 1)) if axis == -2 and scale.rank == 1 else scale

    factor = b.div(b.mul(lay(a_scale, -2), lay(w_scale, -1)), lay(y_scale, -1))
    return requantize(context, total, factor, y_zero, y_zero.dtype)


@onnx_op("QLinearConv")
def qlinear_conv(context: Context, node: NodeView) -> Value:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    b = context.builder
    total = convolve(context, node, centred(context, x, x_zero, None), centred(context, w, w_zero, 0))
    if node.input(8) is not None:
        total = b.add(total, per_channel(context, node.input(8), total.rank))
    factor = b.div(b.mul(b.reshape(x_scale, shape=()), w_scale), b.reshape(y_scale, shape=()))
    factor = (
        per_channel(context, factor, total.rank) if factor.type.size != 1 else b.reshape(factor, shape=())
    )
    return requantize(context, total, factor, y_zero, y_zero.dtype)
