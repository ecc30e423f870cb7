"""Gather and scatter operators of ONNX."""

from __future__ import annotations

from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx import repairs
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


@onnx_op("Gather")
def gather(context: Context, node: NodeView) -> Value:
    return context.builder.gather(
        *node.inputs, axis=context.axis(node.attribute("axis", 0), node.input(0).rank)
    )


@onnx_op("GatherElements")
def gather_elements(context: Context, node: NodeView) -> Value:
    axis = context.axis(node.attribute("axis", 0), node.input(0).rank)
    return context.builder.gather_elements(*node.inputs, axis=axis)


@onnx_op("GatherND")
def gather_nd(context: Context, node: NodeView) -> Value:
    return context.builder.gather_nd(*node.inputs, batch_dims=node.attribute("batch_dims", 0))


@onnx_op("ScatterElements", "Scatter")
def scatter_elements(context: Context, node: NodeView) -> Value:
    axis = context.axis(node.attribute("axis", 0), node.input(0).rank)
    return context.builder.scatter_elements(
        *node.inputs, axis=axis, reduction=node.attribute("reduction", "none")
    )


@onnx_op("ScatterND")
def scatter_nd(context: Context, node: NodeView) -> Value:
    data, indices, updates = node.inputs
    depth = indices.shape[-1] if indices.rank else None
    if isinstance(depth, int) and updates.rank != indices.rank - 1 + data.rank - depth:
        shape = (*indices.shape[:-1], *data.shape[depth:])
        repairs.warn(
            f"{context.builder.location}: updates are {updates.type}: read as of shape {list(shape)}"
        )
        updates = context.builder.reshape(updates, shape=shape)
    return context.builder.scatter_nd(data, indices, updates, reduction=node.attribute("reduction", "none"))


@onnx_op("TensorScatter")
def tensor_scatter(context: Context, node: NodeView) -> Value:
    """A cache with an update written from a position on, one for each batch."""
    cache, update, start = (node.input(i) for i in range(3))
    b, axis = context.builder, context.axis(node.attribute("axis", -2), cache.rank)

    def lay(value: Value, where: int) -> Value:
        return b.reshape(value, shape=tuple(value.type.size if a == where else 1 for a in range(cache.rank)))

    at = lay(b.iota(shape=(cache.shape[axis],), axis=0, dtype=i64), axis)
    if start is not None:
        at = b.sub(at, lay(b.cast(start, dtype=i64), 0))
    if node.attribute("mode", "linear") == "circular":
        at = b.mod(at, context.size(cache.shape[axis]))
    length = context.size(update.shape[axis])
    fresh = b.and_(b.ge(at, 0), b.lt(at, length))
    place = b.max(b.min(at, b.sub(length, 1)), 0)
    picked = b.gather_elements(update, b.broadcast(place, shape=cache.shape), axis=axis)
    return b.select(fresh, picked, cache)
