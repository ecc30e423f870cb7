"""Normalisations of the com.microsoft domain: of groups of channels, of branches, and with gates."""

from __future__ import annotations

from tallow.dim import floordiv, product
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.microsoft.fused import MS, channels_first, channels_last
from tallow_importers.onnx.families.microsoft.gates import widened
from tallow_importers.onnx.families.normalization import mean, standardise
from tallow_importers.onnx.registry import onnx_op


@onnx_op("GroupNorm", domain=MS)
def group_norm(context: Context, node: NodeView) -> Value:
    x, scale, shift = node.inputs
    return context.builder.cast(_grouped(context, node, widened(context, x), scale, shift), dtype=x.dtype)


@onnx_op("SkipGroupNorm", domain=MS)
def skip_group_norm(context: Context, node: NodeView):
    """The skip connection has the input's shape, or one row of channels for each picture."""
    b, (x, scale, shift, skip), bias = context.builder, node.inputs[:4], node.input(4)
    last, spatial = node.attribute("channels_last", 1), x.rank - 2
    skip, total = widened(context, skip), widened(context, x)
    if skip.rank == 2:
        ones = (1,) * spatial
        skip = b.reshape(skip, shape=(skip.shape[0], *ones, skip.shape[1]) if last else (*skip.shape, *ones))
    elif skip.rank != x.rank:
        context.unsupported(f"a skip connection {skip.type} to {x.type}")
    total = b.add(total, skip)
    if bias is not None:
        bias = widened(context, bias)
        total = b.add(total, bias if last else b.reshape(bias, shape=(bias.shape[0], *(1,) * spatial)))
    y = _grouped(context, node, total, scale, shift)
    return b.cast(y, dtype=x.dtype), b.cast(total, dtype=x.dtype)


def _grouped(context: Context, node: NodeView, x: Value, scale: Value, shift: Value) -> Value:
    """Groups of channels normalised and activated, in the dtype of x."""
    b, groups, last = context.builder, node.attribute("groups"), node.attribute("channels_last", 1)
    activation = node.attribute("activation", 0)
    if activation not in (0, 1):
        context.unsupported(f"activation {activation}: 0 (none) or 1 (SiLU)")
    first = channels_first(context, x) if last else x
    channels, ones = first.shape[1], (1,) * (x.rank - 2)
    if isinstance(channels, int) and channels % groups:
        context.unsupported(f"{groups} groups of {channels} channels")
    shape = (x.shape[0], groups, floordiv(channels, groups) * product(first.shape[2:]))
    y = standardise(context, b.reshape(first, shape=shape), (2,), node.attribute("epsilon", 1e-5))
    scale, shift = (b.cast(b.reshape(v, shape=(channels, *ones)), dtype=x.dtype) for v in (scale, shift))
    y = b.add(b.mul(b.reshape(y, shape=first.shape), scale), shift)
    y = b.mul(y, b.sigmoid(y)) if activation else y
    return channels_last(context, y) if last else y


def inverse_rms(context: Context, x: Value, epsilon: float) -> Value:
    """1 / sqrt(mean of squares + epsilon) along the last axis, which is kept."""
    b = context.builder
    return b.rsqrt(b.add(mean(context, b.mul(x, x), (x.rank - 1,)), epsilon))


@onnx_op("GatedRMSNorm", domain=MS)
def gated_rms_norm(context: Context, node: NodeView) -> Value:
    """Each piece of the last axis that is as long as the scale is normalised by itself."""
    b, (x, scale, gate) = context.builder, node.inputs
    activation, size = node.attribute("activation", "silu"), scale.shape[0]
    if activation not in ("silu", "swish", "sigmoid"):
        context.unsupported(f"activation {activation!r}: silu, swish or sigmoid")
    wide, gate = widened(context, x), widened(context, gate)
    pieces = b.reshape(wide, shape=(*x.shape[:-1], floordiv(x.shape[-1], size), size))
    y = b.mul(pieces, inverse_rms(context, pieces, node.attribute("epsilon", 1e-5)))
    y = b.reshape(b.mul(y, widened(context, scale)), shape=x.shape)
    opened = b.sigmoid(gate) if activation == "sigmoid" else b.mul(gate, b.sigmoid(gate))
    return b.cast(b.mul(y, opened), dtype=x.dtype)


