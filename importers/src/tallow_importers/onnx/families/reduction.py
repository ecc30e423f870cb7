"""Reductions of ONNX, their axes an attribute or an operand."""

from __future__ import annotations

import math
from collections.abc import Callable

from tallow.dim import Dim, exact_quotient, floordiv
from tallow.dtype import f32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

_REDUCTIONS = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)


Fold = Callable[[Value, str], Value]


def _fold(context: Context, node: NodeView, keepdims: bool) -> Fold | None:
    """How to fold a value over the node's axes; None when the operator is asked to do nothing."""
    b, rank = context.builder, node.input(0).rank
    axes = node.attribute("axes")
    operand = node.input(1)
    if operand is not None:
        known = context.array(operand)
        count = operand.type.size
        if known is None and count != 0:
            if not isinstance(count, int):
                context.unsupported("axes whose number is not known while importing")
            names = tuple(context.fresh_name() for _ in range(rank if keepdims else rank - count))
            return lambda value, function: b.reduce_at(
                value, operand, function=function, keepdims=keepdims, defines=names
            )
        axes = [] if known is None else known.reshape(-1).tolist()
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            return None
        axes = range(rank)
    chosen = tuple(sorted({context.axis(a, rank) for a in axes}))
    return lambda value, function: b.reduce(value, function=function, axes=chosen, keepdims=keepdims)


@onnx_op(*_REDUCTIONS)
def reduce_(context: Context, node: NodeView) -> Value:
    x, b, kind = node.input(0), context.builder, node.op_type.removeprefix("Reduce")
    fold = _fold(context, node, bool(node.attribute("keepdims", 1)))
    wide = (
        x
        if x.dtype.is_float or kind in ("Sum", "Prod", "Max", "Min", "L1", "SumSquare")
        else b.cast(x, dtype=f32)
    )
    before = {"L1": b.abs, "SumSquare": _square(b), "L2": _square(b)}.get(kind)
    prepared = before(wide) if before else wide
    if fold is None:
        result = prepared
    elif kind == "LogSumExp":
        kept = _log_sum_exp(context, wide, _fold(context, node, True))
        return b.cast(fold(kept, "max"), dtype=x.dtype)
    else:
        logical = {"Max": "or", "Min": "and"} if x.dtype.kind == "bool" else {"Max": "max", "Min": "min"}
        result = fold(prepared, {"Prod": "mul", **logical}.get(kind, "add"))
    if kind == "Mean" and fold is not None:
        result = b.div(result, context.size(_count(x, result), wide.dtype))
    elif kind == "L2":
        result = b.sqrt(result)
    elif kind == "LogSum":
        result = b.log(result)
    return b.cast(result, dtype=x.dtype) if wide is not x else result


def _square(b):
    return lambda value: b.mul(value, value)


def _count(x: Value, result: Value) -> Dim:
    """How many elements each result element is made of."""
    exact = exact_quotient(x.type.size, result.type.size)
    return floordiv(x.type.size, result.type.size) if exact is None else exact


def _log_sum_exp(context: Context, x: Value, fold: Fold) -> Value:
    """Shifted by the maximum, so that it never overflows; the folded axes are kept with size 1."""
    b = context.builder
    top = fold(x, "max")
    finite = b.select(b.lt(b.abs(top), math.inf), top, 0)
    return b.add(b.log(fold(b.exp(b.sub(x, finite)), "add")), finite)


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
    options = {
        "function": "add" if node.op_type == "CumSum" else "mul",
        "exclusive": bool(node.attribute("exclusive", 0)),
        "reverse": bool(node.attribute("reverse", 0)),
    }
    axis = context.array(node.input(1))
    if axis is None:
        return context.builder.cumulative_at(x, node.input(1), **options)
    return context.builder.cumulative(x, axis=context.axis(int(axis.reshape(())), x.rank), **options)
