"""Quantised operators of the com.microsoft domain: integer sums are exact, results round as the operator says."""

from __future__ import annotations

from tallow.dtype import f32, i32, i64, u8
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families import quantization as quant
from tallow_importers.onnx.families.matmul import matmul_any_rank
from tallow_importers.onnx.families.microsoft.attention import embed, parts, refuse, self_attention
from tallow_importers.onnx.families.microsoft.fused import MS, channels_first, channels_last, standard
from tallow_importers.onnx.families.normalization import mean
from tallow_importers.onnx.families.recurrent import layer_of
from tallow_importers.onnx.registry import onnx_op

onnx_op("MatMulInteger16", domain=MS)(quant.matmul_integer)


def _real(context: Context, x: Value, scale: Value, zero: Value | None) -> Value:
    b = context.builder
    zero = None if zero is None else b.reshape(zero, shape=())
    return quant.dequantize(context, x, b.reshape(scale, shape=()), zero)


def _coded(context: Context, y: Value, scale: Value, zero: Value | None, like: Value) -> Value:
    b = context.builder
    zero = None if zero is None else b.reshape(zero, shape=())
    return quant.quantize(context, y, b.reshape(scale, shape=()), zero, like.dtype)


# Products ------------------------------------------------------------------------------------------


@onnx_op("MatMulIntegerToFloat", domain=MS)
def matmul_integer_to_float(context: Context, node: NodeView) -> Value:
    a, w, a_scale, w_scale, a_zero, w_zero, bias = (node.input(i) for i in range(7))
    return _scaled_product(context, (a, a_scale, a_zero), (w, w_scale, w_zero), bias)


def _scaled_product(context: Context, left, right, bias: Value | None) -> Value:
    """The product of two coded operands, (codes, scale, zero point), in the dtype of the right one's scale; computed
    in f32."""
    b, (a, a_scale, a_zero), (w, w_scale, w_zero) = context.builder, left, right
    total = matmul_any_rank(
        context, quant.centred(context, a, a_zero, -2), quant.centred(context, w, w_zero, -1)
    )
    a_factor, w_factor = b.cast(b.reshape(a_scale, shape=()), dtype=f32), b.cast(w_scale, dtype=f32)
    y = b.mul(b.cast(total, dtype=f32), b.mul(a_factor, w_factor))
    y = y if bias is None else b.add(y, b.cast(bias, dtype=f32))
    return b.cast(y, dtype=w_scale.dtype)


