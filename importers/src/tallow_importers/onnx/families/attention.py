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
    q, k, v, mask, past_k, past_v, filled = (node.input(i) for i in range(7))
    b = context.builder
    if node.wants(3):
        context.unsupported("its score output")
    flat = q.rank == 3
    if flat:
        q = split_heads(context, q, node.attribute("q_num_heads"))
        k, v = (split_heads(context, x, node.attribute("kv_num_heads")) for x in (k, v))
    if past_k is not None:
        k, v = b.concat(past_k, k, axis=2), b.concat(past_v, v, axis=2)
    offset = past_k.shape[2] if past_k is not None else 0
    causal = bool(node.attribute("is_causal", 0))
    bias = _bias(context, node, q, k, mask, filled, offset)
    y = b.attention(
        *((q, k, v) if bias is None else (q, k, v, bias)),
        scale=float(node.attribute("scale") or 1 / math.sqrt(q.shape[3])),
        causal=causal and filled is None,
        softcap=float(node.attribute("softcap", 0.0)),
        causal_offset=offset,
    )
    if bias is not None:
        y = _without_blind_rows(context, y, bias, offset if causal and filled is None else None)
    return join_heads(context, y) if flat else y, k, v


def _bias(
    context: Context, node: NodeView, q: Value, k: Value, mask: Value | None, filled: Value | None, offset
) -> Value | None:
    """What is added to scores: the mask padded to all keys, -inf for keys outside the window, beyond what is
    filled, or, when fills differ by batch, later than the query."""
    b, total = context.builder, k.shape[2]
    allowed = _windows(context, node, q, k, filled, offset)
    if mask is not None:
        bias = bias_of_mask(context, _padded(context, mask, total), q)
    elif allowed:
        bias = b.scalar(0, q.dtype)
    else:
        return None
    for each in allowed:
        bias = b.select(each, bias, b.scalar(-math.inf, q.dtype))
    return bias


def _padded(context: Context, mask: Value, total) -> Value:
    """A mask over fewer keys than there are keeps none of the rest."""
    b = context.builder
    if not isinstance(mask.shape[-1], int) or not isinstance(total, int) or mask.shape[-1] >= total:
        return mask
    fill = b.scalar(False if mask.dtype.kind == "bool" else -math.inf, mask.dtype)
    after = (*(0,) * (mask.rank - 1), total - mask.shape[-1])
    return b.pad(mask, fill, before=(0,) * mask.rank, after=after, mode="constant")


def _windows(
    context: Context, node: NodeView, q: Value, k: Value, filled: Value | None, offset
) -> list[Value]:
    """Bool tensors that broadcast to the scores: which keys a query may look at."""
    b, rows, total = context.builder, q.shape[2], k.shape[2]
    row, column = b.iota(shape=(rows, 1), axis=0, dtype=i64), b.iota(shape=(1, total), axis=1, dtype=i64)
    allowed = []
    if filled is None:
        place = b.add(row, context.size(offset))
    else:
        count = b.reshape(b.cast(filled, dtype=i64), shape=(filled.type.size, 1, 1, 1))
        allowed.append(b.lt(column, count))
        place = b.add(row, b.sub(count, context.size(rows)))
    left, right = node.attribute("left_window_size", -1), node.attribute("right_window_size", -1)
    if node.attribute("is_causal", 0) and filled is not None:
        right = 0
    if left >= 0:
        allowed.append(b.ge(column, b.sub(place, left)))
    if right >= 0:
        allowed.append(b.le(column, b.add(place, right)))
    return allowed


def _without_blind_rows(context: Context, y: Value, bias: Value, offset) -> Value:
    """Zeros for queries that may look at no key; `offset` is that of the causal bound, if there is one."""
    b, rows = context.builder, y.shape[2]
    if offset is not None:
        row = b.add(b.iota(shape=(rows, 1), axis=0, dtype=i64), context.size(offset))
        column = b.iota(shape=(1, bias.shape[-1] if bias.rank else 1), axis=1, dtype=i64)
        bias = b.select(b.le(column, row), bias, b.scalar(-math.inf, y.dtype))
    best = b.reduce(bias, function="max", axes=(bias.rank - 1,), keepdims=True)
    return b.select(b.eq(best, -math.inf), b.scalar(0, y.dtype), y)


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
