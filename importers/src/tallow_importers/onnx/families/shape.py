"""Operators of ONNX that make, ask for and change shapes."""

from __future__ import annotations

import warnings

import numpy as np

from tallow.dim import Dim, bounds, exact_quotient, floordiv, maximum, minimum, product
from tallow.dtype import f32, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op
from tallow_importers.onnx.tensors import sparse_to_dense


@onnx_op("Constant")
def constant(context: Context, node: NodeView) -> Value:
    b = context.builder
    for name, value in node.attributes.items():
        match name:
            case "value":
                return b.constant(context.tensor(value), node.proto.output[0])
            case "sparse_value":
                return b.constant(sparse_to_dense(value, context.folder))
            case "value_float" | "value_floats":
                return b.constant(np.array(value, np.float32))
            case "value_int" | "value_ints":
                return b.constant(np.array(value, np.int64))
            case "value_string" | "value_strings":
                return b.constant(np.array(value, object))
    context.unsupported("a Constant without a value")


@onnx_op("Shape")
def shape(context: Context, node: NodeView) -> Value:
    dims = node.input(0).shape
    return context.shape_tensor(dims[slice(node.attribute("start", 0), node.attribute("end"))])


def _resolve(context: Context, x: Value, wanted: list[Dim], allow_zero: bool) -> tuple[Dim, ...]:
    """Target sizes with 0 (copy) and one -1 (the rest) worked out."""
    dims = [x.shape[i] if d == 0 and not allow_zero and i < x.rank else d for i, d in enumerate(wanted)]
    if not any(isinstance(d, int) and d == -1 for d in dims):
        return tuple(dims)
    rest = product(d for d in dims if not (isinstance(d, int) and d == -1))
    total = x.type.size
    missing = exact_quotient(total, rest)
    if missing is None:
        missing = 0 if rest == 0 else floordiv(total, rest)
    return tuple(missing if isinstance(d, int) and d == -1 else d for d in dims)


@onnx_op("Reshape")
def reshape(context: Context, node: NodeView) -> Value:
    x, target = node.input(0), node.input(1)
    allow_zero = bool(node.attribute("allowzero", 0))
    known = context.dims(target) if target is not None else node.attribute("shape")
    if known is None:
        context.unsupported("a target shape whose length is not known while importing")
    if any(d is None for d in known):
        known = _run_time_shape(context, x, target, known, allow_zero)
    return context.builder.reshape(x, shape=_resolve(context, x, list(known), allow_zero))


def _run_time_shape(context: Context, x: Value, target: Value, known, allow_zero: bool) -> list[Dim]:
    """0 and -1 in a shape that only the run can tell are worked out by the run."""
    b = context.builder
    values = b.cast(target, dtype=i64)
    if not allow_zero:
        padded = [x.shape[i] if i < x.rank else 0 for i in range(len(known))]
        values = b.select(b.eq(values, 0), context.shape_tensor(padded), values)
    is_rest = b.eq(values, -1)
    others = b.reduce(b.select(is_rest, 1, values), function="mul", axes=(0,), keepdims=True)
    rest = b.div(context.shape_tensor([x.type.size]), b.max(others, 1))
    final = b.select(is_rest, rest, values)
    fresh = [b.fresh_symbol("u") for _ in known]
    b.read_dims(final, defines=tuple(map(str, fresh)))
    keep = [isinstance(k, int) and k > 0 for k in known]
    return [k if kept else f for k, f, kept in zip(known, fresh, keep, strict=True)]


