"""Detection and selection operators of ONNX."""

from __future__ import annotations

import numpy as np

from tallow.dim import product
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
    if node.input(1) is not None:
        return topk(context, node)
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
    """Each bin of each region: the mean or maximum of samples between elements (He et al., 2017)."""
    x, rois, batch = node.inputs
    b = context.builder
    bins = (node.attribute("output_height", 1), node.attribute("output_width", 1))
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    half = node.attribute("coordinate_transformation_mode", default) == "half_pixel"
    scale, ratio = node.attribute("spatial_scale", 1.0), node.attribute("sampling_ratio", 0)
    x1, y1, x2, y2 = (b.mul(_roi_column(context, rois, i), scale) for i in range(4))
    axes = []
    for low, high, parts in ((y1, y2, bins[0]), (x1, x2, bins[1])):
        if half:
            low, high = b.sub(low, 0.5), b.sub(high, 0.5)
        length = b.sub(high, low) if half else b.max(b.sub(high, low), 1.0)
        axes.append(_samples(context, low, length, parts, ratio))
    (ys, per_y, used_y), (xs, per_x, used_x) = axes
    count, c = rois.shape[0], x.shape[1]
    shape = (count, bins[0] * per_y, bins[1] * per_x)
    points = product(shape[1:])

    def spread(line: Value, axis: int) -> Value:
        """One coordinate of every point, [count, points]."""
        opened = b.reshape(line, shape=tuple(d if a in (0, axis) else 1 for a, d in enumerate(shape)))
        return b.reshape(b.broadcast(opened, shape=shape), shape=(count, points))

    data = b.gather(x, b.cast(batch, dtype=i64), axis=0)
    largest = node.attribute("mode", "avg") == "max"
    value = _bilinear(context, data, spread(ys, 1), spread(xs, 2), largest)
    grid = b.reshape(value, shape=(count, c, bins[0], per_y, bins[1], per_x))
    if used_y is None:
        function = "max" if largest else "add"
        total = b.reduce(grid, function=function, axes=(3, 5), keepdims=False)
        return total if largest else b.div(total, float(per_y * per_x))
    return _over_used(context, grid, used_y, used_x, largest)


def _samples(context: Context, low: Value, length: Value, bins: int, ratio: int):
    """Coordinates [regions, bins * per bin], how many are in a bin, and, when that differs by region
    (ratio 0), the number used of them [regions, 1]."""
    b, dtype = context.builder, low.dtype
    if ratio > 0:
        steps = (np.arange(bins * ratio) + 0.5) / (bins * ratio)
        return b.add(low, b.mul(length, b.constant(steps[None].astype(dtype.numpy)))), ratio, None
    used = b.max(b.ceil(b.div(length, float(bins))), 0.0)
    most = b.reduce(
        b.concat(used, b.constant(np.ones((1, 1), dtype.numpy)), axis=0),
        function="max",
        axes=(0, 1),
        keepdims=False,
    )
    (per,) = context.require_dims(b.cast(b.reshape(most, shape=(1,)), dtype=i64), "a number of samples")
    bin_ = b.iota(shape=(1, bins, 1), axis=1, dtype=dtype)
    sample = b.add(b.iota(shape=(1, 1, per), axis=2, dtype=dtype), 0.5)
    count = low.shape[0]
    low, length, each = (b.reshape(v, shape=(count, 1, 1)) for v in (low, length, b.max(used, 1.0)))
    at = b.add(low, b.mul(b.div(length, float(bins)), b.add(bin_, b.div(sample, each))))
    return b.reshape(at, shape=(count, bins * per)), per, used


def _over_used(context: Context, grid: Value, used_y: Value, used_x: Value, largest: bool) -> Value:
    """The mean or maximum of the samples that a region uses, of none 0."""
    b, count, dtype = context.builder, grid.shape[0], grid.dtype
    y, x = (b.reshape(v, shape=(count, 1, 1, 1, 1, 1)) for v in (used_y, used_x))
    inside = b.and_(
        b.lt(b.iota(shape=(1, 1, 1, grid.shape[3], 1, 1), axis=3, dtype=dtype), y),
        b.lt(b.iota(shape=(1, 1, 1, 1, 1, grid.shape[5]), axis=5, dtype=dtype), x),
    )
    if largest:
        kept = b.select(inside, grid, b.constant(np.array(-np.inf, dtype.numpy)))
        top = b.reduce(kept, function="max", axes=(3, 5), keepdims=False)
        return b.select(b.eq(top, -np.inf), b.scalar(0, dtype), top)
    total = b.reduce(b.select(inside, grid, b.scalar(0, dtype)), function="add", axes=(3, 5), keepdims=False)
    return b.div(total, b.reshape(b.max(b.mul(used_y, used_x), 1.0), shape=(count, 1, 1, 1)))


def _bilinear(context: Context, data: Value, ys: Value, xs: Value, largest: bool) -> Value:
    """Elements between four others, their mix or the largest weighted one: [count, C, points]; 0 beyond one
    element outside the picture."""
    b = context.builder
    count, _, h, w = data.shape
    outside = b.or_(
        b.or_(b.lt(ys, -1.0), b.gt(ys, context.size(h, data.dtype))),
        b.or_(b.lt(xs, -1.0), b.gt(xs, context.size(w, data.dtype))),
    )
    points = ys.shape[1]

    def anchor(at: Value, size) -> tuple[Value, Value, Value]:
        at, last = b.max(at, 0.0), b.sub(context.size(size), 1)
        low = b.min(b.cast(b.floor(at), dtype=i64), last)
        high = b.min(b.add(low, 1), last)
        share = b.select(b.eq(low, last), b.scalar(0, data.dtype), b.sub(at, b.cast(low, dtype=data.dtype)))
        return low, high, b.reshape(share, shape=(count, 1, points))

    (y_low, y_high, fy), (x_low, x_high, fx) = anchor(ys, h), anchor(xs, w)
    corners = [_corner(context, data, y, x, None) for y in (y_low, y_high) for x in (x_low, x_high)]
    if largest:
        keep = [(b.add(b.neg(f), 1.0), f) for f in (fy, fx)]
        weights = [b.mul(wy, wx) for wy in keep[0] for wx in keep[1]]
        parts = [b.mul(v, weight) for v, weight in zip(corners, weights, strict=True)]
        value = b.max(b.max(parts[0], parts[1]), b.max(parts[2], parts[3]))
    else:
        value = _mix(b, _mix(b, corners[0], corners[1], fx), _mix(b, corners[2], corners[3], fx), fy)
    return b.select(b.reshape(outside, shape=(count, 1, points)), b.scalar(0, data.dtype), value)


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
