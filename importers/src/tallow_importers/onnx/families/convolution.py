"""Convolutions and pooling of ONNX."""

from __future__ import annotations

from tallow.dim import Dim, ceildiv, floordiv, maximum, minimum, product
from tallow.dtype import f32, i32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

Pads = tuple[tuple[Dim, Dim], ...]


def per_channel(context: Context, bias: Value, rank: int) -> Value:
    """A vector of channels, shaped to add to [N, C, ...]."""
    return context.builder.reshape(bias, shape=(bias.shape[0], *(1,) * (rank - 2)))


def window(
    context: Context, node: NodeView, x: Value, kernel
) -> tuple[tuple[int, ...], Pads, tuple[int, ...]]:
    """Strides, pads and dilations of a window operator, auto_pad worked out."""
    spatial = x.rank - 2
    strides = tuple(node.attribute("strides") or [1] * spatial)
    dilations = tuple(node.attribute("dilations") or [1] * spatial)
    mode = node.attribute("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        flat = node.attribute("pads") or [0] * (2 * spatial)
        return strides, tuple((flat[i], flat[i + spatial]) for i in range(spatial)), dilations
    if mode == "VALID":
        return strides, ((0, 0),) * spatial, dilations
    pads = []
    for i in range(spatial):
        size, span = x.shape[2 + i], (kernel[i] - 1) * dilations[i] + 1
        total = maximum((ceildiv(size, strides[i]) - 1) * strides[i] + span - size, 0)
        small = floordiv(total, 2)
        pads.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return strides, tuple(pads), dilations


def taps_known(context: Context, node: NodeView, w: Value) -> Value:
    """Weights with the window's sizes that the node states, where their own are open."""
    stated = node.attribute("kernel_shape")
    if not stated or all(isinstance(d, int) for d in w.shape[2:]):
        return w
    return context.builder.reshape(w, shape=(*w.shape[:2], *stated))


def convolve(context: Context, node: NodeView, x: Value, w: Value) -> Value:
    w = taps_known(context, node, w)
    strides, pads, dilations = window(context, node, x, node.attribute("kernel_shape") or w.shape[2:])
    return context.builder.conv(
        x, w, strides=strides, pads=pads, dilations=dilations, groups=node.attribute("group", 1)
    )


@onnx_op("Conv")
def conv(context: Context, node: NodeView) -> Value:
    result = convolve(context, node, node.input(0), node.input(1))
    bias = node.input(2)
    return result if bias is None else context.builder.add(result, per_channel(context, bias, result.rank))


@onnx_op("ConvInteger")
def conv_integer(context: Context, node: NodeView) -> Value:
    b = context.builder
    x, w = (b.cast(v, dtype=i32) for v in node.inputs[:2])
    if node.input(2) is not None:
        x = b.sub(x, b.cast(b.reshape(node.input(2), shape=()), dtype=i32))
    if node.input(3) is not None:
        zero = b.cast(node.input(3), dtype=i32)
        zero = (
            b.reshape(zero, shape=(zero.type.size, *(1,) * (w.rank - 1)))
            if zero.type.size != 1
            else b.reshape(zero, shape=())
        )
        w = b.sub(w, zero)
    return convolve(context, node, x, w)


@onnx_op("ConvTranspose")
def conv_transpose(context: Context, node: NodeView) -> Value:
    x, w, bias = node.input(0), taps_known(context, node, node.input(1)), node.input(2)
    spatial = x.rank - 2
    strides = tuple(node.attribute("strides") or [1] * spatial)
    dilations = tuple(node.attribute("dilations") or [1] * spatial)
    extra: list[Dim] = list(node.attribute("output_padding") or [0] * spatial)
    spans = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    shape, mode = node.attribute("output_shape"), node.attribute("auto_pad", "NOTSET")
    if shape or mode.startswith("SAME"):
        wanted = shape[-spatial:] if shape else [x.shape[2 + i] * strides[i] for i in range(spatial)]
        pads = []
        for i in range(spatial):
            excess = strides[i] * (x.shape[2 + i] - 1) + extra[i] + spans[i] - wanted[i]
            extra[i] = extra[i] + maximum(-excess, 0)
            total = maximum(excess, 0)
            half = floordiv(total, 2)
            pads.append((half, total - half) if mode != "SAME_LOWER" else (total - half, half))
    elif mode == "VALID":
        pads = [(0, 0)] * spatial
    else:
        flat = node.attribute("pads") or [0] * (2 * spatial)
        pads = [(flat[i], flat[i + spatial]) for i in range(spatial)]
    result = context.builder.conv_transpose(
        x,
        w,
        strides=strides,
        pads=tuple(pads),
        dilations=dilations,
        groups=node.attribute("group", 1),
        output_padding=tuple(extra),
    )
    return result if bias is None else context.builder.add(result, per_channel(context, bias, result.rank))


def pool_window(context: Context, node: NodeView, x: Value):
    """Window of a pool; ceil mode lengthens the pads at the end, without windows that start beyond them."""
    kernel = tuple(node.attribute("kernel_shape"))
    strides, pads, dilations = window(context, node, x, kernel)
    if not node.attribute("ceil_mode", 0) or node.attribute("auto_pad", "NOTSET").startswith("SAME"):
        return kernel, strides, pads, dilations, pads
    grown = []
    for i, (low, high) in enumerate(pads):
        size, span = x.shape[2 + i], (kernel[i] - 1) * dilations[i] + 1
        count = ceildiv(size + low + high - span, strides[i]) + 1
        start = (count - 1) * strides[i]
        count = count - minimum(maximum(start - (size + low) + 1, 0), 1)
        needed = (count - 1) * strides[i] + span - size - low
        grown.append((low, max(needed, 0) if isinstance(needed, int) else maximum(needed, high)))
    return kernel, strides, tuple(grown), dilations, pads


@onnx_op("MaxPool")
def max_pool(context: Context, node: NodeView):
    x, b = node.input(0), context.builder
    kernel, strides, pads, dilations, _ = pool_window(context, node, x)
    if node.wants(1):
        column_major = bool(node.attribute("storage_order", 0))
        return b.max_pool_with_index(
            x, kernel=kernel, strides=strides, pads=pads, dilations=dilations, column_major=column_major
        )
    return b.pool(x, function="max", kernel=kernel, strides=strides, pads=pads, dilations=dilations)


@onnx_op("AveragePool")
def average_pool(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    kernel, strides, pads, dilations, stated = pool_window(context, node, x)
    spec = {"function": "add", "kernel": kernel, "strides": strides, "dilations": dilations}
    wide = b.cast(x, dtype=f32) if x.dtype.bits < 32 else x
    total = b.pool(wide, pads=pads, **spec)
    plain = all(p == (0, 0) for p in pads)
    if plain or (node.attribute("count_include_pad", 0) and pads == stated):
        return b.cast(b.div(total, float(product(kernel))), dtype=x.dtype)
    ones = b.broadcast(b.scalar(1, wide.dtype), shape=(1, 1, *x.shape[2:]))
    rest = pads
    if node.attribute("count_include_pad", 0):
        # Padding counts, but what ceil mode adds beyond it does not, and what it leaves out is not seen.
        before = (0, 0, *(low for low, _ in stated))
        ends = [minimum(high, was) for (_, high), (_, was) in zip(pads, stated, strict=True)]
        ones = b.pad(ones, b.scalar(1, wide.dtype), before=before, after=(0, 0, *ends), mode="constant")
        rest = tuple((0, high - end) for (_, high), end in zip(pads, ends, strict=True))
    count = b.pool(ones, pads=rest, **spec)
    return b.cast(b.div(total, count), dtype=x.dtype)


@onnx_op("LpPool")
def lp_pool(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    p = float(node.attribute("p", 2))
    kernel, strides, pads, dilations, _ = pool_window(context, node, x)
    powered = b.pow(b.abs(x), p)
    total = b.pool(powered, function="add", kernel=kernel, strides=strides, pads=pads, dilations=dilations)
    return b.pow(total, 1 / p)


@onnx_op("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    axes = tuple(range(2, x.rank))
    if node.op_type == "GlobalMaxPool":
        return b.reduce(x, function="max", axes=axes, keepdims=True)
    if node.op_type == "GlobalLpPool":
        p = float(node.attribute("p", 2))
        return b.pow(b.reduce(b.pow(b.abs(x), p), function="add", axes=axes, keepdims=True), 1 / p)
    total = b.reduce(x, function="add", axes=axes, keepdims=True)
    return b.div(total, context.size(product(x.shape[2:]), x.dtype))


@onnx_op("MaxUnpool")
def max_unpool(context: Context, node: NodeView) -> Value:
    x, indices, b = node.input(0), node.input(1), context.builder
    kernel = node.attribute("kernel_shape")
    strides, pads, _ = window(context, node, x, kernel)
    natural = tuple(
        (x.shape[2 + i] - 1) * strides[i] + kernel[i] - pads[i][0] - pads[i][1] for i in range(x.rank - 2)
    )
    shape = (*x.shape[:2], *natural)
    full = shape if node.input(2) is None else context.require_dims(node.input(2), "an output shape")
    # Indices count in the natural shape; a larger one is reached by padding at the end.
    flat = b.broadcast(b.scalar(0, x.dtype), shape=(product(shape),))
    spread = b.scatter_elements(
        flat,
        b.reshape(indices, shape=(x.type.size,)),
        b.reshape(x, shape=(x.type.size,)),
        axis=0,
        reduction="none",
    )
    result = b.reshape(spread, shape=shape)
    if tuple(full) == shape:
        return result
    after = tuple(f - s for f, s in zip(full, shape, strict=True))
    return b.pad(result, before=(0,) * x.rank, after=after, mode="constant")
