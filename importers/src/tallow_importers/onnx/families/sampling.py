"""Sampling of pictures at places between their elements: GridSample, AffineGrid, DeformConv, Col2Im."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce

from tallow.dim import Dim, floordiv, product
from tallow.dtype import f64, i64
from tallow.errors import GraphError
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.convolution import per_channel, window
from tallow_importers.onnx.registry import onnx_op

Tap = tuple[Value, Value | None]  # an i64 position along an axis, and its weight


def _column(context: Context, grid: Value, number: int) -> Value:
    """Part `number` of the last axis of a grid [N, ..., parts], flat: [N, P]."""
    rank, points = grid.rank, product(grid.shape[1:-1])
    starts = (*(0,) * (rank - 1), number)
    part = context.builder.slice(grid, starts=starts, steps=(1,) * rank, shape=(*grid.shape[:-1], 1))
    return context.builder.reshape(part, shape=(grid.shape[0], points))


@onnx_op("GridSample")
def grid_sample(context: Context, node: NodeView) -> Value:
    x, grid = node.inputs
    b, spatial = context.builder, x.rank - 2
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = names.get(node.attribute("mode", "linear"), node.attribute("mode", "linear"))
    padding, aligned = node.attribute("padding_mode", "zeros"), bool(node.attribute("align_corners", 0))
    axes = []
    for axis in range(spatial):
        size = x.shape[2 + axis]
        length = context.size(size, x.dtype)
        at = _column(context, b.cast(grid, dtype=x.dtype), spatial - 1 - axis)
        if aligned:
            at = b.mul(b.mul(b.add(at, 1), 0.5), b.sub(length, 1))
        else:
            at = b.mul(b.sub(b.mul(b.add(at, 1), length), 1), 0.5)
        taps = _taps(context, _inside(context, at, size, padding, aligned) if mode != "cubic" else at, mode)
        if mode == "cubic" and padding != "zeros":
            kept = (_inside(context, b.cast(p, dtype=x.dtype), size, padding, aligned) for p, _ in taps)
            taps = [(b.cast(b.round(k), dtype=i64), w) for k, (_, w) in zip(kept, taps, strict=True)]
        axes.append(taps)
    result = sample(context, x, axes)
    return b.reshape(result, shape=(*x.shape[:2], *grid.shape[1:-1]))


def _inside(context: Context, at: Value, size: Dim, padding: str, aligned: bool) -> Value:
    """A position brought into the picture by its padding mode; zeros leaves it where it is."""
    b = context.builder
    last = b.sub(context.size(size, at.dtype), 1)
    if padding == "border":
        return b.max(b.min(at, last), 0)
    if padding == "reflection":
        low = b.scalar(0 if aligned else -0.5, at.dtype)
        span = b.max(last if aligned else b.add(last, 1), 1e-6)
        turned = b.mod(b.sub(at, low), b.mul(span, 2))
        folded = b.select(b.gt(turned, span), b.sub(b.mul(span, 2), turned), turned)
        return b.max(b.min(b.add(folded, low), last), 0)
    return at


def _taps(context: Context, at: Value, mode: str) -> list[Tap]:
    """Which positions around `at` count, and by how much."""
    b = context.builder
    if mode == "nearest":
        return [(b.cast(b.round(at), dtype=i64), None)]
    base = b.floor(at)
    share, first = b.sub(at, base), b.cast(base, dtype=i64)
    if mode == "linear":
        return [(first, b.add(b.neg(share), 1.0)), (b.add(first, 1), share)]
    if mode != "cubic":
        context.unsupported(f"mode {mode!r}")
    return [
        (b.add(first, n), _keys(context, b.abs(b.sub(share, float(n))), n in (0, 1))) for n in range(-1, 3)
    ]


def _keys(context: Context, distance: Value, near: bool, a: float = -0.75) -> Value:
    """Keys' cubic convolution weight of a distance, up to 1 or from 1 to 2."""
    b = context.builder
    factors = (a + 2, -(a + 3), 0.0, 1.0) if near else (a, -5 * a, 8 * a, -4 * a)
    total = b.mul(distance, factors[0])
    for factor in factors[1:-1]:
        total = b.mul(b.add(total, factor), distance)
    return b.add(total, factors[-1])


