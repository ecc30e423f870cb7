"""Resize and Upsample of ONNX: one axis after the other, by gathering and weighting."""

from __future__ import annotations

import numpy as np

from tallow.dim import Dim
from tallow.dtype import f64, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.resize_by_run import resize_by_run
from tallow_importers.onnx.registry import onnx_op


def _coordinates(mode: str, out: int, size: int, scale: float, region) -> np.ndarray:
    """Where in the source each result element lies (ONNX specification of Resize)."""
    at = np.arange(out, dtype=np.float64)
    length = size * scale
    match mode:
        case "half_pixel":
            return (at + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            centre = size / 2 * (1 - out / length) if length else 0.0
            return centre + (at + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (at + 0.5) / scale - 0.5 if out > 1 else at * 0
        case "align_corners":
            return at * (size - 1) / (length - 1) if length != 1 and out > 1 else at * 0
        case "asymmetric":
            return at / scale
        case "tf_half_pixel_for_nn":
            return (at + 0.5) / scale
    low, high = region
    if out > 1:
        return low * (size - 1) + at * (high - low) * (size - 1) / (length - 1)
    return at * 0 + 0.5 * (low + high) * (size - 1)


def _nearest(at: np.ndarray, rounding: str) -> np.ndarray:
    match rounding:
        case "floor":
            return np.floor(at)
        case "ceil":
            return np.ceil(at)
        case "round_prefer_ceil":
            return np.floor(at + 0.5)
    return np.ceil(at - 0.5)


def _weights(
    at: np.ndarray, kind: str, cubic: float, scale: float, antialias: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Source positions and weights [out, taps] of each result element."""
    stretch = max(1.0, 1 / scale) if antialias else 1.0
    reach = (1.0 if kind == "linear" else 2.0) * stretch
    taps = int(np.ceil(reach)) * 2 + (2 if antialias else 0)
    first = np.floor(at) - taps // 2 + 1
    places = first[:, None] + np.arange(taps)
    distance = np.abs(at[:, None] - places) / stretch
    if kind == "linear":
        weights = np.maximum(1 - distance, 0)
    else:
        near = (cubic + 2) * distance**3 - (cubic + 3) * distance**2 + 1
        far = cubic * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    if antialias:
        weights = weights / weights.sum(1, keepdims=True)
    return places, weights


def resize_axis(
    context: Context, x: Value, axis: int, out: int, scale: float, node: NodeView, region
) -> Value:
    b, size = context.builder, x.shape[axis]
    mode = node.attribute("mode", "nearest")
    transform = node.attribute(
        "coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric"
    )
    at = _coordinates(transform, out, size, scale, region)
    outside = (at < 0) | (at > size - 1) if transform == "tf_crop_and_resize" else None
    if mode == "nearest":
        default = "round_prefer_floor" if node.opset >= 11 else "floor"
        index = np.clip(_nearest(at, node.attribute("nearest_mode", default)), 0, size - 1).astype(np.int64)
        result = b.gather(x, b.constant(index), axis=axis)
    else:
        kind = "cubic" if mode == "cubic" else "linear"
        cubic = node.attribute("cubic_coeff_a", -0.75)
        places, weights = _weights(at, kind, cubic, scale, bool(node.attribute("antialias", 0)))
        if node.attribute("exclude_outside", 0):
            weights = np.where((places < 0) | (places >= size), 0, weights)
            weights = weights / weights.sum(1, keepdims=True)
        places = np.clip(places, 0, size - 1).astype(np.int64)
        result = _weighted(context, x, axis, places, weights)
    if outside is not None and outside.any():
        mask = b.constant(outside.reshape([out if a == axis else 1 for a in range(x.rank)]))
        fill = b.scalar(node.attribute("extrapolation_value", 0.0), x.dtype)
        result = b.select(mask, fill, result)
    return result


def _weighted(context: Context, x: Value, axis: int, places: np.ndarray, weights: np.ndarray) -> Value:
    b = context.builder
    total = None
    for tap in range(places.shape[1]):
        if not weights[:, tap].any():
            continue
        shape = [len(places) if a == axis else 1 for a in range(x.rank)]
        weight = b.constant(weights[:, tap].astype(x.dtype.numpy).reshape(shape))
        part = b.mul(b.gather(x, b.constant(places[:, tap]), axis=axis), weight)
        total = part if total is None else b.add(total, part)
    return total


@onnx_op("Upsample")
def upsample(context: Context, node: NodeView) -> Value:
    x, given = node.input(0), node.attribute("scales")
    scales = node.input(1) if given is None else context.builder.constant(np.array(given, np.float32))
    node.attributes["coordinate_transformation_mode"] = "asymmetric"
    node.attributes.setdefault("nearest_mode", "floor")
    return _by_scales(context, node, x, list(range(x.rank)), scales, None)


@onnx_op("Resize")
def resize_10(context: Context, node: NodeView) -> Value:
    return upsample(context, node)


@onnx_op("Resize", since=11)
def resize(context: Context, node: NodeView) -> Value:
    x, roi, scales, sizes = (node.input(i) for i in range(4))
    axes = [context.axis(a, x.rank) for a in node.attribute("axes") or range(x.rank)]
    if node.attribute("coordinate_transformation_mode") != "tf_crop_and_resize":
        roi = None
    if scales is not None and scales.type.size != 0:
        return _by_scales(context, node, x, axes, scales, roi)
    targets = context.dims(sizes)
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return _keeping_ratio(context, node, x, axes, sizes, targets)
    outs = context.require_dims(sizes, "sizes")
    for position, axis in enumerate(axes):
        size, out = x.shape[axis], outs[position]
        region = _region(context, roi, position, len(axes))
        if out == size and region is None:
            continue
        if isinstance(size, int) and isinstance(out, int) and (region is None or _is_known(region)):
            scale = out / size if size else 1.0
            x = resize_axis(context, x, axis, out, scale, node, region)
        else:
            scale = _ratio(context, out, size)
            x = resize_by_run(context, x, axis, out, scale, node, region)
    return x


def _ratio(context: Context, out: Dim, size: Dim) -> Value:
    """How much longer an axis gets, as an f64 scalar."""
    return context.builder.div(context.size(out, f64), context.size(size, f64))


def _is_known(region) -> bool:
    return all(isinstance(edge, float) for edge in region)


def _region(context: Context, roi: Value | None, position: int, count: int):
    """Start and end of the region of interest on an axis, as numbers if they are known."""
    if roi is None:
        return None
    known = context.array(roi)
    if known is not None:
        return tuple(float(known[position + part]) for part in (0, count))
    return tuple(_entry(context, roi, position + part) for part in (0, count))


def _entry(context: Context, vector: Value, position: int) -> Value:
    """One element of a vector as an f64 scalar."""
    b = context.builder
    return b.cast(b.reshape(b.slice(vector, starts=(position,), steps=(1,), shape=(1,)), shape=()), dtype=f64)


def _by_scales(context: Context, node: NodeView, x: Value, axes, scales: Value, roi: Value | None) -> Value:
    known = context.array(scales)
    for position, axis in enumerate(axes):
        scale = None if known is None else float(known.reshape(-1)[position])
        region = _region(context, roi, position, len(axes))
        size = x.shape[axis]
        if scale == 1.0 and region is None:
            continue
        if scale is not None and isinstance(size, int) and (region is None or _is_known(region)):
            low, high = region or (0.0, 1.0)
            out: Dim = int(np.floor(size * (high - low) * scale))
            x = resize_axis(context, x, axis, out, scale, node, region)
        else:
            factor = _entry(context, scales, position)
            x = resize_by_run(
                context, x, axis, _scaled(context, size, factor, scale, region), factor, node, region
            )
    return x


def _scaled(context: Context, size: Dim, factor: Value, scale: float | None, region) -> Dim:
    """The size of a scaled axis: in terms of the axis's own when the scale is a known whole number."""
    b = context.builder
    if region is None and scale is not None and scale == int(scale):
        return size * int(scale)
    length = b.mul(context.size(size, f64), factor)
    if region is not None:
        low, high = (b.scalar(e, f64) if isinstance(e, float) else e for e in region)
        length = b.mul(length, b.sub(high, low))
    return context.require_dims(b.cast(b.floor(length), dtype=i64), "a scaled size")[0]


def _keeping_ratio(context: Context, node: NodeView, x: Value, axes, sizes: Value, targets) -> Value:
    """One factor for all axes: the least or greatest of what the sizes ask for."""
    b, smaller = context.builder, node.attribute("keep_aspect_ratio_policy") == "not_larger"
    known = targets is not None and all(isinstance(d, int) for d in (*targets, *(x.shape[a] for a in axes)))
    if known:
        ratios = [t / x.shape[a] for t, a in zip(targets, axes, strict=True)]
        factor = min(ratios) if smaller else max(ratios)
        for axis in axes:
            out = int(np.floor(factor * x.shape[axis] + 0.5))
            x = resize_axis(context, x, axis, out, factor, node, None)
        return x
    have = b.cast(context.shape_tensor([x.shape[a] for a in axes]), dtype=f64)
    ratios = b.div(b.cast(sizes, dtype=f64), have)
    function = "min" if smaller else "max"
    factor = b.reduce(ratios, function=function, axes=(0,), keepdims=False)
    rounded = b.cast(b.floor(b.add(b.mul(have, factor), 0.5)), dtype=i64)
    for axis, out in zip(axes, context.require_dims(rounded, "sizes"), strict=True):
        x = resize_by_run(context, x, axis, out, factor, node, None)
    return x
