"""Signal operators of ONNX: Fourier transforms and windows."""

from __future__ import annotations

import math

from tallow.dim import floordiv
from tallow.dtype import f32, f64, i64
from tallow.graph import Value
from tallow_importers.onnx.axes import read_shape
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


@onnx_op("DFT", since=20)
def dft_20(context: Context, node: NodeView) -> Value:
    if node.input(2) is None:
        return _dft(context, node, -2)
    known = context.array(node.input(2))
    return _dft_anywhere(context, node) if known is None else _dft(context, node, int(known.reshape(())))


def _dft_anywhere(context: Context, node: NodeView) -> Value:
    """An axis that is data: the tensor is seen as [before, axis, after, part] for sizes the run tells."""
    x, length, axis = (node.input(i) for i in range(3))
    b, rank = context.builder, x.rank
    at = b.reshape(b.cast(axis, dtype=i64), shape=(1,))
    at = b.select(b.lt(at, 0), b.add(at, rank), at)
    place = b.iota(shape=(rank - 1,), axis=0, dtype=i64)
    sizes = context.shape_tensor(x.shape[:-1])

    def extent(here: Value) -> Value:
        return b.reduce(b.select(here, sizes, 1), function="mul", axes=(0,), keepdims=True)

    seen = b.concat(*(extent(b.emit(test, place, at)) for test in ("lt", "eq", "gt")), axis=0)
    before, size, after = read_shape(context, seen)
    view = b.reshape(x, shape=(before, size, after, x.shape[-1]))
    y = _dft(context, NodeView(node.proto, [view, length], node.attributes, node.opset), 1)
    dims = b.select(b.eq(place, at), context.size(y.shape[1]), sizes)
    return b.reshape(y, shape=(*read_shape(context, dims), y.shape[-1]))


@onnx_op("DFT")
def dft(context: Context, node: NodeView) -> Value:
    return _dft(context, node, node.attribute("axis", 1))


def _dft(context: Context, node: NodeView, axis: int) -> Value:
    x, length = node.input(0), node.input(1)
    axis = context.axis(axis, x.rank)
    onesided, inverse = bool(node.attribute("onesided", 0)), bool(node.attribute("inverse", 0))
    if length is not None:
        (size,) = context.require_dims(length, "a length")
    else:
        size = (x.shape[axis] - 1) * 2 if onesided and inverse else x.shape[axis]
    return context.builder.dft(x, axis=axis, length=size, onesided=onesided, inverse=inverse)


@onnx_op("STFT")
def stft(context: Context, node: NodeView) -> Value:
    signal, step, window, frame = (node.input(i) for i in range(4))
    b = context.builder
    (hop,) = context.require_dims(step, "a frame step")
    if frame is not None:
        (length,) = context.require_dims(frame, "a frame length")
    else:
        length = window.shape[0]
    if signal.rank == 2:
        signal = b.reshape(signal, shape=(*signal.shape, 1))
    batch, samples, parts = signal.shape
    frames = floordiv(samples - length, hop) + 1
    starts = b.mul(b.iota(shape=(frames, 1), axis=0, dtype=i64), context.size(hop))
    at = b.add(starts, b.iota(shape=(1, length), axis=1, dtype=i64))
    cut = b.gather(signal, at, axis=1)
    if window is not None:
        cut = b.mul(cut, b.reshape(window, shape=(length, 1)))
    return b.dft(cut, axis=2, length=length, onesided=bool(node.attribute("onesided", 1)), inverse=False)


_WINDOWS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


@onnx_op(*_WINDOWS)
def window(context: Context, node: NodeView) -> Value:
    b = context.builder
    (size,) = context.require_dims(node.input(0), "a size")
    dtype = context.dtype(node.attribute("output_datatype", 1))
    first, second, third = _WINDOWS[node.op_type]
    step = b.iota(shape=(size,), axis=0, dtype=f32)
    span = size if node.attribute("periodic", 1) else size - 1
    angle = b.div(b.mul(step, 2 * math.pi), context.size(span, f32))
    value = b.sub(b.scalar(first, f32), b.mul(b.cos(angle), second))
    if third:
        value = b.add(value, b.mul(b.cos(b.mul(angle, 2.0)), third))
    return b.cast(value, dtype=dtype)


@onnx_op("MelWeightMatrix")
def mel_weight_matrix(context: Context, node: NodeView) -> Value:
    """Triangular filters whose edges are evenly spaced on the mel scale."""
    b = context.builder
    count, length, rate, low, high = (b.cast(b.reshape(v, shape=()), dtype=f64) for v in node.inputs)
    (bins,) = context.require_dims(b.reshape(node.input(0), shape=(1,)), "a number of filters")
    half = b.add(b.floor(b.mul(length, 0.5)), 1.0)
    (spectrum,) = context.require_dims(b.cast(b.reshape(half, shape=(1,)), dtype=i64), "a transform length")
    first, last = (b.mul(b.log1p(b.div(edge, 700.0)), 2595 / math.log(10)) for edge in (low, high))
    step = b.div(b.sub(last, first), b.add(count, 2.0))
    line = b.iota(shape=(1, bins), axis=1, dtype=f64)

    def edge(number: float) -> Value:
        """The spectrum line at which edge `number` of each filter lies."""
        mel = b.add(b.mul(b.add(line, number), step), first)
        hertz = b.mul(b.expm1(b.mul(mel, math.log(10) / 2595)), 700.0)
        return b.floor(b.div(b.mul(b.add(length, 1.0), hertz), rate))

    left, centre, right = (edge(float(n)) for n in range(3))
    at = b.iota(shape=(spectrum, 1), axis=0, dtype=f64)
    zero, one = b.scalar(0, f64), b.scalar(1, f64)
    rising = b.select(b.gt(centre, left), b.div(b.sub(at, left), b.sub(centre, left)), one)
    falling = b.div(b.sub(right, at), b.sub(right, centre))
    value = b.select(b.and_(b.ge(at, left), b.le(at, centre)), rising, zero)
    value = b.select(b.and_(b.ge(at, centre), b.lt(at, right)), falling, value)
    return b.cast(value, dtype=context.dtype(node.attribute("output_datatype", 1)))