# Streams of hyper-connections ----------------------------------------------------------------------


def _branches(context: Context, node: NodeView, x: Value) -> Value:
    """[..., branches, features], in 32 bits."""
    b, count = context.builder, node.attribute("num_branches", 0)
    wide = widened(context, x)
    return b.reshape(wide, shape=(*x.shape[:-1], count, floordiv(x.shape[-1], count))) if count else wide


def _laid(context: Context, gate: Value, streams: Value) -> Value:
    """A gate of each branch, [..., C] or [..., C, 1], or of each feature, [..., C, H] or [..., C * H]."""
    b, gate = context.builder, widened(context, gate)
    if gate.rank == streams.rank:
        return gate
    size = 1 if gate.shape[-1] == streams.shape[-2] else streams.shape[-1]
    return b.reshape(gate, shape=(*gate.shape[:-1], streams.shape[-2], size))


@onnx_op("BranchwiseRMSNorm", domain=MS)
def branchwise_rms_norm(context: Context, node: NodeView) -> Value:
    b, x, scale = context.builder, node.input(0), node.input(1)
    streams = _branches(context, node, x)
    y = b.mul(streams, inverse_rms(context, streams, node.attribute("epsilon", 1e-5)))
    if scale is not None:
        scale = widened(context, scale)
        if scale.rank == 1 and scale.shape[0] == product(streams.shape[-2:]):
            scale = b.reshape(scale, shape=streams.shape[-2:])
        y = b.mul(y, scale)
    return b.cast(b.reshape(y, shape=x.shape), dtype=x.dtype)


@onnx_op("HyperConnectionPreMix", domain=MS)
def hyper_connection_pre_mix(context: Context, node: NodeView) -> Value:
    b, (x, gate) = context.builder, node.inputs
    streams = _branches(context, node, x)
    weighted = b.mul(streams, _laid(context, gate, streams))
    y = b.reduce(weighted, function="add", axes=(streams.rank - 2,), keepdims=False)
    return b.cast(b.mul(y, float(node.attribute("reduction_scale", 1.0))), dtype=x.dtype)


@onnx_op("HyperConnectionPostMix", domain=MS)
def hyper_connection_post_mix(context: Context, node: NodeView) -> Value:
    b, (x, block, gate), mix = context.builder, node.inputs[:3], node.input(3)
    streams = _branches(context, node, x)
    kept = streams
    if mix is not None:
        order = (*range(mix.rank - 2), mix.rank - 1, mix.rank - 2)
        kept = b.matmul(b.transpose(widened(context, mix), permutation=order), streams)
    block = b.reshape(widened(context, block), shape=(*block.shape[:-1], 1, block.shape[-1]))
    y = b.add(kept, b.mul(block, _laid(context, gate, streams)))
    return b.cast(b.reshape(y, shape=x.shape), dtype=x.dtype)


@onnx_op("EngramGate", domain=MS)
def engram_gate(context: Context, node: NodeView):
    """The value of a token, let through to each hyper-connection as far as its key agrees with the query."""
    b, (key, query, value, key_scale, query_scale), scale = context.builder, node.inputs[:5], node.input(5)
    if node.wants(1) and scale is None:
        context.unsupported("the result gated_value_normed without the operand conv_norm_scale")
    epsilon = node.attribute("epsilon", 1e-5)

    def normal(x: Value, factor: Value) -> Value:
        return b.mul(b.mul(x, inverse_rms(context, x, epsilon)), widened(context, factor))

    product_ = b.mul(*(normal(widened(context, x), s) for x, s in ((key, key_scale), (query, query_scale))))
    dot = b.reduce(product_, function="add", axes=(3,), keepdims=True)
    dot = b.mul(dot, b.rsqrt(context.size(key.shape[3], dot.dtype)))
    gate = b.sigmoid(b.mul(b.sign(dot), b.sqrt(b.max(b.abs(dot), 1e-6))))
    value = b.reshape(widened(context, value), shape=(*value.shape[:2], 1, value.shape[2]))
    y = b.mul(gate, value)
    normed = None if scale is None else b.cast(normal(y, scale), dtype=key.dtype)
    return b.cast(y, dtype=key.dtype), normed
