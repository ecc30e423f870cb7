"""Detection and selection operators of ONNX."""

from __future__ import annotations

import numpy as np

from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


@onnx_op("TopK", since=10)
def topk(context: Context, node: NodeView):
    x = node.input(0)
    axis = context.axis(node.attribute("axis", -1), x.rank)
    (k,) = context.require_dims(node.input(1), "k")
    return context.builder.topk(
        x,
        k=k,
        axis=axis,
        largest=bool(node.attribute("largest", 1)),
        sorted=bool(node.attribute("sorted", 1)),
    )


@onnx_op("TopK")
def topk_1(context: Context, node: NodeView):
    x = node.input(0)
    axis = context.axis(node.attribute("axis", -1), x.rank)
    return context.builder.topk(x, k=node.attribute("k"), axis=axis, largest=True, sorted=True)


@onnx_op("Unique")
def unique(context: Context, node: NodeView):
    x = node.input(0)
    axis = node.attribute("axis")
    axis = None if axis is None else context.axis(axis, x.rank)
    return context.builder.emit(
        "unique", x, axis=axis, sorted=bool(node.attribute("sorted", 1)), defines=(context.fresh_name(),)
    )


@onnx_op("NonMaxSuppression")
def nms(context: Context, node: NodeView) -> Value:
    b = context.builder
    boxes, scores = node.inputs[:2]
    limit = node.input(2) if node.input(2) is not None else b.constant(np.array([0], np.int64))
    threshold = node.input(3) if node.input(3) is not None else b.constant(np.array([0], np.float32))
    least = node.input(4) if node.input(4) is not None else b.constant(np.array([-np.inf], np.float32))
    centre = bool(node.attribute("center_point_box", 0))
    return b.nms(
        boxes, scores, limit, threshold, least, center_point_box=centre, defines=(context.fresh_name(),)
    )


@onnx_op("Det")
def det(context: Context, node: NodeView) -> Value:
    return context.builder.det(node.input(0))


def _corner(context: Context, x: Value, y_at: Value, x_at: Value, inside: Value | None) -> Value:
    """x[n, c, y_at[n, p], x_at[n, p]] as [N, C, P]; 0 where not inside."""
    b = context.builder
    n, c, h, w = x.shape
    points = y_at.shape[1]
    flat = b.reshape(x, shape=(n, c, h * w))
    rows = b.max(b.min(y_at, b.sub(context.size(h), 1)), 0)
    columns = b.max(b.min(x_at, b.sub(context.size(w), 1)), 0)
    at = b.add(b.mul(rows, context.size(w)), columns)
    at = b.broadcast(b.reshape(at, shape=(n, 1, points)), shape=(n, c, points))
    picked = b.gather_elements(flat, at, axis=2)
    if inside is None:
        return picked
    return b.select(b.reshape(inside, shape=(n, 1, points)), picked, b.scalar(0, x.dtype))


def _mix(b, low: Value, high: Value, share: Value) -> Value:
    return b.add(b.mul(low, b.add(b.neg(share), 1.0)), b.mul(high, share))


