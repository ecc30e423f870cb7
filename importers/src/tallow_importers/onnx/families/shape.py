"""Operators of ONNX that ask for shapes, change them and move whole axes."""

from __future__ import annotations

from tallow.dim import Dim, bounds, broadcast, exact_quotient, floordiv, product
from tallow.dtype import i64
from tallow.errors import GraphError
from tallow.graph import Value
from tallow_importers.onnx.axes import squeezed, unsqueezed
from tallow_importers.onnx.context import Context, Diverges, NodeView
from tallow_importers.onnx.registry import onnx_op


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
    """Axes of an attribute or a constant; None if there are none, or if only the run can tell."""
    if node.input(1) is None:
        return node.attribute("axes")
    known = context.array(node.input(1))
    return None if known is None else known.reshape(-1).tolist()


@onnx_op("Squeeze")
def squeeze(context: Context, node: NodeView) -> Value:
    x, axes = node.input(0), _axes(context, node)
    if axes is None and node.input(1) is not None:
        return context.builder.reshape(x, shape=squeezed(context, x.shape, _of_known_length(context, node)))
    if axes is None:
        unknown = [a for a, d in enumerate(x.shape) if not isinstance(d, int) and (bounds(d)[0] or 0) <= 1]
        return _squeeze_singles(context, x, {a for a, d in enumerate(x.shape) if d == 1}, unknown)
    return _without(context, x, {context.axis(a, x.rank) for a in axes})


def _without(context: Context, x: Value, drop: set[int]) -> Value:
    return context.builder.reshape(x, shape=tuple(d for a, d in enumerate(x.shape) if a not in drop))


def _squeeze_singles(context: Context, x: Value, drop: set[int], unknown: list[int]) -> Value:
    """x without the axes `drop` and those of `unknown` that the run finds to have one element."""
    if not unknown:
        return _without(context, x, drop)
    axis, *rest = unknown
    single = context.builder.eq(context.size(x.shape[axis]), 1)

    def arm(also: set[int]):
        return lambda builder: [_squeeze_singles(context.inside(builder), x, drop | also, rest)]

    reason = f"axis {axis} of {x.type} stays or goes with its size"
    raise Diverges(single, (arm({axis}), arm(set())), reason)


def _of_known_length(context: Context, node: NodeView) -> Value:
    if not isinstance(node.input(1).type.size, int):
        context.unsupported("axes whose number is not known while importing")
    return node.input(1)


@onnx_op("Unsqueeze")
def unsqueeze(context: Context, node: NodeView) -> Value:
    x, axes = node.input(0), _axes(context, node)
    if axes is None:
        return context.builder.reshape(x, shape=unsqueezed(context, x.shape, _of_known_length(context, node)))
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
    return context.builder.broadcast(x, shape=tuple(map(broadcast, have, wanted)))


@onnx_op("Tile")
def tile(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    repeats = context.require_dims(node.input(1), "repeats")
    if len(repeats) != x.rank:
        raise GraphError(f"expected {x.rank} repeats for {x.type}, got {len(repeats)}")
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
        if isinstance(node.input(1).type.size, int) and node.input(1).type.size != count:
            raise GraphError(f"expected a size for each of {count} results, got {node.input(1).type}")
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