def sample(context: Context, x: Value, axes: Sequence[Sequence[Tap]]) -> Value:
    """x [N, C, ...] at P places, [N, C, P]: the weighted sum over all combinations of taps [N, P] of its
    axes; elements outside the picture are 0."""
    b = context.builder
    n, c = x.shape[:2]
    flat = b.reshape(x, shape=(n, c, product(x.shape[2:])))
    total = None
    for taps in itertools.product(*axes):
        part = _pick(context, flat, x.shape[2:], [position for position, _ in taps])
        weights = [weight for _, weight in taps if weight is not None]
        if weights:
            weight = reduce(b.mul, weights)
            part = b.mul(part, b.reshape(weight, shape=(weight.shape[0], 1, weight.shape[1])))
        total = part if total is None else b.add(total, part)
    return total


def _pick(context: Context, flat: Value, sizes: Sequence[Dim], at: Sequence[Value]) -> Value:
    """Elements [N, C, P] of a flat picture at one position for each of its axes."""
    b = context.builder
    place, inside = None, None
    for position, size in zip(at, sizes, strict=True):
        extent = context.size(size)
        within = b.and_(b.ge(position, 0), b.lt(position, extent))
        kept = b.max(b.min(position, b.sub(extent, 1)), 0)
        inside = within if inside is None else b.and_(inside, within)
        place = kept if place is None else b.add(b.mul(place, extent), kept)
    n, points = place.shape
    place = b.broadcast(b.reshape(place, shape=(n, 1, points)), shape=(n, flat.shape[1], points))
    picked = b.gather_elements(flat, place, axis=2)
    return b.select(b.reshape(inside, shape=(n, 1, points)), picked, b.scalar(0, flat.dtype))


@onnx_op("AffineGrid")
def affine_grid(context: Context, node: NodeView) -> Value:
    """Places of a grid from -1 to 1 along each axis, moved by a matrix for each picture."""
    theta, size = node.inputs
    b = context.builder
    spatial = context.require_dims(size, "a size")[2:]
    rank = len(spatial)
    if rank not in (2, 3):
        raise GraphError(f"size has {rank + 2} elements: expected N, C, H, W or N, C, D, H, W")
    columns = []
    for axis in reversed(range(rank)):
        extent = spatial[axis]
        steps, length = b.iota(shape=(extent,), axis=0, dtype=f64), context.size(extent, f64)
        if node.attribute("align_corners", 0):
            apart = b.div(b.mul(steps, 2.0), b.max(b.sub(length, 1), 1))
        else:
            apart = b.div(b.add(b.mul(steps, 2.0), 1.0), length)
        line = b.reshape(b.cast(b.sub(apart, 1.0), dtype=theta.dtype), shape=_along(rank, axis, extent))
        columns.append(b.reshape(b.broadcast(line, shape=spatial), shape=(product(spatial), 1)))
    columns.append(b.broadcast(b.scalar(1, theta.dtype), shape=(product(spatial), 1)))
    moved = b.matmul(b.concat(*columns, axis=1), b.transpose(theta, permutation=(0, 2, 1)))
    return b.reshape(moved, shape=(theta.shape[0], *spatial, rank))


def _along(rank: int, axis: int, extent: Dim) -> tuple[Dim, ...]:
    return tuple(extent if a == axis else 1 for a in range(rank))


