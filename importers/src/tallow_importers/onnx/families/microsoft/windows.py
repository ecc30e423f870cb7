"""Windows over tensors of the com.microsoft domain: unfolded, with masks, of words, and with pads that are data."""

from __future__ import annotations

import itertools

import numpy as np

from tallow.dim import floordiv, product
from tallow.dtype import i32, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families import convolution
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op


@onnx_op("ConvTransposeWithDynamicPads", domain=MS)
def conv_transpose_with_dynamic_pads(context: Context, node: NodeView) -> Value:
    """The whole result, of which the pads are cut off."""
    x, w, pads, bias = (node.input(i) for i in range(4))
    view = NodeView(node.proto, [x, w, bias], node.attributes, node.opset)
    y = convolution.conv_transpose(context, view)
    if pads is None or node.attribute("auto_pad", "NOTSET") not in ("NOTSET", ""):
        return y
    spatial = x.rank - 2
    amounts = context.require_dims(pads, "pads")
    if len(amounts) != 2 * spatial:
        context.unsupported(f"{len(amounts)} pads for {x.type}: two for each of {spatial} axes")
    starts = (0, 0, *amounts[:spatial])
    totals = (0, 0, *(low + high for low, high in zip(amounts[:spatial], amounts[spatial:], strict=True)))
    shape = tuple(size - total for size, total in zip(y.shape, totals, strict=True))
    return context.builder.slice(y, starts=starts, steps=(1,) * y.rank, shape=shape)


@onnx_op("UnfoldTensor", domain=MS)
def unfold_tensor(context: Context, node: NodeView) -> Value:
    """Slices of an axis; their own axis is the last."""
    b, x = context.builder, node.input(0)
    axis, size, step = (
        context.axis(node.attribute("dim", -1), x.rank),
        node.attribute("size"),
        node.attribute("step", 1),
    )
    extent = x.shape[axis]
    if size < 1 or step < 1 or (isinstance(extent, int) and extent < size):
        context.unsupported(f"slices of {size} by {step} from an axis of {extent}")
    count = floordiv(extent - size, step) + 1
    start = b.mul(b.iota(shape=(count, 1), axis=0, dtype=i64), step)
    y = b.gather(x, b.add(start, b.iota(shape=(1, size), axis=1, dtype=i64)), axis=axis)
    order = [a for a in range(y.rank) if a != axis + 1]
    return b.transpose(y, permutation=(*order, axis + 1))


@onnx_op("MaxpoolWithMask", domain=MS)
def max_pool_with_mask(context: Context, node: NodeView) -> Value:
    """In each row of a window, what comes before the first element that the mask hides."""
    b, (x, mask) = context.builder, node.inputs
    kernel = tuple(node.attribute("kernel_shape"))
    strides, pads, _ = convolution.window(context, node, x, kernel)
    lowest, seen = float(np.finfo(x.dtype.numpy).min), _visible(context, x, mask)
    before, after = ((0, 0, *(p[i] for p in pads)) for i in (0, 1))
    x = b.pad(x, b.scalar(lowest, x.dtype), before=before, after=after, mode="constant")
    seen = b.pad(seen, b.scalar(1, i32), before=before, after=after, mode="constant")
    sizes = tuple(floordiv(d - k, s) + 1 for d, k, s in zip(x.shape[2:], kernel, strides, strict=True))

    def tap(value: Value, offsets) -> Value:
        starts, shape = (0, 0, *offsets), (*x.shape[:2], *sizes)
        return b.slice(value, starts=starts, steps=(1, 1, *strides), shape=shape)

    best = b.broadcast(b.scalar(lowest, x.dtype), shape=(*x.shape[:2], *sizes))
    for row in itertools.product(*map(range, kernel[:-1])):
        open_ = None
        for column in range(kernel[-1]):
            shown = b.gt(tap(seen, (*row, column)), 0)
            open_ = shown if open_ is None else b.and_(open_, shown)
            value = tap(x, (*row, column))
            best = b.select(b.and_(open_, b.gt(value, best)), value, best)
    return best


def _visible(context: Context, x: Value, mask: Value) -> Value:
    """The mask of each element of x, i32 of x's shape."""
    b, spatial = context.builder, x.shape[2:]
    size, channels = product(spatial), product(x.shape[:2])
    flat = b.reshape(mask, shape=(mask.type.size,))
    place = b.iota(shape=(1, size), axis=1, dtype=i64)
    channel = b.iota(shape=(channels, 1), axis=0, dtype=i64)
    # onnxruntime finds a channel's mask at its first element modulo the number of the mask's channels.
    start = b.mod(b.mul(channel, context.size(size)), context.size(product(mask.shape[:2])))
    shown = b.cast(b.ne(b.gather(flat, b.add(start, place), axis=0), 0), dtype=i32)
    if len(spatial) > 1:  # where the first element is never hidden
        shown = b.select(b.eq(place, 0), b.scalar(1, i32), shown)
    return b.reshape(shown, shape=x.shape)


@onnx_op("WordConvEmbedding", domain=MS)
def word_conv_embedding(context: Context, node: NodeView) -> Value:
    """The largest of each filter over the windows of a word's characters; zeros for a word that has none."""
    b, (words, w, bias, table) = context.builder, node.inputs
    (count, length), (filters, _, width, size) = words.shape, w.shape
    stated = [("embedding_size", filters), ("conv_window_size", width), ("char_embedding_size", size)]
    wrong = [
        f"{n} {node.attribute(n)} of {have}"
        for n, have in stated
        if node.attribute(n, have) not in (have, -1)
    ]
    if wrong:
        context.unsupported(", ".join(wrong))
    letters = b.gather(table, words, axis=0)
    picture = b.reshape(letters, shape=(count, 1, length, size))
    options = {"strides": (1, 1), "pads": ((0, 0),) * 2, "dilations": (1, 1), "groups": 1}
    y = b.add(b.conv(picture, w, **options), b.reshape(bias, shape=(filters, 1, 1)))
    y = b.tanh(b.reshape(y, shape=(count, filters, length - width + 1)))
    filled = b.cast(b.gt(words, 0), dtype=i64)
    lengths = b.reduce(filled, function="add", axes=(1,), keepdims=True)
    first = b.slice(filled, starts=(0, 0), steps=(1, 1), shape=(count, 1))
    windows = b.add(b.sub(b.max(lengths, width), width), 1)
    at = b.iota(shape=(1, 1, y.shape[2]), axis=2, dtype=i64)
    valid = b.lt(at, b.reshape(windows, shape=(count, 1, 1)))
    best = b.reduce(b.select(valid, y, -1e12), function="max", axes=(2,), keepdims=False)
    return b.select(b.gt(b.mul(lengths, first), 0), best, b.scalar(0, y.dtype))
