"""LongformerAttention of the com.microsoft domain (Beltagy et al., 2020)."""

from __future__ import annotations

import math

from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.attention import split_heads
from tallow_importers.onnx.families.matmul import matmul_any_rank
from tallow_importers.onnx.families.microsoft.attention import attend, parts
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op


@onnx_op("LongformerAttention", domain=MS)
def longformer_attention(context: Context, node: NodeView) -> Value:
    """Tokens look at `window` neighbours on either side and at the global ones; these, projected by weights
    of their own, at all. All scores are worked out, and those beyond the window hidden."""
    x, weight, bias, mask, global_weight, global_bias, flags = node.inputs
    b, (batch, steps, _), window = context.builder, x.shape, node.attribute("window")
    width = weight.shape[0]
    if window < 1:
        context.unsupported(f"a window of {window}")

    def projected(w: Value, shift: Value) -> list[Value]:
        whole = b.add(matmul_any_rank(context, x, w), shift)
        return [
            split_heads(context, v, node.attribute("num_heads"))
            for v in parts(context, whole, 2, [width] * 3)
        ]

    row, column = b.iota(shape=(steps, 1), axis=0, dtype=i64), b.iota(shape=(1, steps), axis=1, dtype=i64)
    near = b.le(b.abs(b.sub(row, column)), window)
    is_global = b.gt(flags, 0)
    keep = b.or_(near, b.reshape(is_global, shape=(batch, 1, 1, steps)))
    hidden = b.select(keep, b.scalar(0, x.dtype), -math.inf)
    masked = b.reshape(mask, shape=(batch, 1, 1, steps))
    local = attend(context, node, *projected(weight, bias), [hidden, masked], 0)
    everywhere = attend(context, node, *projected(global_weight, global_bias), [masked], 0)
    return b.select(b.reshape(is_global, shape=(batch, steps, 1)), everywhere, local)
