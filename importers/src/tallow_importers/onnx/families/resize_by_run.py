"""Resizing of an axis whose size, scale or region only the run can tell: places and weights are computed."""

from __future__ import annotations

from functools import reduce

from tallow.dim import Dim, exact_quotient
from tallow.dtype import f64, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView


def resize_by_run(
    context: Context, x: Value, axis: int, out: Dim, scale: Value, node: NodeView, region
) -> Value:
    """The axis at `out` places; `scale` is an f64 scalar, `region` a pair of numbers or f64 scalars."""
    b, size = context.builder, x.shape[axis]
    default = "half_pixel" if node.opset >= 11 else "asymmetric"
    transform = node.attribute("coordinate_transformation_mode", default)
    at = _coordinates(context, transform, out, size, scale, region)
    last = b.sub(context.size(size), 1)

    def pick(places: Value) -> Value:
        return b.gather(x, b.max(b.min(b.cast(places, dtype=i64), last), 0), axis=axis)

    whole = x.shape[axis] != 0 and exact_quotient(out, x.shape[axis])
    if (
        node.attribute("mode", "nearest") == "nearest"
        and transform == "asymmetric"
        and isinstance(whole, int)
    ):
        if node.attribute("nearest_mode") == "floor" and whole > 0:
            return b.gather(x, b.div(b.iota(shape=(out,), axis=0, dtype=i64), whole), axis=axis)
    if node.attribute("mode", "nearest") == "nearest":
        result = pick(_nearest(context, at, node))
    else:
        result = _weighted(context, x, axis, pick, *_weights(context, at, scale, size, node))
    if transform != "tf_crop_and_resize":
        return result
    outside = b.or_(b.lt(at, 0), b.gt(at, b.cast(last, dtype=f64)))
    mask = b.reshape(outside, shape=tuple(out if a == axis else 1 for a in range(x.rank)))
    return b.select(mask, b.scalar(node.attribute("extrapolation_value", 0.0), x.dtype), result)


def _coordinates(context: Context, mode: str, out: Dim, size: Dim, scale: Value, region) -> Value:
    """Where in the source each result element lies, f64 [out] (ONNX specification of Resize)."""
    b = context.builder
    at = b.iota(shape=(out,), axis=0, dtype=f64)
    have, wide = context.size(size, f64), context.size(out, f64)
    length = b.mul(have, scale)
    several = b.gt(wide, 1)
    centred = b.sub(b.div(b.add(at, 0.5), scale), 0.5)
    match mode:
        case "half_pixel":
            return centred
        case "half_pixel_symmetric":
            return b.add(centred, b.mul(b.mul(have, 0.5), b.sub(b.scalar(1, f64), b.div(wide, length))))
        case "pytorch_half_pixel":
            return b.select(several, centred, b.scalar(0, f64))
        case "align_corners":
            span = b.select(b.eq(length, 1), b.scalar(1, f64), b.sub(length, 1))
            spread = b.div(b.mul(at, b.sub(have, 1)), span)
            return b.select(b.and_(several, b.ne(length, 1)), spread, b.scalar(0, f64))
        case "asymmetric":
            return b.div(at, scale)
        case "tf_half_pixel_for_nn":
            return b.div(b.add(at, 0.5), scale)
        case "tf_crop_and_resize":
            low, high = (b.scalar(e, f64) if isinstance(e, float) else e for e in region)
            last = b.sub(have, 1)
            step = b.div(b.mul(b.sub(high, low), last), b.max(b.sub(wide, 1), 1))
            middle = b.mul(b.mul(b.add(low, high), 0.5), last)
            return b.select(several, b.add(b.mul(low, last), b.mul(at, step)), middle)
    context.unsupported(f"coordinate_transformation_mode {mode!r}")


def _nearest(context: Context, at: Value, node: NodeView) -> Value:
    b = context.builder
    match node.attribute("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor"):
        case "floor":
            return b.floor(at)
        case "ceil":
            return b.ceil(at)
        case "round_prefer_ceil":
            return b.floor(b.add(at, 0.5))
    return b.ceil(b.sub(at, 0.5))


def _weights(context: Context, at: Value, scale: Value, size: Dim, node: NodeView) -> tuple[Value, Value]:
    """Source positions and weights, f64 [out, taps]; only antialiasing makes taps a size of the run."""
    b, (out,) = context.builder, at.shape
    linear = node.attribute("mode") != "cubic"
    taps: Dim = 2 if linear else 4
    stretch = b.scalar(1, f64)
    if node.attribute("antialias", 0):
        stretch = b.max(b.div(b.scalar(1, f64), scale), 1)
        reach = b.ceil(b.mul(stretch, 1.0 if linear else 2.0))
        (taps,) = context.require_dims(b.cast(b.add(b.mul(reach, 2), 2), dtype=i64), "a number of taps")
    half = b.floor(b.mul(context.size(taps, f64), 0.5))
    first = b.sub(b.floor(at), b.sub(half, 1))
    places = b.add(b.reshape(first, shape=(out, 1)), b.iota(shape=(1, taps), axis=1, dtype=f64))
    distance = b.div(b.abs(b.sub(b.reshape(at, shape=(out, 1)), places)), stretch)
    if linear:
        weights = b.max(b.sub(b.scalar(1, f64), distance), 0)
    else:
        weights = _cubic(context, distance, float(node.attribute("cubic_coeff_a", -0.75)))
    if node.attribute("exclude_outside", 0):
        beyond = b.or_(b.lt(places, 0), b.ge(places, context.size(size, f64)))
        weights = b.select(beyond, b.scalar(0, f64), weights)
    if node.attribute("exclude_outside", 0) or node.attribute("antialias", 0):
        weights = b.div(weights, b.reduce(weights, function="add", axes=(1,), keepdims=True))
    return places, weights


def _cubic(context: Context, distance: Value, a: float) -> Value:
    """Keys' piecewise cubic of a distance, by Horner's rule."""
    b = context.builder

    def polynomial(*factors: float) -> Value:
        total = b.scalar(factors[0], f64)
        for factor in factors[1:]:
            total = b.add(b.mul(total, distance), b.scalar(factor, f64))
        return total

    near, far = polynomial(a + 2, -(a + 3), 0.0, 1.0), polynomial(a, -5 * a, 8 * a, -4 * a)
    return b.select(b.le(distance, 1), near, b.select(b.lt(distance, 2), far, b.scalar(0, f64)))


def _weighted(context: Context, x: Value, axis: int, pick, places: Value, weights: Value) -> Value:
    """The sum over taps of weights times source elements; a few taps are written out."""
    b, (out, taps) = context.builder, places.shape
    weights = b.cast(weights, dtype=x.dtype)
    if not isinstance(taps, int):
        shape = tuple({axis: out, axis + 1: taps}.get(a, 1) for a in range(x.rank + 1))
        parts = b.mul(pick(places), b.reshape(weights, shape=shape))
        return b.reduce(parts, function="add", axes=(axis + 1,), keepdims=False)

    def column(table: Value, tap: int) -> Value:
        return b.reshape(b.slice(table, starts=(0, tap), steps=(1, 1), shape=(out, 1)), shape=(out,))

    shape = tuple(out if a == axis else 1 for a in range(x.rank))
    parts = [b.mul(pick(column(places, t)), b.reshape(column(weights, t), shape=shape)) for t in range(taps)]
    return reduce(b.add, parts)