@onnx_op("Flatten")
def flatten(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    axis = node.attribute("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    return context.builder.reshape(x, shape=(product(x.shape[:axis]), product(x.shape[axis:])))


def _axes(context: Context, node: NodeView) -> list[int] | None:
    if node.input(1) is not None:
        return context.constant(node.input(1), "axes").reshape(-1).tolist()
    return node.attribute("axes")


@onnx_op("Squeeze")
def squeeze(context: Context, node: NodeView) -> Value:
    x, axes = node.input(0), _axes(context, node)
    if axes is None:
        drop = {a for a, d in enumerate(x.shape) if d == 1}
        unknown = [str(d) for d in x.shape if not isinstance(d, int) and (bounds(d)[0] or 0) <= 1]
        if unknown:
            where, sizes = context.builder.location, ", ".join(unknown)
            warnings.warn(
                f"{where} keeps axes whose size is not known ({sizes}): fix them with dims", stacklevel=2
            )
    else:
        drop = {context.axis(a, x.rank) for a in axes}
    return context.builder.reshape(x, shape=tuple(d for a, d in enumerate(x.shape) if a not in drop))


@onnx_op("Unsqueeze")
def unsqueeze(context: Context, node: NodeView) -> Value:
    x, axes = node.input(0), _axes(context, node)
    rank = x.rank + len(axes)
    new = {context.axis(a, rank) for a in axes}
    rest = iter(x.shape)
    return context.builder.reshape(x, shape=tuple(1 if a in new else next(rest) for a in range(rank)))


@onnx_op("Expand")
def expand(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    target = context.require_dims(node.input(1), "a target shape")
    rank = max(len(target), x.rank)
    wanted = (1,) * (rank - len(target)) + tuple(target)
    have = (1,) * (rank - x.rank) + x.shape
    shape = tuple(
        h if w == 1 else w if h == 1 or h == w else _joint(h, w) for h, w in zip(have, wanted, strict=True)
    )
    return context.builder.broadcast(x, shape=shape)


def _joint(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and a > 1:
        return a
    return b if isinstance(b, int) and b > 1 else maximum(a, b)


@onnx_op("Tile")
def tile(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    repeats = context.require_dims(node.input(1), "repeats")
    opened = b.reshape(x, shape=tuple(d for s in x.shape for d in (1, s)))
    many = b.broadcast(opened, shape=tuple(d for s, r in zip(x.shape, repeats, strict=True) for d in (r, s)))
    return b.reshape(many, shape=tuple(s * r for s, r in zip(x.shape, repeats, strict=True)))


@onnx_op("Transpose")
def transpose(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    order = node.attribute("perm") or list(reversed(range(x.rank)))
    return context.builder.transpose(x, permutation=tuple(order))


@onnx_op("Concat")
def concat(context: Context, node: NodeView) -> Value:
    return context.builder.concat(*node.inputs, axis=context.axis(node.attribute("axis"), node.input(0).rank))


@onnx_op("Split")
def split(context: Context, node: NodeView) -> list[Value]:
    x, count = node.input(0), len(node.proto.output)
    axis = context.axis(node.attribute("axis", 0), x.rank)
    if node.input(1) is not None:
        sizes = context.require_dims(node.input(1), "split sizes")
    elif node.attribute("split"):
        sizes = node.attribute("split")
    else:
        each = (
            -((-x.shape[axis]) // count)
            if isinstance(x.shape[axis], int)
            else floordiv(x.shape[axis] + count - 1, count)
        )
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    results, start = [], 0
    for size in sizes:
        starts = tuple(start if a == axis else 0 for a in range(x.rank))
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        results.append(context.builder.slice(x, starts=starts, steps=(1,) * x.rank, shape=shape))
        start = start + size
    return results


@onnx_op("Slice")
def slice_(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    if "starts" in node.attributes:
        starts, ends = node.attribute("starts"), node.attribute("ends")
        axes, steps = node.attribute("axes") or list(range(len(starts))), [1] * len(starts)
    else:
        starts, ends = context.dims(node.input(1)), context.dims(node.input(2))
        if starts is None or ends is None:
            context.unsupported("starts whose length is not known while importing")
        axes = list(range(len(starts)))
        if node.input(3) is not None:
            axes = context.constant(node.input(3), "axes").reshape(-1).tolist()
        steps = [1] * len(starts)
        if node.input(4) is not None:
            steps = context.constant(node.input(4), "steps").reshape(-1).tolist()
    axes = [context.axis(a, x.rank) for a in axes]
    plan = [_span(s, e, step, x.shape[a]) for s, e, step, a in zip(starts, ends, steps, axes, strict=True)]
    if all(p is not None for p in plan):
        first, step_of, shape = [0] * x.rank, [1] * x.rank, list(x.shape)
        for axis, step, (start, size) in zip(axes, steps, plan, strict=True):
            first[axis], step_of[axis], shape[axis] = start, step, size
        return b.slice(x, starts=tuple(first), steps=tuple(step_of), shape=tuple(shape))
    return _run_time_slice(context, node, x, axes, steps)


def _span(start: Dim | None, end: Dim | None, step: int, size: Dim) -> tuple[Dim, Dim] | None:
    """First position and count of a slice, or None if only the run can tell."""
    if start is None or end is None:
        return None
    if step > 0:
        low, high = _clamp(start, size, 0, size), _clamp(end, size, 0, size)
        if low is None or high is None:
            return None
        length = high - low
        count = length if step == 1 else floordiv(length + (step - 1), step)
        return low, _non_negative(count)
    low, high = _clamp(start, size, 0, size - 1), _clamp(end, size, -1, size - 1)
    if low is None or high is None:
        return None
    return low, _non_negative(floordiv(low - high + (-step - 1), -step))


def _non_negative(count: Dim) -> Dim:
    low, high = bounds(count)
    if low is not None and low >= 0:
        return count
    return maximum(count, 0)


def _clamp(at: Dim, size: Dim, low: Dim, high: Dim) -> Dim | None:
    """A position counted from the start and kept in low..high; None if its sign is not known."""
    if isinstance(at, int) and abs(at) >= 2**31 - 1:
        return high if at > 0 else low
    least, most = bounds(at)
    if most is not None and most < 0:
        at = at + size
    elif least is None or least < 0:
        return None
    return maximum(minimum(at, high), low)


def _run_time_slice(context: Context, node: NodeView, x: Value, axes: list[int], steps: list[int]) -> Value:
    """Starts and ends that are data: normalised by the run, sizes bound to fresh symbols."""
    b = context.builder
    size = context.shape_tensor([x.shape[a] for a in axes])
    step = b.constant(np.array(steps, np.int64))
    zero = b.constant(np.zeros(len(axes), np.int64))
    back = b.lt(step, 0)
    limit = b.sub(size, b.select(back, 1, zero))

    def normal(value: Value, floor: Value) -> Value:
        value = b.cast(value, dtype=i64)
        value = b.select(b.lt(value, 0), b.add(value, size), value)
        return b.max(b.min(value, limit), floor)

    starts = normal(node.input(1), zero)
    ends = normal(node.input(2), b.select(back, -1, zero))
    distance = b.select(back, b.sub(starts, ends), b.sub(ends, starts))
    stride = b.abs(step)
    counts = b.max(b.div(b.add(distance, b.sub(stride, 1)), stride), 0)
    fresh = [b.fresh_symbol("u") for _ in axes]
    b.read_dims(counts, defines=tuple(map(str, fresh)))
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
    if node.input(1) is not None:
        amounts = list(context.require_dims(node.input(1), "pads"))
    else:
        amounts = node.attribute("pads") or node.attribute("paddings")
    axes = list(range(x.rank))
    if node.input(3) is not None:
        axes = [context.axis(a, x.rank) for a in context.constant(node.input(3), "axes").reshape(-1).tolist()]
    before, after = [0] * x.rank, [0] * x.rank
    for position, axis in enumerate(axes):
        before[axis], after[axis] = amounts[position], amounts[position + len(axes)]
    x, before, after = crop(context, x, before, after)
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


@onnx_op("ConstantOfShape")
def constant_of_shape(context: Context, node: NodeView) -> Value:
    tensor = node.attribute("value")
    value = np.zeros((), np.float32) if tensor is None else context.tensor(tensor).reshape(())
    return context.builder.broadcast(
        context.builder.constant(value), shape=context.require_dims(node.input(0), "a shape")
    )


@onnx_op("Range")
def range_(context: Context, node: NodeView) -> Value:
    b = context.builder
    start, limit, delta = (b.reshape(v, shape=()) if v.rank else v for v in node.inputs)
    dtype = start.dtype
    dims = [context.dims(v) for v in (start, limit, delta)] if dtype.is_integer else [None]
    step = dims[-1][0] if dims[-1] else None
    if all(d and d[0] is not None for d in dims) and isinstance(step, int) and step:
        distance = dims[1][0] - dims[0][0] if step > 0 else dims[0][0] - dims[1][0]
        count: Dim = _non_negative(floordiv(distance + (abs(step) - 1), abs(step)))
    else:
        wide = dtype if dtype.is_float else f32
        span = b.div(b.cast(b.sub(limit, start), dtype=wide), b.cast(delta, dtype=wide))
        count = context.require_dims(b.cast(b.max(b.ceil(span), 0), dtype=i64))[0]
    line = b.iota(shape=(count,), axis=0, dtype=dtype)
    return b.add(b.mul(line, delta), start)


@onnx_op("EyeLike")
def eye_like(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    dtype = context.dtype(node.attribute("dtype")) if "dtype" in node.attributes else x.dtype
    rows, columns = _grid(context, x.shape)
    return b.cast(b.eq(columns, b.add(rows, node.attribute("k", 0))), dtype=dtype)


def _grid(context: Context, shape) -> tuple[Value, Value]:
    b = context.builder
    return b.iota(shape=(shape[-2], 1), axis=0, dtype=i64), b.iota(shape=(1, shape[-1]), axis=1, dtype=i64)


@onnx_op("Trilu")
def trilu(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    rows, columns = _grid(context, x.shape)
    k = b.scalar(0, i64) if node.input(1) is None else b.reshape(node.input(1), shape=())
    edge = b.add(rows, k)
    keep = b.ge(columns, edge) if node.attribute("upper", 1) else b.le(columns, edge)
    return b.select(keep, x, b.scalar(0, x.dtype))


@onnx_op("OneHot")
def one_hot(context: Context, node: NodeView) -> Value:
    indices, depth, values = node.inputs
    b = context.builder
    axis = context.axis(node.attribute("axis", -1), indices.rank + 1)
    scalar = b.reshape(depth, shape=(1,)) if depth.rank != 1 else depth
    (count,) = context.require_dims(b.cast(scalar, dtype=i64), "a depth")
    at = b.cast(indices, dtype=i64)
    at = b.select(b.lt(at, 0), b.add(at, context.size(count)), at)
    opened = b.reshape(at, shape=(*at.shape[:axis], 1, *at.shape[axis:]))
    line_shape = tuple(count if a == axis else 1 for a in range(at.rank + 1))
    hit = b.eq(opened, b.iota(shape=line_shape, axis=axis, dtype=i64))
    off, on = (b.reshape(b.slice(values, starts=(i,), steps=(1,), shape=(1,)), shape=()) for i in (0, 1))
    return b.select(hit, on, off)


@onnx_op("DepthToSpace")
def depth_to_space(context: Context, node: NodeView) -> Value:
    x, b, k = node.input(0), context.builder, node.attribute("blocksize")
    n, c, h, w = x.shape
    if node.attribute("mode", "DCR") == "DCR":
        split, order = (n, k, k, floordiv(c, k * k), h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (n, floordiv(c, k * k), k, k, h, w), (0, 1, 4, 2, 5, 3)
    moved = b.transpose(b.reshape(x, shape=split), permutation=order)
    return b.reshape(moved, shape=(n, floordiv(c, k * k), h * k, w * k))


@onnx_op("SpaceToDepth")
def space_to_depth(context: Context, node: NodeView) -> Value:
    x, b, k = node.input(0), context.builder, node.attribute("blocksize")
    n, c, h, w = x.shape
    split = b.reshape(x, shape=(n, c, floordiv(h, k), k, floordiv(w, k), k))
    order = (0, 3, 5, 1, 2, 4) if node.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = b.transpose(split, permutation=order)
    return b.reshape(moved, shape=(n, c * k * k, floordiv(h, k), floordiv(w, k)))


@onnx_op("NonZero")
def nonzero(context: Context, node: NodeView) -> Value:
    return context.builder.nonzero(node.input(0), defines=(context.fresh_name(),))


@onnx_op("Compress")
def compress(context: Context, node: NodeView) -> Value:
    x, condition = node.inputs
    b = context.builder
    axis = node.attribute("axis")
    if axis is None:
        x, axis = b.reshape(x, shape=(x.type.size,)), 0
    axis = context.axis(axis, x.rank)
    picked = b.nonzero(condition, defines=(context.fresh_name(),))
    return b.gather(x, b.reshape(picked, shape=(picked.shape[1],)), axis=axis)


@onnx_op("ReverseSequence")
def reverse_sequence(context: Context, node: NodeView) -> Value:
    x, lengths = node.inputs
    b = context.builder
    time, batch = node.attribute("time_axis", 0), node.attribute("batch_axis", 1)

    def lay(value: Value, axis: int) -> Value:
        return b.reshape(value, shape=tuple(value.shape[0] if a == axis else 1 for a in range(x.rank)))

    step = lay(b.iota(shape=(x.shape[time],), axis=0, dtype=i64), time)
    length = lay(b.cast(lengths, dtype=i64), batch)
    at = b.select(b.lt(step, length), b.sub(b.sub(length, 1), step), step)
    return b.gather_elements(x, b.broadcast(at, shape=x.shape), axis=time)


@onnx_op("CenterCropPad")
def center_crop_pad(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    target = context.require_dims(node.input(1), "a target shape")
    axes = [context.axis(a, x.rank) for a in node.attribute("axes") or range(x.rank)]
    for axis, size in zip(axes, target, strict=True):
        have = x.shape[axis]
        if not isinstance(have, int) or not isinstance(size, int):
            context.unsupported("sizes that are not known while importing")
        before, after = [0] * x.rank, [0] * x.rank
        before[axis] = (size - have) // 2 if size >= have else -((have - size) // 2)
        after[axis] = size - have - before[axis]
        x, low, high = crop(context, x, before, after)
        if any(low) or any(high):
            x = b.pad(x, before=tuple(low), after=tuple(high), mode="constant")
    return x
