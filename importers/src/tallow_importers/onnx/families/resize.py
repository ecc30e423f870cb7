"""Resize and Upsample of ONNX: one axis after the other, by gathering and weighting."""

from __future__ import annotations

import numpy as np

from tallow.dim import Dim
from tallow.dtype import f32, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
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
    scales = node.attribute("scales")
    if scales is None:
        scales = context.constant(node.input(1), "scales").reshape(-1).tolist()
    node.attributes["coordinate_transformation_mode"] = "asymmetric"
    node.attributes.setdefault("nearest_mode", "floor")
    return _resize(context, node, node.input(0), list(range(node.input(0).rank)), scales, None, None)


@onnx_op("Resize")
def resize_10(context: Context, node: NodeView) -> Value:
    node.attributes["coordinate_transformation_mode"] = "asymmetric"
    node.attributes.setdefault("nearest_mode", "floor")
    scales = context.constant(node.input(1), "scales").reshape(-1).tolist()
    return _resize(context, node, node.input(0), list(range(node.input(0).rank)), scales, None, None)


@onnx_op("Resize", since=11)
def resize(context: Context, node: NodeView) -> Value:
    x, roi, scales, sizes = (node.input(i) for i in range(4))
    axes = [context.axis(a, x.rank) for a in node.attribute("axes") or range(x.rank)]
    region = None
    if node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        flat = context.constant(roi, "a region of interest").reshape(-1).tolist()
        region = {a: (flat[i], flat[i + len(axes)]) for i, a in enumerate(axes)}
    if scales is not None and scales.type.size != 0:
        factors = context.constant(scales, "scales").reshape(-1).tolist()
        return _resize(context, node, x, axes, factors, None, region)
    return _resize(context, node, x, axes, None, list(context.require_dims(sizes, "sizes")), region)


def _resize(
    context: Context, node: NodeView, x: Value, axes, scales, sizes: list[Dim] | None, region
) -> Value:
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if sizes is not None and policy != "stretch":
        ratios = [s / x.shape[a] for s, a in zip(sizes, axes, strict=True)]
        factor = min(ratios) if policy == "not_larger" else max(ratios)
        scales, sizes = [factor] * len(axes), [int(np.floor(factor * x.shape[a] + 0.5)) for a in axes]
    for position, axis in enumerate(axes):
        size = x.shape[axis]
        out = sizes[position] if sizes is not None else None
        scale = scales[position] if scales is not None else None
        if out is not None and out == size and region is None:
            continue
        if scale == 1.0 and region is None:
            continue
        if not isinstance(size, int) or (out is not None and not isinstance(out, int)):
            x = _symbolic(context, node, x, axis, out, scale)
            continue
        if out is None:
            low, high = region[axis] if region else (0.0, 1.0)
            out = int(np.floor(size * (high - low) * scale))
        x = resize_axis(
            context,
            x,
            axis,
            out,
            scale if scale is not None else out / size,
            node,
            region[axis] if region else None,
        )
    return x


def _symbolic(
    context: Context, node: NodeView, x: Value, axis: int, out: Dim | None, scale: float | None
) -> Value:
    """An axis of unknown size: positions and weights are computed by the run."""
    b, size = context.builder, x.shape[axis]
    if out is None:
        if scale != int(scale):
            context.unsupported(f"scale {scale} of an axis whose size is not known while importing")
        out = size * int(scale)
    transform = node.attribute(
        "coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric"
    )
    at = b.iota(shape=(out,), axis=0, dtype=f32)
    length, wide = context.size(size, f32), context.size(out, f32)
    ratio = b.div(length, wide) if scale is None else b.scalar(1 / scale, f32)
    match transform:
        case "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric":
            at = b.sub(b.mul(b.add(at, 0.5), ratio), 0.5)
        case "align_corners":
            at = b.mul(at, b.div(b.sub(length, 1.0), b.max(b.sub(wide, 1.0), 1.0)))
        case "asymmetric":
            at = b.mul(at, ratio)
        case _:
            context.unsupported(f"{transform} of an axis whose size is not known while importing")
    last = b.sub(context.size(size), 1)

    def pick(position: Value) -> Value:
        return b.gather(x, b.max(b.min(b.cast(position, dtype=i64), last), 0), axis=axis)

    mode = node.attribute("mode", "nearest")
    if mode == "nearest":
        default = "round_prefer_floor" if node.opset >= 11 else "floor"
        rounding = node.attribute("nearest_mode", default)
        if rounding == "floor":
            return pick(b.floor(at))
        if rounding == "ceil":
            return pick(b.ceil(at))
        return pick(b.floor(b.add(at, 0.5)) if rounding == "round_prefer_ceil" else b.ceil(b.sub(at, 0.5)))
    if mode == "cubic" or node.attribute("antialias", 0):
        context.unsupported(
            "cubic or antialiased resizing of an axis whose size is not known while importing"
        )
    low = b.floor(at)
    share = b.reshape(
        b.cast(b.sub(at, low), dtype=x.dtype), shape=tuple(out if a == axis else 1 for a in range(x.rank))
    )
    return b.add(b.mul(pick(low), b.add(b.neg(share), 1.0)), b.mul(pick(b.add(low, 1.0)), share))
