"""Operators of the com.microsoft domain that exported and optimised models contain."""

from __future__ import annotations

from tallow.dim import Dim, product
from tallow.dtype import f32, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families import convolution, matmul
from tallow_importers.onnx.registry import REGISTRY, onnx_op

MS = "com.microsoft"


def standard(context: Context, node: NodeView, op: str, inputs, attributes, opset: int = 17):
    """What ONNX's own operator of that name makes of these operands and attributes."""
    proto = type(node.proto)()
    proto.CopyFrom(node.proto)
    proto.op_type = op
    return REGISTRY.find("", op, opset)(context, NodeView(proto, list(inputs), attributes, opset))


@onnx_op("Trilu", "Pad", "GatherND", "GridSample", "QuantizeLinear", "DequantizeLinear", domain=MS)
def same(context: Context, node: NodeView):
    """Operators that ONNX took over as they were."""
    return standard(context, node, node.op_type, node.inputs, node.attributes)


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
    return standard(context, node, name, [x], attributes, opset=6)  # when limits were attributes


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
    x = channels_first(context, node.input(0))
    return channels_last(context, standard(context, node, "MaxPool", [x], node.attributes))


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
    """In the dtype of the scale; operands of two dtypes meet in the wider of theirs and f32."""
    b, x, scale = context.builder, node.input(0), node.input(1)
    axis, epsilon = context.axis(node.attribute("axis", -1), x.rank), node.attribute("epsilon", 1e-5)
    if x.dtype == scale.dtype:
        return b.rms_norm(x, scale, axis=axis, epsilon=epsilon)
    wide = max(x.dtype, scale.dtype, f32, key=lambda dtype: dtype.bits)
    y = b.rms_norm(b.cast(x, dtype=wide), b.cast(scale, dtype=wide), axis=axis, epsilon=epsilon)
    return b.cast(y, dtype=scale.dtype)


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
    start, limit, delta = (node.input(i) for i in range(3))
    delta = context.builder.scalar(1, start.dtype) if delta is None else delta
    return standard(context, node, "Range", [start, limit, delta], {})


@onnx_op("ExpandDims", domain=MS)
def expand_dims(context: Context, node: NodeView) -> Value:
    return standard(context, node, "Unsqueeze", node.inputs, {})


@onnx_op("Unique", domain=MS)
def unique(context: Context, node: NodeView):
    """Values in the order of their first appearance, where each element's is, and how many there are."""
    y, _, inverse, counts = standard(context, node, "Unique", node.inputs, {"sorted": 0})
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


@onnx_op("CropAndResize", domain=MS)
def crop_and_resize(context: Context, node: NodeView) -> Value:
    """Regions of pictures, corners given as shares of the height and the width, on grids of one size."""
    x, regions, numbers, size = node.inputs
    b, (rows, columns) = context.builder, context.constant(size, "a size of crops").tolist()
    count, (_, channels, height, width) = regions.shape[0], x.shape
    flat = b.reshape(b.gather(x, b.cast(numbers, dtype=i64), axis=0), shape=(count, channels, height * width))

    def places(low: int, steps: int, extent: Dim) -> Value:
        """Where the grid's lines are, [count, steps], counted in pixels."""
        start, stop = (
            b.slice(regions, starts=(0, at), steps=(1, 1), shape=(count, 1)) for at in (low, low + 2)
        )
        last = context.size(extent - 1, x.dtype)
        if steps == 1:
            return b.mul(b.mul(b.add(start, stop), 0.5), last)
        line = b.cast(b.iota(shape=(1, steps), axis=1, dtype=i64), dtype=x.dtype)
        return b.mul(b.add(start, b.mul(b.div(b.sub(stop, start), float(steps - 1)), line)), last)

    y = b.reshape(places(0, rows, height), shape=(count, rows, 1))
    at_x = b.reshape(places(1, columns, width), shape=(count, 1, columns))

    def inside(at: Value, extent: Dim) -> Value:
        return b.and_(b.ge(at, 0), b.le(at, context.size(extent - 1, x.dtype)))

    def pixels(row: Value, column: Value) -> Value:
        limits = ((row, height), (column, width))
        row, column = (b.max(b.min(b.cast(v, dtype=i64), context.size(e - 1)), 0) for v, e in limits)
        index = b.add(b.mul(row, context.size(width)), column)
        index = b.broadcast(
            b.reshape(index, shape=(count, 1, rows * columns)), shape=(count, channels, rows * columns)
        )
        return b.reshape(b.gather_elements(flat, index, axis=2), shape=(count, channels, rows, columns))

    if node.attribute("mode", "bilinear") == "nearest":
        half = 0.5
        result = pixels(b.floor(b.add(y, half)), b.floor(b.add(at_x, half)))
    else:
        top, left = b.floor(y), b.floor(at_x)
        bottom, right = b.ceil(y), b.ceil(at_x)

        def mix(low: Value, high: Value, share: Value) -> Value:
            share = b.reshape(share, shape=(count, 1, *share.shape[1:]))
            return b.add(low, b.mul(b.sub(high, low), share))

        upper = mix(pixels(top, left), pixels(top, right), b.sub(at_x, left))
        lower = mix(pixels(bottom, left), pixels(bottom, right), b.sub(at_x, left))
        result = mix(upper, lower, b.sub(y, top))
    seen = b.and_(inside(y, height), inside(at_x, width))
    beyond = b.scalar(node.attribute("extrapolation_value", 0.0), x.dtype)
    return b.select(b.reshape(seen, shape=(count, 1, rows, columns)), result, beyond)
