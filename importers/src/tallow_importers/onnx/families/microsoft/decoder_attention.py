"""DecoderAttention of the com.microsoft domain, as translators of fairseq's kind have it."""

from __future__ import annotations

from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.attention import split_heads
from tallow_importers.onnx.families.microsoft.attention import attend, parts
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op


@onnx_op("DecoderAttention", domain=MS)
def decoder_attention(context: Context, node: NodeView):
    """Of queries [steps, batch, width] to themselves or to keys of their own, with what was cached of either."""
    query, key, q_weight, kv_weight, bias, mask, cached_k, cached_v = (node.input(i) for i in range(8))
    names = ("static_kv", "use_past", "has_layer_state", "has_key_padding_mask")
    static, use_past, has_state, has_mask = (
        bool(context.constant(node.input(8 + i), f"the flag {name}").reshape(()))
        for i, name in enumerate(names)
    )
    b, width = context.builder, query.shape[2]
    of_query, of_rest = parts(context, bias, 0, [width, 2 * width])

    def heads(x: Value) -> Value:
        return split_heads(context, b.transpose(x, permutation=(1, 0, 2)), node.attribute("num_heads"))

    q = heads(b.add(b.matmul(query, q_weight), of_query))
    past = has_state and use_past
    if past and (cached_k is None or cached_v is None):
        context.unsupported("use_past without key_cache and value_cache")
    if past and static:
        k, v = cached_k, cached_v
    else:
        both = b.add(b.matmul(key if static else query, kv_weight), of_rest)
        k, v = (heads(x) for x in parts(context, both, 2, [width, width]))
        if past:
            k, v = b.concat(cached_k, k, axis=2), b.concat(cached_v, v, axis=2)
    hidden = None
    if has_mask and mask is not None:
        padding = b.reshape(mask, shape=(mask.shape[0], 1, 1, mask.shape[1]))
        hidden = b.select(padding, float(node.attribute("mask_filter_value", -10000.0)), b.scalar(0, q.dtype))
    y = attend(context, node, q, k, v, [hidden], 0)
    return b.transpose(y, permutation=(1, 0, 2)), k, v
