"""Attention and embeddings of the com.microsoft domain, as transformer exporters and optimisers write them."""

from __future__ import annotations

import math

from tallow.dim import Dim, maximum
from tallow.dtype import f32, i32, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.attention import join_heads, split_heads
from tallow_importers.onnx.families.matmul import matmul_any_rank
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op


def part(context: Context, x: Value, axis: int, start: Dim, size: Dim) -> Value:
    """`size` elements of an axis from `start` on."""
    starts = tuple(start if a == axis else 0 for a in range(x.rank))
    shape = tuple(size if a == axis else d for a, d in enumerate(x.shape))
    return context.builder.slice(x, starts=starts, steps=(1,) * x.rank, shape=shape)


def parts(context: Context, x: Value, axis: int, sizes) -> list[Value]:
    """An axis cut into pieces of these sizes."""
    found, start = [], 0
    for size in sizes:
        found.append(part(context, x, axis, start, size))
        start = start + size
    return found


def key_bias(
    context: Context, node: NodeView, mask: Value | None, batch: Dim, past: Dim, steps: Dim
) -> Value | None:
    """What a mask adds to scores, [batch or 1, 1, steps or 1, keys]: the filter value where a key is hidden.

    A vector holds where each row's keys end, or end and start; a matrix, or a matrix for each query, holds
    which keys count; with four axes it is a table larger than needed, read from `past` on.
    """
    if mask is None:
        return None
    b, total = context.builder, past + steps
    if mask.rank == 1:
        if mask.shape[0] not in (batch, 2 * batch):
            context.unsupported(f"a mask of shape [{mask.shape[0]}] for a batch of {batch}")
        at = b.iota(shape=(1, total), axis=1, dtype=mask.dtype)
        ends = b.reshape(part(context, mask, 0, 0, batch), shape=(batch, 1))
        keep = b.lt(at, ends)
        if mask.shape[0] != batch:
            keep = b.and_(keep, b.ge(at, b.reshape(part(context, mask, 0, batch, batch), shape=(batch, 1))))
    else:
        if mask.rank == 4:
            mask = part(context, part(context, mask, 2, past, steps), 3, 0, total)
        elif mask.shape[-1] == 1 and total != 1:
            return None  # a placeholder that hides nothing
        keep = b.gt(mask, 0)
    middle = {2: (1, 1), 3: (1,), 4: ()}[keep.rank]
    shape = (keep.shape[0], *middle, *keep.shape[1:])
    hidden = b.scalar(node.attribute("mask_filter_value", -10000.0), f32)
    return b.select(b.reshape(keep, shape=shape), b.scalar(0, f32), hidden)


def attend(context: Context, node: NodeView, q: Value, k: Value, v: Value, biases, past: Dim) -> Value:
    """Attention of [batch, heads, steps, size], joined to [batch, steps, heads * size]."""
    b = context.builder
    given = [b.cast(bias, dtype=q.dtype) for bias in biases if bias is not None]
    bias = given[:1] if len(given) < 2 else [b.add(*given)]
    y = b.attention(
        q,
        k,
        v,
        *bias,
        scale=float(node.attribute("scale", 0.0) or 1 / math.sqrt(q.shape[3])),
        causal=bool(node.attribute("unidirectional", 0)),
        causal_offset=past,
    )
    return join_heads(context, y)


def refuse(context: Context, node: NodeView, attributes=(), operands=None) -> None:
    """Unsupported if the node uses one of these attributes or operands (number -> name)."""
    used = [a for a in attributes if node.attribute(a, 0)]
    used += [name for number, name in (operands or {}).items() if node.input(number) is not None]
    if used:
        context.unsupported(f"{' and '.join(used)} of {node.op_type}")


def self_attention(context: Context, node: NodeView, projected: Value, sizes, mask, past, bias):
    """Heads of queries, keys and values that lie side by side in [batch, steps, width], with a cache."""
    b, heads = context.builder, node.attribute("num_heads")
    q, k, v = (split_heads(context, x, heads) for x in parts(context, projected, 2, sizes))
    (batch, steps), before = projected.shape[:2], 0
    if past is not None:
        before = past.shape[3]
        shape = past.shape[1:]
        old_k, old_v = (b.reshape(part(context, past, 0, i, 1), shape=shape) for i in (0, 1))
        k, v = b.concat(old_k, k, axis=2), b.concat(old_v, v, axis=2)
    biases = [key_bias(context, node, mask, batch, before, steps), bias]
    y = attend(context, node, q, k, v, biases, before)
    if not node.wants(1):
        return (y,)
    both = [b.reshape(x, shape=(1, *x.shape)) for x in (k, v)]
    return y, b.concat(*both, axis=0)


