"""Operators of the com.microsoft domain that exported and optimised models contain."""

from __future__ import annotations

from tallow.dim import product
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families import convolution, detection, gather, matmul, shape
from tallow_importers.onnx.registry import REGISTRY, onnx_op

MS = "com.microsoft"

# Operators that are those of ONNX under another name or in the other domain.
for _name, _handler in {
    "Trilu": shape.trilu,
    "Pad": shape.pad,
    "GatherND": gather.gather_nd,
    "GridSample": detection.grid_sample,
}.items():
    onnx_op(_name, domain=MS)(_handler)


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


@onnx_op("FusedMatMul", "TransposeMatMul", domain=MS)
def fused_matmul(context: Context, node: NodeView) -> Value:
    b = context.builder

    def turned(value: Value, side: str) -> Value:
        order = list(range(value.rank))
        if node.attribute(f"transBatch{side}", 0):  # rows stand before the batches
            order = [*order[1:-1], 0, order[-1]]
        if node.attribute(f"trans{side}", 0) and value.rank > 1:
            order[-2:] = reversed(order[-2:])
        return value if order == sorted(order) else b.transpose(value, permutation=tuple(order))

    operands = [turned(value, side) for value, side in zip(node.inputs, "AB", strict=True)]
    result, alpha = matmul.matmul_any_rank(context, *operands), node.attribute("alpha", 1.0)
    return result if alpha == 1.0 else b.mul(result, alpha)


# Fused activations: the names of their parameters, in order.
_ACTIVATIONS = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}


def activated(context: Context, node: NodeView, x: Value, parameters) -> Value:
    """x through the activation that the node names, if any."""
    name = node.attribute("activation", "")
    if not name:
        return x
    if name not in _ACTIVATIONS:
        context.unsupported(f"activation {name!r}")
    attributes = dict(zip(_ACTIVATIONS[name], parameters, strict=False))
    proto = type(node.proto)()
    proto.CopyFrom(node.proto)
    proto.op_type = name
    return REGISTRY.find("", name, 6)(context, NodeView(proto, [x], attributes, 6))


@onnx_op("FusedConv", domain=MS)
def fused_conv(context: Context, node: NodeView) -> Value:
    y, addend = convolution.conv(context, node), node.input(3)
    y = y if addend is None else context.builder.add(y, addend)
    return activated(context, node, y, node.attribute("activation_params") or ())


@onnx_op("FusedGemm", domain=MS)
def fused_gemm(context: Context, node: NodeView) -> Value:
    names = ("alpha", "beta", "gamma")
    parameters = [node.attributes[f"activation_{n}"] for n in names if f"activation_{n}" in node.attributes]
    return activated(context, node, matmul.gemm(context, node), parameters)


def channels_first(context: Context, x: Value) -> Value:
    """[N, ..., C] as [N, C, ...]."""
    return context.builder.transpose(x, permutation=(0, x.rank - 1, *range(1, x.rank - 1)))


def channels_last(context: Context, x: Value) -> Value:
    """[N, C, ...] as [N, ..., C]."""
    return context.builder.transpose(x, permutation=(0, *range(2, x.rank), 1))


@onnx_op("NhwcConv", "NhwcFusedConv", domain=MS)
def nhwc_conv(context: Context, node: NodeView) -> Value:
    x, w, bias, addend = (node.input(i) for i in range(4))
    inputs = [channels_first(context, x), channels_first(context, w), bias, addend]
    if addend is not None:
        inputs[3] = channels_first(context, addend)
    return channels_last(
        context, fused_conv(context, NodeView(node.proto, inputs, node.attributes, node.opset))
    )


@onnx_op("NhwcMaxPool", domain=MS)
def nhwc_max_pool(context: Context, node: NodeView) -> Value:
    view = NodeView(node.proto, [channels_first(context, node.input(0))], node.attributes, node.opset)
    return channels_last(context, convolution.max_pool(context, view))


# Normalisation -------------------------------------------------------------------------------------


def _summed(context: Context, node: NodeView, bias: Value | None) -> Value:
    """Input, skip connection and bias together; the statistics that training wants are refused."""
    if node.wants(1) or node.wants(2):
        context.unsupported("the mean and the deviation as results")
    total = context.builder.add(node.input(0), node.input(1))
    return total if bias is None else context.builder.add(total, bias)


