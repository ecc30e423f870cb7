"""Attention of one token, as decoders of the com.microsoft domain that generate text have it."""

from __future__ import annotations

from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.attention import split_heads
from tallow_importers.onnx.families.microsoft.attention import attend, key_bias, part, refuse
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op


@onnx_op("DecoderMaskedMultiHeadAttention", domain=MS)
def decoder_masked_multi_head_attention(context: Context, node: NodeView):
    """Of a token [batch, 1, width] to itself and those before it, or, with keys and values [batch, heads, tokens,
    size] and no cache, to what an encoder gave."""
    refuse(context, node, ("output_qk",), {8: "beam_width", 9: "cache_indirection"})
    q, k, v, mask, extra, past_k, past_v, past, _, _, bias = (node.input(i) for i in range(11))
    if k is None or v is None:
        context.unsupported("a query without keys and values")
    b, width = context.builder, q.shape[-1]
    places = (0, width, 2 * width)
    q, k, v = (
        _heads(context, node, x, None if bias is None else part(context, bias, 0, at, x.shape[-1]))
        for x, at in zip((q, k, v), places, strict=True)
    )
    if past_k is None:
        mask_bias = key_bias(context, node, mask, q.shape[0], 0, k.shape[2])
        return attend(context, node, q, k, v, [mask_bias, extra], 0), None, None
    if node.attribute("past_present_share_buffer", 0):
        if past is None:
            context.unsupported("past_present_share_buffer without past_sequence_length")
        (before,) = context.require_dims(past, "past_sequence_length")
        present = [_with_token(context, old, new, past) for old, new in ((past_k, k), (past_v, v))]
        k, v = (part(context, x, 2, 0, before + 1) for x in present)
    else:
        before = past_k.shape[2]
        k, v = present = [b.concat(old, new, axis=2) for old, new in ((past_k, k), (past_v, v))]
    mask_bias = key_bias(context, node, mask, q.shape[0], before, 1)
    return attend(context, node, q, k, v, [mask_bias, extra], before), *present


def _heads(context: Context, node: NodeView, x: Value, bias: Value | None) -> Value:
    """[batch, heads, tokens, size] of projections, whose bias is to be added; keys of an encoder as they are."""
    if x.rank == 4:
        return x
    x = x if bias is None else context.builder.add(x, bias)
    return split_heads(context, x, node.attribute("num_heads"))


def _with_token(context: Context, cache: Value, token: Value, place: Value) -> Value:
    """A cache [batch, heads, most, size] with a token's keys or values at a place."""
    b = context.builder
    at = b.iota(shape=(cache.shape[2], 1), axis=0, dtype=i64)
    return b.select(b.eq(at, b.cast(b.reshape(place, shape=()), dtype=i64)), token, cache)
