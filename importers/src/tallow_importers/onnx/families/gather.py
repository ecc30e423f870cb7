"""Gather and scatter operators of ONNX."""

from __future__ import annotations

from tallow.graph import Value
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
    return context.builder.scatter_nd(*node.inputs, reduction=node.attribute("reduction", "none"))
