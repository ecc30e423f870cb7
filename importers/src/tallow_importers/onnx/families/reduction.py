"""Reductions of ONNX, their axes an attribute or an operand."""

from __future__ import annotations

import math

from tallow.dim import product
from tallow.dtype import f32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

_REDUCTIONS = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)


def _axes(context: Context, node: NodeView) -> tuple[int, ...] | None:
    """The axes to reduce, or None when the operator is asked to do nothing."""
    rank = node.input(0).rank
    axes = node.attribute("axes")
    if node.input(1) is not None:
        axes = context.constant(node.input(1), "axes").reshape(-1).tolist()
    if not axes:
        return None if node.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({context.axis(a, rank) for a in axes}))


@onnx_op(*_REDUCTIONS)
def reduce_(context: Context, node: NodeView) -> Value:
    x, b, kind = node.input(0), context.builder, node.op_type.removeprefix("Reduce")
    axes = _axes(context, node)
    keepdims = bool(node.attribute("keepdims", 1))

    def fold(value: Value, function: str) -> Value:
        if axes is None:
            return value
        return b.reduce(value, function=function, axes=axes, keepdims=keepdims)

    match kind:
        case "Sum":
            return fold(x, "add")
        case "Prod":
            return fold(x, "mul")
        case "Max" | "Min":
            if x.dtype.kind == "bool":
                return fold(x, "or" if kind == "Max" else "and")
            return fold(x, kind.lower())
        case "Mean":
            if axes is None:
                return x
            count = product(x.shape[a] for a in axes)
            wide = x if x.dtype.is_float else b.cast(x, dtype=f32)
            mean = b.div(fold(wide, "add"), context.size(count, wide.dtype))
            return b.cast(mean, dtype=x.dtype) if wide is not x else mean
        case "L1":
            return fold(b.abs(x), "add")
        case "SumSquare":
            return fold(b.mul(x, x), "add")
        case "L2":
            wide = x if x.dtype.is_float else b.cast(x, dtype=f32)
            return b.cast(b.sqrt(fold(b.mul(wide, wide), "add")), dtype=x.dtype)
        case "LogSum":
            return b.log(fold(x, "add"))
    return _log_sum_exp(context, x, axes, keepdims)


def _log_sum_exp(context: Context, x: Value, axes, keepdims: bool) -> Value:
    """Shifted by the maximum, so that it never overflows."""
    b = context.builder
    if axes is None:
        return x
    wide = x if x.dtype.is_float else b.cast(x, dtype=f32)
    top = b.reduce(wide, function="max", axes=axes, keepdims=True)
    finite = b.select(b.lt(b.abs(top), math.inf), top, 0)
    total = b.log(b.reduce(b.exp(b.sub(wide, finite)), function="add", axes=axes, keepdims=True))
    result = b.add(total, finite)
    if not keepdims:
        result = b.reshape(result, shape=tuple(d for a, d in enumerate(x.shape) if a not in axes))
    return b.cast(result, dtype=x.dtype) if wide is not x else result


@onnx_op("ArgMax", "ArgMin")
def arg_extreme(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    op = context.builder.argmax if node.op_type == "ArgMax" else context.builder.argmin
    return op(
        x,
        axis=context.axis(node.attribute("axis", 0), x.rank),
        keepdims=bool(node.attribute("keepdims", 1)),
        last=bool(node.attribute("select_last_index", 0)),
    )


@onnx_op("CumSum", "CumProd")
def cumulative(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    axis = int(context.constant(node.input(1), "an axis").reshape(()))
    return context.builder.cumulative(
        x,
        axis=context.axis(axis, x.rank),
        function="add" if node.op_type == "CumSum" else "mul",
        exclusive=bool(node.attribute("exclusive", 0)),
        reverse=bool(node.attribute("reverse", 0)),
    )