@onnx_op("Attention", domain=MS)
def attention(context: Context, node: NodeView):
    refuse(context, node, ("do_rotary", "past_present_share_buffer"), {6: "past_sequence_length"})
    x, w, bias, mask, past, extra = (node.input(i) for i in range(6))
    projected = matmul_any_rank(context, x, w)
    projected = projected if bias is None else context.builder.add(projected, bias)
    sizes = node.attribute("qkv_hidden_sizes") or [projected.shape[2] // 3] * 3
    return self_attention(context, node, projected, sizes, mask, past, extra)


@onnx_op("MultiHeadAttention", domain=MS)
def multi_head_attention(context: Context, node: NodeView):
    refuse(context, node, (), {8: "past_sequence_length", 9: "cache_indirection"})
    if node.wants(3):
        context.unsupported("the score output of MultiHeadAttention")
    q, k, v, bias, mask, extra, past_k, past_v = (node.input(i) for i in range(8))
    b, heads = context.builder, node.attribute("num_heads")
    q, k, v = _unpacked(context, q, k, v)
    if bias is not None:
        sizes = [x.shape[-1] for x in (q, k, v)]
        q, k, v = (
            b.add(x, piece) for x, piece in zip((q, k, v), parts(context, bias, 0, sizes), strict=True)
        )
    q, k, v = (x if x.rank == 4 else split_heads(context, x, heads) for x in (q, k, v))
    before = 0
    if past_k is not None:
        before = past_k.shape[2]
        k, v = b.concat(past_k, k, axis=2), b.concat(past_v, v, axis=2)
    keys = k.shape[2] - before
    mask_bias = key_bias(context, node, mask, q.shape[0], before, keys)
    return attend(context, node, q, k, v, [mask_bias, extra], before), k, v


def _unpacked(context: Context, q: Value, k: Value | None, v: Value | None) -> list[Value]:
    """Queries, keys and values that came in one tensor, [batch, steps, heads, 3 or 2, size]."""
    b = context.builder

    def piece(x: Value, number: int) -> Value:
        batch, steps, heads, _, size = x.shape
        return b.reshape(part(context, x, 3, number, 1), shape=(batch, steps, heads * size))

    if k is None:
        return [piece(q, i) for i in range(3)] if q.rank == 5 else context.unsupported("queries without keys")
    return [q, piece(k, 0), piece(k, 1)] if v is None else [q, k, v]


@onnx_op("RotaryEmbedding", domain=MS)
def rotary_embedding(context: Context, node: NodeView) -> Value:
    refuse(context, node, ("is_packed_batching",))
    x, positions, cosine, sine = node.inputs
    if node.attribute("scale", 1.0) != 1.0:
        context.unsupported("scale of RotaryEmbedding")
    flat = x.rank == 3
    if flat:
        heads = node.attribute("num_heads", 0) or x.shape[2] // (2 * cosine.shape[1])
        x = split_heads(context, x, heads)
    if positions.rank == 1:  # of the first step; the others follow
        b = context.builder
        line = b.iota(shape=(1, x.shape[2]), axis=1, dtype=i64)
        positions = b.add(line, b.reshape(positions, shape=(1, 1)))
    y = rotate(context, node, x, positions, cosine, sine, bool(node.attribute("interleaved", 0)))
    return join_heads(context, y) if flat else y


def rotate(context: Context, node: NodeView, x: Value, positions, cosine, sine, interleaved: bool) -> Value:
    """[batch, heads, steps, size] turned by the angles of positions [batch or 1, steps]."""
    b, dims = context.builder, node.attribute("rotary_embedding_dim", 0) or 2 * cosine.shape[1]
    tables = []
    for table in (cosine, sine):
        rows = b.gather(table, b.cast(positions, dtype=i64), axis=0)
        tables.append(b.reshape(rows, shape=(rows.shape[0], 1, *rows.shape[1:])))
    return b.rotary(x, *tables, interleaved=interleaved, dims=dims)


@onnx_op("GroupQueryAttention", domain=MS)
def group_query_attention(context: Context, node: NodeView):
    """Rows of a batch may hold different numbers of steps: `lengths` counts each row's keys, less one."""
    refused = ("smooth_softmax", "kv_cache_bit_width", "qk_output", "sliding_window_cache")
    refuse(context, node, refused, {11: "head_sink", 12: "k_scale", 14: "q_norm_weight", 16: "query_seqlens"})
    if node.attribute("causal", 1) != 1:
        context.unsupported("causal=0 of GroupQueryAttention")
    q, k, v, past_k, past_v, lengths, total, cosine, sine, positions, extra = (
        node.input(i) for i in range(11)
    )
    b, heads, groups = context.builder, node.attribute("num_heads"), node.attribute("kv_num_heads")
    if k is None:
        size = q.shape[2] // (heads + 2 * groups)
        q, k, v = parts(context, q, 2, [heads * size, groups * size, groups * size])
    q, k, v = split_heads(context, q, heads), split_heads(context, k, groups), split_heads(context, v, groups)
    batch, steps = q.shape[0], q.shape[2]
    (keys,) = context.require_dims(b.cast(b.reshape(total, shape=(1,)), dtype=i64), "a length")
    ends = b.add(b.reshape(b.cast(lengths, dtype=i64), shape=(batch, 1)), 1)
    first = b.eq(context.size(keys), context.size(steps))  # a prompt, perhaps padded on the right
    before = b.select(first, 0, b.sub(ends, context.size(steps)))
    here = b.add(b.iota(shape=(1, steps), axis=1, dtype=i64), before)
    if node.attribute("do_rotary", 0):
        at, interleaved = (
            here if positions is None else positions,
            bool(node.attribute("rotary_interleaved", 0)),
        )
        q, k = (rotate(context, node, x, at, cosine, sine, interleaved) for x in (q, k))
    span = keys if past_k is None else maximum(past_k.shape[2], keys)
    k = cached(context, past_k, k, before, span)
    v = cached(context, past_v, v, before, span)
    column = b.iota(shape=(1, 1, span), axis=2, dtype=i64)
    row = b.reshape(here, shape=(*here.shape, 1))
    keep = b.le(column, row)
    window = node.attribute("local_window_size", -1)
    if window > 0:
        keep = b.and_(keep, b.gt(column, b.sub(row, window)))
    hidden = b.select(b.reshape(keep, shape=(batch, 1, steps, span)), b.scalar(0, q.dtype), -math.inf)
    bias = hidden if extra is None else b.add(hidden, extra)
    y = b.attention(
        q,
        k,
        v,
        bias,
        scale=float(node.attribute("scale", 0.0) or 1 / math.sqrt(q.shape[3])),
        causal=False,
        softcap=float(node.attribute("softcap", 0.0)),
        causal_offset=0,
    )
    return join_heads(context, y), k, v


def cached(context: Context, past: Value | None, new: Value, before: Value, span: Dim) -> Value:
    """[batch, heads, span, size]: in each row the first `before` steps of the past, then the new ones."""
    b = context.builder
    line = b.iota(shape=(1, span), axis=1, dtype=i64)
    recent = _steps(context, new, b.sub(line, before), span)
    if past is None:
        return recent
    old = b.reshape(b.lt(line, before), shape=(new.shape[0], 1, span, 1))
    return b.select(old, _steps(context, past, line, span), recent)


def _steps(context: Context, x: Value, at: Value, span: Dim) -> Value:
    """Steps `at` [batch or 1, span] of x [batch, heads, steps, size], the first or last where there is none such."""
    b = context.builder
    at = b.min(b.max(at, 0), b.sub(context.size(x.shape[2]), 1))
    index = b.reshape(at, shape=(at.shape[0], 1, span, 1))
    shape = (x.shape[0], x.shape[1], span, x.shape[3])
    return b.gather_elements(x, b.broadcast(index, shape=shape), axis=2)


@onnx_op("EmbedLayerNormalization", domain=MS)
def embed_layer_norm(context: Context, node: NodeView):
    ids, segments, words, places, kinds, scale, shift, mask, positions = (node.input(i) for i in range(9))
    return embed(context, node, (ids, segments, positions), (words, kinds, places), scale, shift, mask)


def embed(context: Context, node: NodeView, numbers, tables, scale: Value, shift: Value, mask: Value | None):
    """The sum of the rows of word, segment and position tables, normalised; how many words count; the sum."""
    b, (ids, segments, positions), (words, kinds, places) = context.builder, numbers, tables
    batch, steps = ids.shape
    if positions is None:
        positions = b.iota(shape=(1, steps), axis=1, dtype=i64)
    total = b.add(
        b.gather(words, b.cast(ids, dtype=i64), axis=0),
        b.gather(places, b.cast(positions, dtype=i64), axis=0),
    )
    if segments is not None:
        total = b.add(total, b.gather(kinds, b.cast(segments, dtype=i64), axis=0))
    y = b.layer_norm(total, scale, shift, axis=2, epsilon=node.attribute("epsilon", 1e-12))
    if mask is None:
        counts = b.broadcast(b.scalar(0, i32), shape=(batch,))
    else:
        valid = b.cast(b.eq(mask, 1), dtype=i32)
        counts = b.reduce(valid, function="add", axes=(1,), keepdims=False)
    return y, counts, total