@onnx_op("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_matmul(context: Context, node: NodeView) -> Value:
    x, w, w_scale, w_zero, bias = (node.input(i) for i in range(5))
    coded = quant.dynamic_quantize_linear(context, NodeView(node.proto, [x], {}, node.opset))
    return _scaled_product(context, coded, (w, w_scale, w_zero), bias)


@onnx_op("QGemm", domain=MS)
def qgemm(context: Context, node: NodeView) -> Value:
    b = context.builder
    a, a_scale, a_zero, w, w_scale, w_zero, c, y_scale, y_zero = (node.input(i) for i in range(9))
    a, w = (
        quant.centred(context, a, a_zero, None),
        quant.centred(context, w, w_zero, 0 if node.attribute("transB", 0) else 1),
    )
    a = b.transpose(a, permutation=(1, 0)) if node.attribute("transA", 0) else a
    w = b.transpose(w, permutation=(1, 0)) if node.attribute("transB", 0) else w
    total = b.matmul(a, w)
    total = total if c is None else b.add(total, b.cast(c, dtype=i32))
    factor = b.mul(b.mul(b.reshape(a_scale, shape=()), w_scale), float(node.attribute("alpha", 1.0)))
    factor = b.reshape(factor, shape=()) if factor.type.size == 1 else factor
    if y_scale is None:
        return b.mul(b.cast(total, dtype=f32), factor)
    return quant.requantize(context, total, b.div(factor, b.reshape(y_scale, shape=())), y_zero, y_zero.dtype)


def unpacked(context: Context, x: Value, bits: int) -> Value:
    """Numbers of 2, 4 or 8 bits, lowest bits first, along the last axis of bytes."""
    if bits == 8:
        return x
    b, each = context.builder, 8 // bits
    shifts = b.cast(b.mul(b.iota(shape=(each,), axis=0, dtype=i32), bits), dtype=u8)
    opened = b.reshape(x, shape=(*x.shape, 1))
    codes = b.bit_and(b.shift_right(opened, shifts), (1 << bits) - 1)
    return b.reshape(codes, shape=(*x.shape[:-1], x.shape[-1] * each))


@onnx_op("MatMulNBits", domain=MS)
def matmul_n_bits(context: Context, node: NodeView) -> Value:
    """The right operand's columns are coded in blocks of `block_size` with a scale and a zero point each."""
    refuse(context, node, ("weight_prepacked",), {4: "g_idx"})
    b, (a, w, scales) = context.builder, node.inputs[:3]
    zeros, bias = node.input(3), node.input(5)
    n, k, block = (node.attribute(name) for name in ("N", "K", "block_size"))
    bits, blocks = node.attribute("bits", 4), -(-k // block)
    codes = unpacked(context, b.reshape(w, shape=(n, blocks, block * bits // 8)), bits)
    scales = b.reshape(scales, shape=(n, blocks, 1))
    if zeros is None:
        zeros = b.scalar(1 << (bits - 1), scales.dtype)
    elif zeros.dtype == u8:
        rows = unpacked(context, b.reshape(zeros, shape=(n, -(-blocks * bits // 8))), bits)
        (rows,) = parts(context, rows, 1, [blocks])
        zeros = b.reshape(rows, shape=(n, blocks, 1))
    else:
        zeros = b.reshape(zeros, shape=(n, blocks, 1))
    real = b.mul(
        b.sub(b.cast(codes, dtype=a.dtype), b.cast(zeros, dtype=a.dtype)), b.cast(scales, dtype=a.dtype)
    )
    (columns,) = parts(context, b.reshape(real, shape=(n, blocks * block)), 1, [k])
    y = matmul_any_rank(context, a, b.transpose(columns, permutation=(1, 0)))
    return y if bias is None else b.add(y, bias)


@onnx_op("GatherBlockQuantized", domain=MS)
def gather_block_quantized(context: Context, node: NodeView) -> Value:
    """Rows of a table whose rows are coded in blocks."""
    data, indices, scales, zeros = (node.input(i) for i in range(4))
    b, bits = context.builder, node.attribute("bits", 4)
    axis = context.axis(node.attribute("gather_axis", 0), data.rank)
    along = context.axis(node.attribute("quantize_axis", 1), data.rank)
    if axis == along or along != data.rank - 1:
        context.unsupported("blocks along an axis that is gathered, or that is not the last")
    at, packed = b.cast(indices, dtype=i64), data.dtype == u8
    codes, scale = b.gather(data, at, axis=axis), b.gather(scales, at, axis=axis)
    codes = unpacked(context, codes, bits) if packed else codes
    zero = None if zeros is None else b.gather(zeros, at, axis=axis)
    if packed:
        middle = b.scalar(1 << (bits - 1), i32)
        zero = middle if zero is None else unpacked(context, zero, bits)
        if zero.rank:
            *_, (zero,) = [parts(context, zero, zero.rank - 1, [scale.shape[-1]])]
    block = node.attribute("block_size", 128)
    scale = quant.spread(context, scale, codes, scale.rank - 1, block)
    if zero is not None and zero.rank:
        zero = quant.spread(context, zero, codes, zero.rank - 1, block)
    return b.cast(quant.dequantize(context, codes, scale, zero), dtype=scales.dtype)


@onnx_op("QAttention", domain=MS)
def qattention(context: Context, node: NodeView):
    refuse(context, node, ("do_rotary", "past_present_share_buffer"))
    x, w, bias, x_scale, w_scale, mask, x_zero, w_zero, past = (node.input(i) for i in range(9))
    projected = _scaled_product(context, (x, x_scale, x_zero), (w, w_scale, w_zero), bias)
    sizes = [projected.shape[2] // 3] * 3
    return self_attention(context, node, projected, sizes, mask, past, None)


@onnx_op("QEmbedLayerNormalization", domain=MS)
def qembed_layer_norm(context: Context, node: NodeView):
    given = [node.input(i) for i in range(18)]
    coded = zip(given[2:7], given[8:13], given[13:18], strict=True)
    words, places, kinds, scale, shift = (None if x is None else _real(context, x, s, z) for x, s, z in coded)
    return embed(context, node, (given[0], given[1], None), (words, kinds, places), scale, shift, given[7])[
        :2
    ]


@onnx_op("DynamicQuantizeLSTM", domain=MS)
def dynamic_quantize_lstm(context: Context, node: NodeView) -> list[Value]:
    b, (w, r) = context.builder, node.inputs[1:3]
    layer = layer_of(context, node, "LSTM", r.shape[0], r.shape[1])
    quantisation = [
        b.reshape(v, shape=(v.shape[0], 1, v.shape[1] if v.rank == 2 else 1)) for v in node.inputs[8:12]
    ]
    operands = [layer.x, w, r, layer.bias, layer.h0, layer.c0, layer.lengths, *quantisation]
    extra = [] if layer.peepholes is None else [layer.peepholes]
    options = {**layer.options, "whole": node.input(4) is None}
    return layer.results(context, b.dynamic_quantize_lstm(*operands, *extra, **options))


# Elementwise and pooling ---------------------------------------------------------------------------


@onnx_op("QLinearAdd", domain=MS)
def qlinear_add(context: Context, node: NodeView) -> Value:
    given = [node.input(i) for i in range(8)]
    y = context.builder.add(_real(context, *given[:3]), _real(context, *given[3:6]))
    return _coded(context, y, given[6], given[7], given[0])


@onnx_op("QLinearMul", domain=MS)
def qlinear_mul(context: Context, node: NodeView) -> Value:
    """Codes are multiplied as integers, so that what lies in the middle of two codes is found there."""
    b = context.builder
    x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero = (node.input(i) for i in range(8))
    total = b.mul(quant.centred(context, x, x_zero, None), quant.centred(context, y, y_zero, None))
    x_scale, y_scale, z_scale = (b.reshape(s, shape=()) for s in (x_scale, y_scale, z_scale))
    factor = b.div(b.mul(x_scale, y_scale), z_scale)
    return quant.requantize(context, total, factor, z_zero, x.dtype)


@onnx_op("QLinearSigmoid", domain=MS)
def qlinear_sigmoid(context: Context, node: NodeView) -> Value:
    x, scale, zero, y_scale, y_zero = (node.input(i) for i in range(5))
    return _coded(context, context.builder.sigmoid(_real(context, x, scale, zero)), y_scale, y_zero, x)


@onnx_op("QLinearLeakyRelu", domain=MS)
def qlinear_leaky_relu(context: Context, node: NodeView) -> Value:
    x, scale, zero, y_scale, y_zero = (node.input(i) for i in range(5))
    b, real = context.builder, _real(context, x, scale, zero)
    y = b.select(b.lt(real, 0), b.mul(real, node.attribute("alpha", 0.01)), real)
    return _coded(context, y, y_scale, y_zero, x)


@onnx_op("QLinearSoftmax", domain=MS)
def qlinear_softmax(context: Context, node: NodeView) -> Value:
    x, scale, zero, y_scale, y_zero = (node.input(i) for i in range(5))
    real, opset = _real(context, x, scale, zero), node.attribute("opset", 13)
    y = standard(context, node, "Softmax", [real], node.attributes, opset)
    return _coded(context, y, y_scale, y_zero, x)


@onnx_op("QLinearWhere", domain=MS)
def qlinear_where(context: Context, node: NodeView) -> Value:
    condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero = node.inputs
    real = [_real(context, *operand) for operand in ((x, x_scale, x_zero), (y, y_scale, y_zero))]
    return _coded(context, context.builder.select(condition, *real), z_scale, z_zero, x)


@onnx_op("QLinearReduceMean", domain=MS)
def qlinear_reduce_mean(context: Context, node: NodeView) -> Value:
    x, scale, zero, y_scale, y_zero = (node.input(i) for i in range(5))
    axes = tuple(context.axis(a, x.rank) for a in node.attribute("axes") or range(x.rank))
    y = mean(context, _real(context, x, scale, zero), axes)
    if not node.attribute("keepdims", 1):
        y = context.builder.reshape(y, shape=tuple(d for a, d in enumerate(y.shape) if a not in axes))
    return _coded(context, y, y_scale, y_zero, x)


@onnx_op("QLinearGlobalAveragePool", domain=MS)
def qlinear_global_average_pool(context: Context, node: NodeView) -> Value:
    x, scale, zero, y_scale, y_zero = (node.input(i) for i in range(5))
    last = bool(node.attribute("channels_last", 0))
    axes = tuple(range(1, x.rank - 1)) if last else tuple(range(2, x.rank))
    return _coded(context, mean(context, _real(context, x, scale, zero), axes), y_scale, y_zero, x)


@onnx_op("QLinearAveragePool", domain=MS)
def qlinear_average_pool(context: Context, node: NodeView) -> Value:
    x, scale, zero, y_scale, y_zero = (node.input(i) for i in range(5))
    last, real = bool(node.attribute("channels_last", 0)), _real(context, x, scale, zero)
    real = channels_first(context, real) if last else real
    y = standard(context, node, "AveragePool", [real], node.attributes)
    return _coded(context, channels_last(context, y) if last else y, y_scale, y_zero, x)


@onnx_op("QLinearConcat", domain=MS)
def qlinear_concat(context: Context, node: NodeView) -> Value:
    scale, zero, *rest = node.inputs
    real = [_real(context, *rest[i : i + 3]) for i in range(0, len(rest), 3)]
    axis = context.axis(node.attribute("axis"), real[0].rank)
    return _coded(context, context.builder.concat(*real, axis=axis), scale, zero, rest[0])


@onnx_op("QLinearConv", domain=MS)
def qlinear_conv(context: Context, node: NodeView) -> Value:
    if not node.attribute("channels_last", 0):
        return quant.qlinear_conv(context, node)
    x, *rest = node.inputs
    view = NodeView(node.proto, [channels_first(context, x), *rest], node.attributes, node.opset)
    return channels_last(context, quant.qlinear_conv(context, view))
