"""Batches of sequences without their padding, and attention within them, of the com.microsoft domain.

`offsets` [batch, steps] has the places of the tokens that count, then those of the padding; `ends` [batch + 1]
has the number of tokens before each sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tallow.dim import Dim, floordiv
from tallow.dtype import i32, i64
from tallow.graph import Value
from tallow_importers.onnx.axes import held, read_shape
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.attention import split_heads
from tallow_importers.onnx.families.matmul import matmul_any_rank
from tallow_importers.onnx.families.microsoft.attention import attend, part, parts
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op


@onnx_op("RemovePadding", domain=MS)
def remove_padding(context: Context, node: NodeView):
    b, (x, counts) = context.builder, node.inputs
    batch, steps, width = x.shape
    ends = b.cumulative(
        b.reshape(counts, shape=(batch,)), axis=0, function="add", exclusive=False, reverse=False
    )
    last = b.cast(b.reduce(counts, function="add", axes=(0,), keepdims=True), dtype=i64)
    (total,) = read_shape(context, last)
    count, before = (b.cast(b.reshape(v, shape=(batch, 1)), dtype=i64) for v in (counts, b.sub(ends, counts)))
    step, row = b.iota(shape=(1, steps), axis=1, dtype=i64), b.iota(shape=(batch, 1), axis=0, dtype=i64)
    place = b.add(b.mul(row, context.size(steps)), step)
    # A token goes behind the tokens before it; padding goes behind all tokens and the padding before it.
    padding = b.sub(b.add(place, b.reshape(last, shape=())), b.add(before, count))
    rank = b.select(b.lt(step, count), b.add(before, step), padding)
    flat = (batch * steps,)
    offsets = b.scatter_elements(
        b.broadcast(b.scalar(0, i32), shape=flat),
        b.reshape(rank, shape=flat),
        b.iota(shape=flat, axis=0, dtype=i32),
        axis=0,
        reduction="none",
    )
    kept = b.gather(b.reshape(x, shape=(*flat, width)), part(context, offsets, 0, 0, total), axis=0)
    most = b.reduce(counts, function="max", axes=(0,), keepdims=True)
    zero = b.constant([0], dtype_=i32)
    return kept, b.reshape(offsets, shape=(batch, steps)), b.concat(zero, ends, axis=0), b.max(most, 0)


@onnx_op("RestorePadding", domain=MS)
def restore_padding(context: Context, node: NodeView) -> Value:
    return restored(context, *node.inputs)


def restored(context: Context, x: Value, offsets: Value) -> Value:
    """[tokens, width] as [batch, steps, width], zeros where there is no token."""
    b, (batch, steps), (total, width) = context.builder, offsets.shape, x.shape
    places = _places(context, offsets, total)
    empty = b.broadcast(b.scalar(0, x.dtype), shape=(batch * steps, width))
    rows = b.scatter_nd(empty, b.reshape(places, shape=(total, 1)), x, reduction="none")
    return b.reshape(rows, shape=(batch, steps, width))


def _places(context: Context, offsets: Value, total: Dim) -> Value:
    flat = context.builder.reshape(offsets, shape=(offsets.type.size,))
    return context.builder.cast(part(context, flat, 0, 0, total), dtype=i64)


@onnx_op("PackedAttention", domain=MS)
def packed_attention(context: Context, node: NodeView) -> Value:
    x, w, bias, offsets, ends, extra = (node.input(i) for i in range(6))
    projected = context.builder.add(matmul_any_rank(context, x, w), bias)
    sizes = node.attribute("qkv_hidden_sizes") or [floordiv(projected.shape[1], 3)] * 3
    return _attended(context, node, parts(context, projected, 1, sizes), offsets, ends, extra)


@onnx_op("PackedMultiHeadAttention", domain=MS)
def packed_multi_head_attention(context: Context, node: NodeView) -> Value:
    q, k, v, bias, offsets, ends, extra = (node.input(i) for i in range(7))
    b = context.builder
    if k is None or v is None:
        if q.rank != 4:
            context.unsupported(f"queries {q.type} without keys: [tokens, heads, 3, size]")
        width = q.shape[1] * q.shape[3]
        q, k, v = (b.reshape(part(context, q, 2, i, 1), shape=(q.shape[0], width)) for i in range(3))
    if bias is not None:
        pieces = parts(context, bias, 0, [x.shape[1] for x in (q, k, v)])
        q, k, v = (b.add(x, piece) for x, piece in zip((q, k, v), pieces, strict=True))
    return _attended(context, node, (q, k, v), offsets, ends, extra)


def _attended(
    context: Context, node: NodeView, qkv, offsets: Value, ends: Value, extra: Value | None
) -> Value:
    """Attention of tokens [tokens, width] to those of the same sequence."""
    b, (batch, steps), total = context.builder, offsets.shape, qkv[0].shape[0]
    heads = node.attribute("num_heads")
    q, k, v = (split_heads(context, restored(context, x, offsets), heads) for x in qkv)
    counts = b.sub(part(context, ends, 0, 1, batch), part(context, ends, 0, 0, batch))
    step = b.iota(shape=(1, steps), axis=1, dtype=counts.dtype)
    keep = b.lt(step, b.reshape(counts, shape=(batch, 1)))
    hidden = b.select(b.reshape(keep, shape=(batch, 1, 1, steps)), b.scalar(0, q.dtype), -math.inf)
    y = attend(context, node, q, k, v, [hidden, extra], 0)
    rows = b.reshape(y, shape=(batch * steps, y.shape[2]))
    return b.gather(rows, _places(context, offsets, total), axis=0)


# Sequences one after the other ----------------------------------------------------------------------


@dataclass(slots=True)
class Ragged:
    """Tokens of sequences of different lengths, i64: where each sequence begins and how long it is, [batch];
    which sequence a token is of and where in it, [tokens]."""

    batch: Dim
    first: Value
    length: Value
    sequence: Value
    place: Value
    steps: Dim | None = None

    @classmethod
    def of(cls, context: Context, ends: Value, tokens: Dim) -> Ragged:
        """From the number of tokens before each sequence, and of all, [batch + 1]."""
        b, batch = context.builder, ends.shape[0] - 1
        first, after = (b.cast(part(context, ends, 0, i, batch), dtype=i64) for i in (0, 1))
        token = b.iota(shape=(tokens,), axis=0, dtype=i64)
        passed = b.le(b.reshape(after, shape=(1, batch)), b.reshape(token, shape=(tokens, 1)))
        sequence = b.reduce(b.cast(passed, dtype=i64), function="add", axes=(1,), keepdims=False)
        sequence = held(context, sequence, batch)
        place = b.sub(token, b.gather(first, sequence, axis=0))
        return cls(batch, first, b.sub(after, first), sequence, place)

    def opened(self, context: Context, x: Value) -> Value:
        """[tokens, ...] as [batch, steps, ...], zeros beyond the end of a sequence; steps are read by the run."""
        b = context.builder
        if self.steps is None:
            (self.steps,) = read_shape(
                context, b.reduce(self.length, function="max", axes=(0,), keepdims=True)
            )
        step = b.iota(shape=(1, self.steps), axis=1, dtype=i64)
        at = b.add(b.reshape(self.first, shape=(self.batch, 1)), step)
        rows = b.gather(x, held(context, at, x.shape[0]), axis=0)
        valid = b.lt(step, b.reshape(self.length, shape=(self.batch, 1)))
        valid = b.reshape(valid, shape=(self.batch, self.steps, *(1,) * (x.rank - 1)))
        return b.select(valid, rows, b.scalar(0, x.dtype))

    def closed(self, context: Context, x: Value) -> Value:
        """[batch, steps, ...], of the steps that `opened` has, as [tokens, ...]."""
        b = context.builder
        rows = b.reshape(x, shape=(x.shape[0] * x.shape[1], *x.shape[2:]))
        at = b.add(b.mul(self.sequence, context.size(x.shape[1])), self.place)
        return b.gather(rows, at, axis=0)