@onnx_op("RoiAlign")
def roi_align(context: Context, node: NodeView) -> Value:
    x, rois, batch = node.inputs
    b = context.builder
    rows, columns = node.attribute("output_height", 1), node.attribute("output_width", 1)
    ratio, scale = node.attribute("sampling_ratio", 0), node.attribute("spatial_scale", 1.0)
    if ratio <= 0:
        context.unsupported("a sampling ratio that depends on each region's size")
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    half = 0.5 if node.attribute("coordinate_transformation_mode", default) == "half_pixel" else 0.0
    count, (_, c, h, w) = rois.shape[0], x.shape

    def edge(number: int) -> Value:
        return b.sub(b.mul(b.slice(rois, starts=(0, number), steps=(1, 1), shape=(count, 1)), scale), half)

    x1, y1, x2, y2 = (edge(i) for i in range(4))

    def samples(low: Value, high: Value, bins: int) -> Value:
        length = b.sub(high, low)
        if not half:
            length = b.max(length, 1.0)
        steps = b.constant(((np.arange(bins * ratio) + 0.5) / (bins * ratio)).astype(np.float32)[None])
        return b.add(low, b.mul(length, b.cast(steps, dtype=x.dtype)))

    ys, xs = samples(y1, y2, rows), samples(x1, x2, columns)
    shape = (count, rows * ratio, columns * ratio)
    points = rows * ratio * columns * ratio
    ys = b.reshape(
        b.broadcast(b.reshape(ys, shape=(count, rows * ratio, 1)), shape=shape), shape=(count, points)
    )
    xs = b.reshape(
        b.broadcast(b.reshape(xs, shape=(count, 1, columns * ratio)), shape=shape), shape=(count, points)
    )
    data = b.gather(x, b.cast(batch, dtype=i64), axis=0)
    outside = b.or_(
        b.or_(b.lt(ys, -1.0), b.gt(ys, context.size(h, x.dtype))),
        b.or_(b.lt(xs, -1.0), b.gt(xs, context.size(w, x.dtype))),
    )
    ys, xs = b.max(ys, 0.0), b.max(xs, 0.0)

    def anchor(at: Value, size) -> tuple[Value, Value, Value]:
        last = b.sub(context.size(size), 1)
        low = b.min(b.cast(b.floor(at), dtype=i64), last)
        high = b.min(b.add(low, 1), last)
        share = b.select(b.eq(low, last), b.scalar(0, x.dtype), b.sub(at, b.cast(low, dtype=x.dtype)))
        return low, high, b.reshape(share, shape=(count, 1, points))

    (y_low, y_high, fy), (x_low, x_high, fx) = anchor(ys, h), anchor(xs, w)
    corners = [_corner(context, data, y, xx, None) for y in (y_low, y_high) for xx in (x_low, x_high)]
    if node.attribute("mode", "avg") == "max":
        keep = [(b.add(b.neg(f), 1.0), f) for f in (fy, fx)]
        weights = [b.mul(wy, wx) for wy in keep[0] for wx in keep[1]]
        parts = [b.mul(v, weight) for v, weight in zip(corners, weights, strict=True)]
        value = b.max(b.max(parts[0], parts[1]), b.max(parts[2], parts[3]))
    else:
        value = _mix(b, _mix(b, corners[0], corners[1], fx), _mix(b, corners[2], corners[3], fx), fy)
    value = b.select(b.reshape(outside, shape=(count, 1, points)), b.scalar(0, x.dtype), value)
    grid = b.reshape(value, shape=(count, c, rows, ratio, columns, ratio))
    if node.attribute("mode", "avg") == "max":
        return b.reduce(grid, function="max", axes=(3, 5), keepdims=False)
    return b.div(b.reduce(grid, function="add", axes=(3, 5), keepdims=False), float(ratio * ratio))


@onnx_op("MaxRoiPool")
def max_roi_pool(context: Context, node: NodeView) -> Value:
    """The maximum of each bin of each region; of an empty bin, 0."""
    x, rois = node.inputs
    b, scale = context.builder, node.attribute("spatial_scale", 1.0)
    count, batch = rois.shape[0], b.reshape(_roi_column(context, rois, 0), shape=(rois.shape[0],))
    data = b.gather(x, b.cast(batch, dtype=i64), axis=0)
    edges = [b.floor(b.add(b.mul(_roi_column(context, rois, i), scale), 0.5)) for i in range(1, 5)]
    lowest = b.constant(np.array(-np.inf, x.dtype.numpy))
    for axis, bins, low, high in zip(
        (2, 3), node.attribute("pooled_shape"), edges[1::-1], edges[3:1:-1], strict=True
    ):
        size = data.shape[axis]
        step = b.div(b.max(b.add(b.sub(high, low), 1.0), 1.0), float(bins))
        line = b.iota(shape=(1, bins), axis=1, dtype=x.dtype)
        start = b.add(b.floor(b.mul(line, step)), low)
        stop = b.add(b.ceil(b.mul(b.add(line, 1.0), step)), low)
        at = b.iota(shape=(1, 1, size), axis=2, dtype=x.dtype)
        start, stop = (b.reshape(v, shape=(count, bins, 1)) for v in (start, stop))
        inside = b.and_(b.ge(at, start), b.lt(at, stop))
        # The axis [size] becomes [bins, size], of which the maximum over what is inside is taken.
        shape = [count, *(1 for _ in range(axis - 1)), bins, size, *(1 for _ in data.shape[axis + 1 :])]
        opened = b.reshape(data, shape=(*data.shape[:axis], 1, *data.shape[axis:]))
        seen = b.select(b.reshape(inside, shape=tuple(shape)), opened, lowest)
        data = b.reduce(seen, function="max", axes=(axis + 1,), keepdims=False)
    return b.select(b.eq(data, -np.inf), b.scalar(0, x.dtype), data)


def _roi_column(context: Context, rois: Value, number: int) -> Value:
    """One number of each region, [regions, 1]."""
    return context.builder.slice(rois, starts=(0, number), steps=(1, 1), shape=(rois.shape[0], 1))
