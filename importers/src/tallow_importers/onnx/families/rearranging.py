"""Operators of ONNX that move and select elements: blocks, nonzero places, reversal."""

from __future__ import annotations

from tallow.dim import floordiv
from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


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
