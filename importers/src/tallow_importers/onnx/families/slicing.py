"""Operators of ONNX that cut parts out of tensors and pad them."""

from __future__ import annotations

import numpy as np

from tallow.dim import Dim, bounds, floordiv, maximum, minimum
from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.axes import read_shape, spread
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


@onnx_op("Slice")
def slice_(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    if "starts" in node.attributes:
        starts, ends = node.attribute("starts"), node.attribute("ends")
        axes, steps = node.attribute("axes") or list(range(len(starts))), [1] * len(starts)
    else:
        starts, ends = context.dims(node.input(1)), context.dims(node.input(2))
        if starts is None or ends is None:
            return slice_(context, _spelled_out(context, node, x))
        axes = _known(context, node.input(3), list(range(len(starts))))
        steps = _known(context, node.input(4), [1] * len(starts))
    if axes is None or steps is None:
        return _slice_anywhere(context, node, x)
    axes = [context.axis(a, x.rank) for a in axes]
    plan = [_span(s, e, step, x.shape[a]) for s, e, step, a in zip(starts, ends, steps, axes, strict=True)]
    if all(p is not None for p in plan):
        first, step_of, shape = [0] * x.rank, [1] * x.rank, list(x.shape)
        for axis, step, (start, size) in zip(axes, steps, plan, strict=True):
            first[axis], step_of[axis], shape[axis] = start, step, size
        return b.slice(x, starts=tuple(first), steps=tuple(step_of), shape=tuple(shape))
    return _run_time_slice(context, node, x, axes, steps)


def _spelled_out(context: Context, node: NodeView, x: Value) -> NodeView:
    """The node with a start, end and step for every axis, where their number is data and axes are not named."""
    b = context.builder
    if node.input(3) is not None or any(v.rank != 1 for v in (node.input(1), node.input(2))):
        context.unsupported("starts whose length is not known while importing, with axes")
    whole = {1: 0, 2: 2**63 - 1, 4: 1}
    operands = [x, None, None, None, None]
    for place, rest in whole.items():
        given = node.input(place)
        filling = b.constant(np.full(x.rank, rest, np.int64))
        longer = filling if given is None else b.concat(b.cast(given, dtype=i64), filling, axis=0)
        operands[place] = b.slice(longer, starts=(0,), steps=(1,), shape=(x.rank,))
    return NodeView(node.proto, operands, node.attributes, node.opset)


def _known(context: Context, value: Value | None, default: list[int]) -> list[int] | None:
    """The contents of a vector, or None if only the run can tell."""
    if value is None:
        return default
    array = context.array(value)
    return None if array is None else array.reshape(-1).tolist()


def _slice_anywhere(context: Context, node: NodeView, x: Value) -> Value:
    """Axes or steps that are data: every axis is gathered at the places that the run works out."""
    b, rank = context.builder, x.rank
    axes = b.constant(np.arange(rank)) if node.input(3) is None else node.input(3)
    ones, zeros = (b.constant(np.full(rank, fill, np.int64)) for fill in (1, 0))
    steps = ones if node.input(4) is None else spread(context, axes, node.input(4), ones)
    back = b.lt(steps, 0)
    size = context.shape_tensor(x.shape)
    starts = spread(context, axes, node.input(1), zeros)
    ends = spread(context, axes, node.input(2), size)
    starts, counts = _spans(context, starts, ends, steps, back, size)
    for axis, count in enumerate(read_shape(context, counts)):
        first, step = (b.slice(v, starts=(axis,), steps=(1,), shape=(1,)) for v in (starts, steps))
        x = b.gather(x, b.add(first, b.mul(b.iota(shape=(count,), axis=0, dtype=i64), step)), axis=axis)
    return x


def _spans(
    context: Context, starts: Value, ends: Value, steps: Value, back: Value, size: Value
) -> tuple[Value, Value]:
    """First positions and counts of slices; a step of 0 gives a count that the run refuses."""
    b = context.builder
    limit = b.sub(size, b.cast(back, dtype=i64))

    def normal(value: Value, floor) -> Value:
        value = b.cast(value, dtype=i64)
        value = b.select(b.lt(value, 0), b.add(value, size), value)
        return b.max(b.min(value, limit), floor)

    starts = normal(starts, b.select(back, b.min(limit, 0), 0))  # -1 if there is nothing
    ends = normal(ends, b.neg(b.cast(back, dtype=i64)))
    distance = b.select(back, b.sub(starts, ends), b.sub(ends, starts))
    stride = b.max(b.abs(steps), 1)
    counts = b.max(b.div(b.add(distance, b.sub(stride, 1)), stride), 0)
    return starts, b.select(b.eq(steps, 0), -1, counts)


def _span(start: Dim | None, end: Dim | None, step: int, size: Dim) -> tuple[Dim, Dim] | None:
    """First position and count of a slice, or None if only the run can tell."""
    if start is None or end is None:
        return None
    if step > 0:
        low, high = _clamp(start, size, 0, size), _clamp(end, size, 0, size)
        length = high - low
        count = length if step == 1 else floordiv(length + (step - 1), step)
        return low, non_negative(count)
    last = size - 1
    from_end = isinstance(start, int) and (start == -1 or start >= 2**31 - 1)
    low = last if from_end else _clamp(start, size, minimum(last, 0), last)  # -1 if there is nothing
    high = _clamp(end, size, -1, last)
    return low, non_negative(floordiv(low - high + (-step - 1), -step))


def non_negative(count: Dim) -> Dim:
    low, high = bounds(count)
    if low is not None and low >= 0:
        return count
    return maximum(count, 0)


def _clamp(at: Dim, size: Dim, low: Dim, high: Dim) -> Dim:
    """A position counted from the start and kept in low..high."""
    if isinstance(at, int) and abs(at) >= 2**31 - 1:
        return high if at > 0 else low
    negative = minimum(maximum(-at, 0), 1)  # 1 or 0
    return maximum(minimum(at + size * negative, high), low)


def _run_time_slice(context: Context, node: NodeView, x: Value, axes: list[int], steps: list[int]) -> Value:
    """Starts and ends that are data: normalised by the run, sizes bound to fresh symbols."""
    b = context.builder
    size = context.shape_tensor([x.shape[a] for a in axes])
    step = b.constant(np.array(steps, np.int64))
    starts, counts = _spans(context, node.input(1), node.input(2), step, b.lt(step, 0), size)
    fresh = read_shape(context, counts)
    shape, step_of = list(x.shape), [1] * x.rank
    for axis, count, st in zip(axes, fresh, steps, strict=True):
        shape[axis], step_of[axis] = count, st
    parts = []
    for axis in range(x.rank):
        if axis in axes:
            at = axes.index(axis)
            parts.append(b.slice(starts, starts=(at,), steps=(1,), shape=(1,)))
        else:
            parts.append(b.constant(np.zeros(1, np.int64)))
    return b.dynamic_slice(x, b.concat(*parts, axis=0), steps=tuple(step_of), shape=tuple(shape))


@onnx_op("Pad")
def pad(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    mode = node.attribute("mode", "constant")
    x, before, after = _amounts(context, node, x)
    operands = [x]
    if mode == "constant":
        value = node.input(2)
        if value is not None:
            operands.append(
                b.cast(b.reshape(value, shape=()), dtype=x.dtype)
                if value.rank or value.dtype != x.dtype
                else value
            )
        elif node.attribute("value"):
            operands.append(b.scalar(node.attribute("value"), x.dtype))
    if all(isinstance(d, int) and d == 0 for d in (*before, *after)):
        return x
    return b.pad(*operands, before=tuple(before), after=tuple(after), mode=mode)


def _amounts(context: Context, node: NodeView, x: Value) -> tuple[Value, list[Dim], list[Dim]]:
    """What to pad before and after each axis, and the tensor with what is negative cut off."""
    b, axes = context.builder, node.input(3)
    if node.input(1) is None:
        amounts = node.attribute("pads") or node.attribute("paddings")
    else:
        amounts = context.dims(node.input(1))
    if amounts is None:
        context.unsupported("pads whose number is not known while importing")
    places = _known(context, axes, list(range(x.rank)))
    if places is None or any(d is None for d in amounts):
        axes = b.constant(np.arange(x.rank)) if axes is None else axes
        count, none = len(amounts) // 2, b.constant(np.zeros(x.rank, np.int64))
        halves = (b.slice(node.input(1), starts=(at,), steps=(1,), shape=(count,)) for at in (0, count))
        return _cut_by_run(context, x, *(spread(context, axes, half, none) for half in halves))
    before, after = [0] * x.rank, [0] * x.rank
    for position, axis in enumerate(places):
        axis = context.axis(axis, x.rank)
        before[axis], after[axis] = amounts[position], amounts[position + len(places)]
    return crop(context, x, before, after)


def _cut_by_run(
    context: Context, x: Value, before: Value, after: Value
) -> tuple[Value, list[Dim], list[Dim]]:
    """As `crop`, with amounts i64 [rank] that are data."""
    b = context.builder
    cut = [b.max(b.neg(v), 0) for v in (before, after)]
    counts = b.sub(b.sub(context.shape_tensor(x.shape), cut[0]), cut[1])
    kept = b.dynamic_slice(x, cut[0], steps=(1,) * x.rank, shape=read_shape(context, counts))
    return kept, *(list(read_shape(context, b.max(v, 0))) for v in (before, after))


def crop(
    context: Context, x: Value, before: list[Dim], after: list[Dim]
) -> tuple[Value, list[Dim], list[Dim]]:
    """Negative amounts cut elements off."""

    def cut(d: Dim) -> Dim:
        return -d if isinstance(d, int) and d < 0 else 0

    if not any(cut(d) for d in (*before, *after)):
        return x, before, after
    starts = tuple(cut(d) for d in before)
    shape = tuple(s - cut(lo) - cut(hi) for s, lo, hi in zip(x.shape, before, after, strict=True))
    x = context.builder.slice(x, starts=starts, steps=(1,) * x.rank, shape=shape)
    return x, [0 if cut(d) else d for d in before], [0 if cut(d) else d for d in after]


@onnx_op("CenterCropPad")
def center_crop_pad(context: Context, node: NodeView) -> Value:
    """Cut and padded about the middle; where sizes are symbols, one of the two is by nothing."""
    x, b = node.input(0), context.builder
    target = context.require_dims(node.input(1), "a target shape")
    axes = [context.axis(a, x.rank) for a in node.attribute("axes") or range(x.rank)]
    starts, kept, before, after = [0] * x.rank, list(x.shape), [0] * x.rank, [0] * x.rank
    for axis, size in zip(axes, target, strict=True):
        have = x.shape[axis]
        kept[axis] = minimum(have, size)
        starts[axis] = floordiv(have - kept[axis], 2)
        before[axis] = floordiv(size - kept[axis], 2)
        after[axis] = size - kept[axis] - before[axis]
    x = b.slice(x, starts=tuple(starts), steps=(1,) * x.rank, shape=tuple(kept))
    return b.pad(x, before=tuple(before), after=tuple(after), mode="constant")