@onnx_op("DeformConv")
def deform_conv(context: Context, node: NodeView) -> Value:
    """A convolution whose taps are moved by offsets that are data (Dai et al., 2017)."""
    x, w, offset, bias, mask = (node.input(i) for i in range(5))
    b, spatial = context.builder, x.rank - 2
    kernel = tuple(node.attribute("kernel_shape") or w.shape[2:])
    strides, pads, dilations = window(context, node, x, kernel)
    groups, parts = node.attribute("group", 1), node.attribute("offset_group", 1)
    n, c, taps, out = x.shape[0], x.shape[1], product(kernel), offset.shape[2:]
    points = taps * product(out)
    moves = b.reshape(offset, shape=(n * parts, *kernel, spatial, *out))
    axes = []
    for axis in range(spatial):
        starts = tuple(axis if a == 1 + spatial else 0 for a in range(moves.rank))
        shape = (*moves.shape[: 1 + spatial], 1, *out)
        move = b.slice(moves, starts=starts, steps=(1,) * moves.rank, shape=shape)
        move = b.reshape(move, shape=(n * parts, *kernel, *out))
        rank = 2 * spatial
        tap = b.mul(b.iota(shape=_along(rank, axis, kernel[axis]), axis=axis, dtype=i64), dilations[axis])
        place = b.iota(shape=_along(rank, spatial + axis, out[axis]), axis=spatial + axis, dtype=i64)
        base = b.add(b.sub(b.mul(place, strides[axis]), context.size(pads[axis][0])), tap)
        at = b.add(move, b.cast(base, dtype=x.dtype))
        axes.append(_taps(context, b.reshape(at, shape=(n * parts, points)), "linear"))
    grouped = b.reshape(x, shape=(n * parts, floordiv(c, parts), *x.shape[2:]))
    columns = sample(context, grouped, axes)
    if mask is not None:
        columns = b.mul(columns, b.reshape(mask, shape=(n * parts, 1, points)))
    depth = floordiv(c, groups) * taps
    columns = b.reshape(columns, shape=(n, groups, depth, product(out)))
    weights = b.reshape(w, shape=(groups, floordiv(w.shape[0], groups), depth))
    result = b.reshape(b.matmul(weights, columns), shape=(n, w.shape[0], *out))
    return result if bias is None else b.add(result, per_channel(context, bias, result.rank))


@onnx_op("Col2Im")
def col2im(context: Context, node: NodeView) -> Value:
    """Blocks summed where they overlap: each element of the picture looks for the blocks that cover it."""
    x, b = node.input(0), context.builder
    image = context.require_dims(node.input(1), "an image shape")
    block = context.require_dims(node.input(2), "a block shape")
    spatial = len(image)
    strides = node.attribute("strides") or [1] * spatial
    dilations = node.attribute("dilations") or [1] * spatial
    pads = node.attribute("pads") or [0] * (2 * spatial)
    place, tap, covered = None, None, None
    blocks: Dim = 1
    for axis in range(spatial):
        low, high = pads[axis], pads[axis + spatial]
        span = (block[axis] - 1) * dilations[axis] + 1
        count = floordiv(image[axis] + low + high - span, strides[axis]) + 1
        pixel = b.iota(shape=_along(2 * spatial, axis, image[axis]), axis=axis, dtype=i64)
        other = spatial + axis
        part = b.iota(shape=_along(2 * spatial, other, block[axis]), axis=other, dtype=i64)
        start = b.sub(b.add(pixel, low), b.mul(part, dilations[axis]))
        number = b.div(b.max(start, 0), strides[axis])
        fits = b.and_(b.ge(start, 0), b.eq(b.mul(number, strides[axis]), start))
        fits = b.and_(fits, b.lt(number, context.size(count)))
        number = b.min(number, b.sub(context.size(count), 1))
        covered = fits if covered is None else b.and_(covered, fits)
        place = number if place is None else b.add(b.mul(place, context.size(count)), number)
        tap = part if tap is None else b.add(b.mul(tap, context.size(block[axis])), part)
        blocks = blocks * count
    taps = product(block)
    channels = floordiv(x.shape[1], taps)
    flat = b.reshape(x, shape=(x.shape[0], channels, taps * blocks))
    parts = b.gather(flat, b.add(b.mul(tap, context.size(blocks)), place), axis=2)
    parts = b.select(covered, parts, b.scalar(0, x.dtype))
    axes = tuple(range(2 + spatial, 2 + 2 * spatial))
    return b.reduce(parts, function="add", axes=axes, keepdims=False)
