"""Operators that ONNX once had on trial and took back; converters of Keras and CoreML models wrote them."""

from __future__ import annotations

import numpy as np

from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families import slicing
from tallow_importers.onnx.families.elementwise import stable_softplus
from tallow_importers.onnx.registry import onnx_op

onnx_op("DynamicSlice")(slicing.slice_)


@onnx_op("Affine")
def affine(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.add(b.mul(x, float(node.attribute("alpha", 1.0))), float(node.attribute("beta", 0.0)))


@onnx_op("Scale")
def scale(context: Context, node: NodeView) -> Value:
    return context.builder.mul(node.input(0), float(node.attribute("scale", 1.0)))


@onnx_op("ImageScaler")
def image_scaler(context: Context, node: NodeView) -> Value:
    b, x, bias = context.builder, node.input(0), node.attribute("bias") or []
    if x.rank != 4 or (isinstance(x.shape[1], int) and x.shape[1] != len(bias)):
        context.unsupported(f"{len(bias)} biases for {x.type}: it has one for each channel of [N, C, H, W]")
    shift = b.constant(np.array(bias, x.dtype.numpy).reshape(-1, 1, 1))
    return b.add(b.mul(x, float(node.attribute("scale", 1.0))), shift)


@onnx_op("ParametricSoftplus")
def parametric_softplus(context: Context, node: NodeView) -> Value:
    b, alpha, beta = context.builder, *_two_factors(context, node)
    return b.mul(stable_softplus(context, b.mul(node.input(0), beta)), alpha)


@onnx_op("ScaledTanh")
def scaled_tanh(context: Context, node: NodeView) -> Value:
    b, alpha, beta = context.builder, *_two_factors(context, node)
    return b.mul(b.tanh(b.mul(node.input(0), beta)), alpha)


def _two_factors(context: Context, node: NodeView) -> tuple[float, float]:
    """alpha and beta, neither of which has a default."""
    missing = [name for name in ("alpha", "beta") if name not in node.attributes]
    if missing:
        context.unsupported(f"no attribute {' or '.join(missing)}: {node.op_type} needs both")
    return float(node.attribute("alpha")), float(node.attribute("beta"))


@onnx_op("Crop")
def crop(context: Context, node: NodeView) -> Value:
    """A picture without its border, or `scale` = (height, width) of it from the top left border on."""
    x, border, size = node.input(0), node.attribute("border") or [], node.attribute("scale")
    if x.rank != 4 or len(border) != 4 or (size and len(size) != 2):
        context.unsupported(
            f"border {border} and scale {size} for {x.type}: 4 and 2 numbers for [N, C, H, W]"
        )
    left, top, right, bottom = border
    height, width = size or (x.shape[2] - top - bottom, x.shape[3] - left - right)
    shape = (*x.shape[:2], height, width)
    return context.builder.slice(x, starts=(0, 0, top, left), steps=(1,) * 4, shape=shape)
