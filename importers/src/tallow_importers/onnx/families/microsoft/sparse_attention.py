"""Attention to blocks of keys that a table lists, of the com.microsoft domain."""

from __future__ import annotations

import math

from tallow.dim import Dim, floordiv
from tallow.dtype import bool_, i64
from tallow.graph import Value
from tallow_importers.onnx.axes import held
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.attention import join_heads, split_heads
from tallow_importers.onnx.families.microsoft.attention import cached, part, parts, rotate
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op


@onnx_op("SparseAttention", domain=MS)
def sparse_attention(context: Context, node: NodeView):
    """The cache keeps its size; `lengths` counts each row's keys with the new ones."""
    q, k, v, past_k, past_v, row_starts, columns, total, lengths, cosine, sine = (
        node.input(i) for i in range(11)
    )
    b, heads, groups = context.builder, node.attribute("num_heads"), node.attribute("kv_num_heads")
    if k is None:
        size = floordiv(q.shape[2], heads + 2 * groups)
        q, k, v = parts(context, q, 2, [heads * size, groups * size, groups * size])
    q, k, v = split_heads(context, q, heads), split_heads(context, k, groups), split_heads(context, v, groups)
    batch, steps = q.shape[0], q.shape[2]
    (keys,) = context.require_dims(b.reshape(total, shape=(1,)), "a length")
    ends = b.reshape(b.cast(lengths, dtype=i64), shape=(batch, 1))
    first = b.eq(context.size(keys), context.size(steps))  # a prompt, perhaps padded on the right
    before = b.select(first, 0, b.sub(ends, context.size(steps)))
    here = b.add(b.iota(shape=(1, steps), axis=1, dtype=i64), before)
    if node.attribute("do_rotary", 0):
        if cosine is None or sine is None:
            context.unsupported("do_rotary without the operands cos_cache and sin_cache")
        turned = bool(node.attribute("rotary_interleaved", 0))
        q, k = (rotate(context, node, x, here, cosine, sine, turned) for x in (q, k))
    k, v = (cached(context, old, new, before, old.shape[2]) for old, new in ((past_k, k), (past_v, v)))
    keep = _listed(context, node, row_starts, columns, here, keys)
    causal = b.le(
        b.iota(shape=(1, 1, 1, keys), axis=3, dtype=i64), b.reshape(here, shape=(batch, 1, steps, 1))
    )
    bias = b.select(b.and_(keep, causal), b.scalar(0, q.dtype), -math.inf)
    y = b.attention(
        q,
        part(context, k, 2, 0, keys),
        part(context, v, 2, 0, keys),
        bias,
        scale=float(node.attribute("scale", 0.0) or 1 / math.sqrt(q.shape[3])),
        causal=False,
        causal_offset=0,
    )
    return join_heads(context, y), k, v


def _listed(context: Context, node: NodeView, starts: Value, columns: Value, here: Value, keys: Dim) -> Value:
    """Whether the block of a key is listed for the block of a query, [batch, heads, steps, keys]; heads take
    turns with the layouts, whose rows of blocks begin at `starts` [layouts, blocks + 1] of `columns`."""
    b, block, heads = context.builder, node.attribute("sparse_block_size"), node.attribute("num_heads")
    layouts, blocks = starts.shape[0], starts.shape[1] - 1
    count = columns.shape[1]
    entry = b.iota(shape=(1, count, 1), axis=1, dtype=columns.dtype)
    row_ends = b.reshape(part(context, starts, 1, 1, blocks), shape=(layouts, 1, blocks))
    passed = b.cast(b.le(row_ends, entry), dtype=i64)
    row = b.reduce(passed, function="add", axes=(2,), keepdims=False)
    column = b.cast(columns, dtype=i64)
    layout = b.iota(shape=(layouts, 1), axis=0, dtype=i64)
    size = context.size(blocks)
    at = b.add(b.mul(b.add(b.mul(layout, size), row), size), column)
    beyond = context.size(layouts * blocks * blocks)  # where entries go that only fill a shorter list
    at = b.select(b.and_(b.ge(column, 0), b.lt(row, size)), at, beyond)
    cells = b.broadcast(b.scalar(False, bool_), shape=(layouts * blocks * blocks + 1,))
    listed = b.broadcast(b.scalar(True, bool_), shape=(layouts * count,))
    flat = b.reshape(at, shape=(layouts * count,))
    table = b.scatter_elements(cells, flat, listed, axis=0, reduction="none")
    head = b.iota(shape=(1, heads, 1, 1), axis=1, dtype=i64)
    query = b.div(b.reshape(here, shape=(here.shape[0], 1, here.shape[1], 1)), block)
    key = b.div(b.iota(shape=(1, 1, 1, keys), axis=3, dtype=i64), block)
    cell = b.add(b.mul(b.add(b.mul(b.mod(head, context.size(layouts)), size), query), size), key)
    return b.gather(table, held(context, cell, table.shape[0]), axis=0)