@onnx_op("SkipLayerNormalization", domain=MS)
def skip_layer_norm(context: Context, node: NodeView):
    scale, shift, bias = (node.input(i) for i in (2, 3, 4))
    total = _summed(context, node, bias)
    operands = [total, scale] if shift is None else [total, scale, shift]
    epsilon = node.attribute("epsilon", 1e-12)
    y = context.builder.layer_norm(*operands, axis=total.rank - 1, epsilon=epsilon)
    return y, None, None, total


@onnx_op("SkipSimplifiedLayerNormalization", domain=MS)
def skip_simplified_layer_norm(context: Context, node: NodeView):
    total = _summed(context, node, node.input(3))
    epsilon = node.attribute("epsilon", 1e-5)
    y = context.builder.rms_norm(total, node.input(2), axis=total.rank - 1, epsilon=epsilon)
    return y, None, None, total


@onnx_op("SimplifiedLayerNormalization", domain=MS)
@onnx_op("SimplifiedLayerNormalization")
def simplified_layer_norm(context: Context, node: NodeView) -> Value:
    x, axis = node.input(0), node.attribute("axis", -1)
    epsilon = node.attribute("epsilon", 1e-5)
    return context.builder.rms_norm(x, node.input(1), axis=context.axis(axis, x.rank), epsilon=epsilon)


@onnx_op("BiasSoftmax", domain=MS)
def bias_softmax(context: Context, node: NodeView) -> Value:
    """Softmax over all axes from `axis` on together, of data plus a bias that lacks some of its axes."""
    b, (x, bias) = context.builder, node.inputs
    axis = context.axis(node.attribute("axis", 1), x.rank)
    if not node.attribute("is_inner_broadcast", 1) and bias.rank < x.rank:
        bias = b.reshape(bias, shape=(*bias.shape[:-1], *(1,) * (x.rank - bias.rank), bias.shape[-1]))
    total = b.add(x, bias)
    rows, columns = product(x.shape[:axis]), product(x.shape[axis:])
    flat = b.reshape(total, shape=(rows, columns))
    return b.reshape(b.softmax(flat, axis=1), shape=x.shape)


# Shapes and the rest -------------------------------------------------------------------------------


@onnx_op("Range", domain=MS)
def range_(context: Context, node: NodeView) -> Value:
    inputs = list(node.inputs[:2])
    delta = node.input(2)
    inputs.append(context.builder.scalar(1, inputs[0].dtype) if delta is None else delta)
    return shape.range_(context, NodeView(node.proto, inputs, node.attributes, node.opset))


@onnx_op("ExpandDims", domain=MS)
def expand_dims(context: Context, node: NodeView) -> Value:
    return shape.unsqueeze(context, node)


@onnx_op("Unique", domain=MS)
def unique(context: Context, node: NodeView):
    """Values in the order of their first appearance, where each element's is, and how many there are."""
    view = NodeView(node.proto, list(node.inputs), {"sorted": 0}, node.opset)
    y, _, inverse, counts = detection.unique(context, view)
    return y, inverse, counts


@onnx_op("CDist", domain=MS)
def cdist(context: Context, node: NodeView) -> Value:
    """Distances between the rows of two matrices."""
    b, (x, y) = context.builder, node.inputs
    rows = b.reshape(x, shape=(x.shape[0], 1, x.shape[1]))
    difference = b.sub(rows, b.reshape(y, shape=(1, *y.shape)))
    total = b.reduce(b.mul(difference, difference), function="add", axes=(2,), keepdims=False)
    return total if node.attribute("metric", "sqeuclidean") == "sqeuclidean" else b.sqrt(total)


@onnx_op("ComplexMul", "ComplexMulConj", domain=MS)
def complex_mul(context: Context, node: NodeView) -> Value:
    """Products of complex numbers whose parts are the last axis."""
    b = context.builder
    (a_real, a_imaginary), (c_real, c_imaginary) = (
        [
            b.slice(x, starts=(*(0,) * (x.rank - 1), i), steps=(1,) * x.rank, shape=(*x.shape[:-1], 1))
            for i in (0, 1)
        ]
        for x in node.inputs
    )
    if node.op_type == "ComplexMulConj":
        c_imaginary = b.neg(c_imaginary)
    real = b.sub(b.mul(a_real, c_real), b.mul(a_imaginary, c_imaginary))
    imaginary = b.add(b.mul(a_real, c_imaginary), b.mul(a_imaginary, c_real))
    return b.concat(real, imaginary, axis=real.rank - 1)


@onnx_op("Inverse", domain=MS)
def inverse(context: Context, node: NodeView) -> Value:
    return context.builder.inverse(node.input(0))
