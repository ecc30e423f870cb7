"""Random operators of ONNX."""

from __future__ import annotations

from tallow.dtype import f32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


@onnx_op("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
def random_tensor(context: Context, node: NodeView) -> Value:
    like = node.input(0)
    shape = tuple(node.attribute("shape")) if like is None else like.shape
    dtype = like.dtype if like is not None else f32
    if node.attribute("dtype"):
        dtype = context.dtype(node.attribute("dtype"))
    options = {"shape": shape, "dtype": dtype, "seed": node.attribute("seed")}
    if "Normal" in node.op_type:
        mean, scale = float(node.attribute("mean", 0.0)), float(node.attribute("scale", 1.0))
        return context.builder.random_normal(mean=mean, scale=scale, **options)
    low, high = float(node.attribute("low", 0.0)), float(node.attribute("high", 1.0))
    return context.builder.random_uniform(low=low, high=high, **options)


@onnx_op("Bernoulli")
def bernoulli(context: Context, node: NodeView) -> Value:
    x = node.input(0)
    dtype = context.dtype(node.attribute("dtype")) if node.attribute("dtype") else x.dtype
    return context.builder.bernoulli(x, dtype=dtype, seed=node.attribute("seed"))


@onnx_op("Multinomial")
def multinomial(context: Context, node: NodeView) -> Value:
    dtype = context.dtype(node.attribute("dtype", 6))
    return context.builder.multinomial(
        node.input(0), dtype=dtype, samples=node.attribute("sample_size", 1), seed=node.attribute("seed")
    )
