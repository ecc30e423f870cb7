"""Attention and rotary embedding of ONNX (opset 23 and later)."""

from __future__ import annotations

import math

from tallow.dim import floordiv
from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


def split_heads(context: Context, x: Value, heads: int) -> Value:
    """[B, S, heads * D] as [B, heads, S, D]."""
    b = context.builder
    batch, steps, width = x.shape
    return b.transpose(
        b.reshape(x, shape=(batch, steps, heads, floordiv(width, heads))), permutation=(0, 2, 1, 3)
    )


def join_heads(context: Context, x: Value) -> Value:
    """[B, heads, S, D] as [B, S, heads * D]."""
    b = context.builder
    batch, heads, steps, width = x.shape
    return b.reshape(b.transpose(x, permutation=(0, 2, 1, 3)), shape=(batch, steps, heads * width))


def bias_of_mask(context: Context, mask: Value, like: Value) -> Value:
    """A mask as something to add to scores: bool true keeps, floats are added as they are."""
    b = context.builder
    if mask.dtype.kind == "bool":
        return b.select(mask, b.scalar(0, like.dtype), b.scalar(-math.inf, like.dtype))
    return b.cast(mask, dtype=like.dtype)


@onnx_op("Attention")
def attention(context: Context, node: NodeView):
    q, k, v, mask, past_k, past_v = (node.input(i) for i in range(6))
    b = context.builder
    flat = q.rank == 3
    if flat:
        q = split_heads(context, q, node.attribute("q_num_heads"))
        k, v = (split_heads(context, x, node.attribute("kv_num_heads")) for x in (k, v))
    if past_k is not None:
        k, v = b.concat(past_k, k, axis=2), b.concat(past_v, v, axis=2)
    if node.wants(3) or node.input(6) is not None:
        context.unsupported("its score output or padded key lengths")
    scale = node.attribute("scale") or 1 / math.sqrt(q.shape[3])
    operands = [q, k, v]
    if mask is not None:
        total = k.shape[2]
        if isinstance(mask.shape[-1], int) and isinstance(total, int) and mask.shape[-1] < total:
            fill = b.scalar(False if mask.dtype.kind == "bool" else -math.inf, mask.dtype)
            after = (*(0,) * (mask.rank - 1), total - mask.shape[-1])
            mask = b.pad(mask, fill, before=(0,) * mask.rank, after=after, mode="constant")
        operands.append(bias_of_mask(context, mask, q))
    offset = past_k.shape[2] if past_k is not None else 0
    y = b.attention(
        *operands,
        scale=float(scale),
        causal=bool(node.attribute("is_causal", 0)),
        softcap=float(node.attribute("softcap", 0.0)),
        causal_offset=offset,
    )
    return join_heads(context, y) if flat else y, k, v


@onnx_op("RotaryEmbedding")
def rotary_embedding(context: Context, node: NodeView) -> Value:
    x, cosine, sine, positions = (node.input(i) for i in range(4))
    b = context.builder
    flat = x.rank == 3
    if flat:
        x = split_heads(context, x, node.attribute("num_heads"))
    dims = node.attribute("rotary_embedding_dim", 0) or x.shape[3]
    if positions is not None:
        cosine, sine = (b.gather(t, b.cast(positions, dtype=i64), axis=0) for t in (cosine, sine))
    half = dims // 2
    tables = []
    for table in (cosine, sine):
        cut = b.slice(
            table, starts=(0,) * table.rank, steps=(1,) * table.rank, shape=(*table.shape[:-1], half)
        )
        tables.append(b.reshape(cut, shape=(table.shape[0], 1, table.shape[1], half)))
    y = b.rotary(x, *tables, interleaved=bool(node.attribute("interleaved", 0)), dims=dims)
    return join_heads(context, y) if flat else y
