"""Random operators of ONNX."""

from __future__ import annotations

from tallow.dtype import bool_, f32, f64
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


@onnx_op("Dropout")
def dropout(context: Context, node: NodeView):
    """Elements kept where a uniform draw is no less than the ratio, and scaled up; all outside training."""
    x, ratio, training = (node.input(i) for i in range(3))
    b = context.builder
    everything = b.broadcast(b.scalar(True, bool_), shape=x.shape)
    known, share = context.array(training), context.array(ratio)
    if training is None or (known is not None and not known.any()) or (share is not None and not share.any()):
        return x, everything
    share = b.scalar(0.5, f32) if ratio is None else b.cast(b.reshape(ratio, shape=()), dtype=f32)
    draw = b.random_uniform(low=0.0, high=1.0, shape=x.shape, dtype=f64, seed=node.attribute("seed"))
    share = b.select(b.reshape(training, shape=()), share, b.scalar(0, f32))
    mask = b.ge(draw, b.cast(share, dtype=f64))
    scale = b.cast(b.reciprocal(b.add(b.neg(share), 1.0)), dtype=x.dtype)
    return b.select(mask, b.mul(x, scale), b.scalar(0, x.dtype)), mask
