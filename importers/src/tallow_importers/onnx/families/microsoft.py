"""Operators of the com.microsoft domain that exported and quantised models contain."""

from __future__ import annotations

from tallow.dtype import f32, i32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families import quantization as quant
from tallow_importers.onnx.families.matmul import matmul_any_rank
from tallow_importers.onnx.families.recurrent import layer_of
from tallow_importers.onnx.registry import onnx_op

MS = "com.microsoft"


@onnx_op("Gelu", domain=MS)
def gelu(context: Context, node: NodeView) -> Value:
    return context.builder.gelu(node.input(0), approximate="none")


@onnx_op("FastGelu", domain=MS)
def fast_gelu(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    x = x if node.input(1) is None else context.builder.add(x, node.input(1))
    return context.builder.gelu(x, approximate="tanh")


@onnx_op("BiasGelu", domain=MS)
def bias_gelu(context: Context, node: NodeView) -> Value:
    return context.builder.gelu(context.builder.add(*node.inputs), approximate="none")


@onnx_op("QuickGelu", domain=MS)
def quick_gelu(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.mul(x, b.sigmoid(b.mul(x, float(node.attribute("alpha", 1.702)))))


@onnx_op("FusedMatMul", domain=MS)
def fused_matmul(context: Context, node: NodeView) -> Value:
    b, (x, y) = context.builder, node.inputs

    def turned(value: Value) -> Value:
        order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
        return b.transpose(value, permutation=tuple(order))

    x = turned(x) if node.attribute("transA", 0) else x
    y = turned(y) if node.attribute("transB", 0) else y
    result, alpha = matmul_any_rank(context, x, y), node.attribute("alpha", 1.0)
    return result if alpha == 1.0 else b.mul(result, alpha)


@onnx_op("SkipLayerNormalization", domain=MS)
def skip_layer_norm(context: Context, node: NodeView):
    b = context.builder
    x, skip, scale, bias, extra = (node.input(i) for i in range(5))
    total = b.add(x, skip)
    total = total if extra is None else b.add(total, extra)
    operands = [total, scale] if bias is None else [total, scale, bias]
    y = b.layer_norm(*operands, axis=total.rank - 1, epsilon=node.attribute("epsilon", 1e-12))
    return y, None, None, total


@onnx_op("SimplifiedLayerNormalization", domain=MS)
@onnx_op("SimplifiedLayerNormalization")
def simplified_layer_norm(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    return context.builder.rms_norm(
        x,
        node.input(1),
        axis=context.axis(node.attribute("axis", -1), x.rank),
        epsilon=node.attribute("epsilon", 1e-5),
    )


@onnx_op("SkipSimplifiedLayerNormalization", domain=MS)
def skip_simplified_layer_norm(context: Context, node: NodeView):
    b = context.builder
    total = b.add(node.input(0), node.input(1))
    y = b.rms_norm(total, node.input(2), axis=total.rank - 1, epsilon=node.attribute("epsilon", 1e-5))
    return y, None, None, total


@onnx_op("MatMulIntegerToFloat", domain=MS)
def matmul_integer_to_float(context: Context, node: NodeView) -> Value:
    b = context.builder
    a, w, a_scale, w_scale, a_zero, w_zero, bias = (node.input(i) for i in range(7))
    total = matmul_any_rank(
        context, quant.centred(context, a, a_zero, -2), quant.centred(context, w, w_zero, -1)
    )
    y = b.mul(b.cast(total, dtype=f32), b.mul(b.reshape(a_scale, shape=()), w_scale))
    return y if bias is None else b.add(y, bias)


@onnx_op("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_matmul(context: Context, node: NodeView) -> Value:
    b = context.builder
    x, w, w_scale, w_zero, bias = (node.input(i) for i in range(5))
    quantised, scale, zero = quant.dynamic_quantize_linear(context, NodeView(node.proto, [x], {}, node.opset))
    total = matmul_any_rank(
        context, quant.centred(context, quantised, zero, -2), quant.centred(context, w, w_zero, -1)
    )
    y = b.mul(b.cast(total, dtype=f32), b.mul(scale, w_scale))
    return y if bias is None else b.add(y, bias)


def _real(context: Context, x: Value, scale: Value, zero: Value | None) -> Value:
    b = context.builder
    zero = None if zero is None else b.reshape(zero, shape=())
    return quant.dequantize(context, x, b.reshape(scale, shape=()), zero)


def _coded(context: Context, y: Value, scale: Value, zero: Value) -> Value:
    b = context.builder
    return quant.quantize(context, y, b.reshape(scale, shape=()), b.reshape(zero, shape=()), zero.dtype)


@onnx_op("QLinearAdd", "QLinearMul", domain=MS)
def qlinear_binary(context: Context, node: NodeView) -> Value:
    b = context.builder
    a = _real(context, *node.inputs[:3])
    c = _real(context, *node.inputs[3:6])
    y = (b.add if node.op_type == "QLinearAdd" else b.mul)(a, c)
    return _coded(context, y, node.input(6), node.input(7))


@onnx_op("QLinearSigmoid", domain=MS)
def qlinear_sigmoid(context: Context, node: NodeView) -> Value:
    y = context.builder.sigmoid(_real(context, *node.inputs[:3]))
    return _coded(context, y, node.input(3), node.input(4))


@onnx_op("QLinearLeakyRelu", domain=MS)
def qlinear_leaky_relu(context: Context, node: NodeView) -> Value:
    b, x = context.builder, _real(context, *node.inputs[:3])
    y = b.select(b.lt(x, 0), b.mul(x, node.attribute("alpha", 0.01)), x)
    return _coded(context, y, node.input(3), node.input(4))


@onnx_op("QLinearGlobalAveragePool", domain=MS)
def qlinear_global_average_pool(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    last = bool(node.attribute("channels_last", 0))
    axes = tuple(range(1, x.rank - 1)) if last else tuple(range(2, x.rank))
    real = _real(context, *node.inputs[:3])
    total = b.reduce(real, function="add", axes=axes, keepdims=True)
    count = 1
    for a in axes:
        count = count * x.shape[a]
    return _coded(context, b.div(total, context.size(count, f32)), node.input(3), node.input(4))


@onnx_op("QLinearConcat", domain=MS)
def qlinear_concat(context: Context, node: NodeView) -> Value:
    scale, zero, *rest = node.inputs
    parts = [_real(context, *rest[i : i + 3]) for i in range(0, len(rest), 3)]
    axis = context.axis(node.attribute("axis"), parts[0].rank)
    return _coded(context, context.builder.concat(*parts, axis=axis), scale, zero)


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


@onnx_op("DynamicQuantizeLSTM", domain=MS)
def dynamic_quantize_lstm(context: Context, node: NodeView) -> list[Value]:
    b, (w, r) = context.builder, node.inputs[1:3]
    layer = layer_of(context, node, "LSTM", r.shape[0], r.shape[1])
    quantisation = [
        b.reshape(v, shape=(v.shape[0], 1, v.shape[1] if v.rank == 2 else 1)) for v in node.inputs[8:12]
    ]
    operands = [layer.x, w, r, layer.bias, layer.h0, layer.c0, layer.lengths, *quantisation]
    extra = [] if layer.peepholes is None else [layer.peepholes]
    return layer.results(context, b.dynamic_quantize_lstm(*operands, *extra, **layer.options))


@onnx_op("Inverse", domain=MS)
def inverse(context: Context, node: NodeView) -> Value:
    return context.builder.inverse(node.input(0))
