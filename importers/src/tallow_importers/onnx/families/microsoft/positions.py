"""Biases and rotations that follow from positions, of the com.microsoft domain."""

from __future__ import annotations

import numpy as np

from tallow.dim import floordiv
from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.attention import join_heads, split_heads
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.families.microsoft.packing import restored
from tallow_importers.onnx.registry import onnx_op


@onnx_op("RelativePositionBias", domain=MS)
def relative_position_bias(context: Context, node: NodeView) -> Value:
    """A row of the table for each pair of positions, by a bucket that widens with the distance.

    The table is [buckets, heads] with its columns one after the other, as if it were [heads, buckets].
    """
    b, (table, rows, columns) = context.builder, node.inputs
    (length,), (keys,) = (context.require_dims(b.reshape(v, shape=(1,)), "a length") for v in (rows, columns))
    count, heads = table.shape
    both, farthest = bool(node.attribute("is_bidirectional", 0)), node.attribute("max_distance")
    if not isinstance(count, int):
        context.unsupported("a number of buckets that is not known while importing")
    buckets = _buckets(count // 2 if both else count, farthest)
    row, column = b.iota(shape=(length, 1), axis=0, dtype=i64), b.iota(shape=(1, keys), axis=1, dtype=i64)
    distance = b.sub(column, row)
    nearest = b.min(b.abs(distance), len(buckets) - 1)
    bucket = b.gather(b.constant(buckets), nearest, axis=0)
    if both:
        bucket = b.add(bucket, b.select(b.gt(distance, 0), count // 2, b.scalar(0, i64)))
    bias = b.gather(b.reshape(table, shape=(heads, count)), bucket, axis=1)
    return b.reshape(bias, shape=(1, heads, length, keys))


def _buckets(count: int, farthest: int) -> np.ndarray:
    """The bucket of each distance up to where the last begins, in floats of 32 bits as those who trained did."""
    exact = count // 2
    distance = np.arange(farthest + 1)
    with np.errstate(divide="ignore"):
        share = np.log(distance.astype("f4") / np.float32(exact)) / np.log(np.float32(farthest / exact))
    far = exact + np.floor(np.maximum(share * (count - exact), 0)).astype("i8")
    return np.where(distance < exact, distance, np.minimum(far, count - 1))


@onnx_op("GatedRelativePositionBias", domain=MS)
def gated_relative_position_bias(context: Context, node: NodeView) -> Value:
    b, (query, shift, position, weight, bias, factor) = context.builder, node.inputs[:6]
    offsets, heads = node.input(6), node.attribute("num_heads")
    if offsets is not None:
        query = restored(context, query, offsets)
    x = split_heads(context, b.add(query, shift), heads)
    gates = b.add(b.matmul(x, weight), bias)
    size = floordiv(gates.shape[3], 2)
    sums = b.reduce(
        b.reshape(gates, shape=(*x.shape[:3], 2, size)), function="add", axes=(4,), keepdims=False
    )
    opened = b.sigmoid(sums)
    u, r = (b.slice(opened, starts=(0, 0, 0, i), steps=(1,) * 4, shape=(*x.shape[:3], 1)) for i in (0, 1))
    gate = b.add(b.mul(u, b.sub(b.mul(r, factor), 1)), 2)
    return b.mul(gate, position)


@onnx_op("MRotaryEmbedding", domain=MS)
def multimodal_rotary_embedding(context: Context, node: NodeView) -> Value:
    """Rotation by three positions of each token, each of which has some of the angles."""
    b, (x, positions, cosine, sine) = context.builder, node.inputs
    half, sections = cosine.shape[1], node.attribute("mrope_section")
    if len(sections) != 3 or min(sections) < 0 or sum(sections) != half:
        context.unsupported(f"mrope_section {sections}: three counts that add up to {half}")
    flat = x.rank == 3
    if flat:
        heads = node.attribute("num_heads", 0) or floordiv(x.shape[2], 2 * half)
        x = split_heads(context, x, heads)
    stream = b.constant(_streams(sections, node.attribute("mrope_layout", 0)))
    at = b.transpose(b.gather(positions, stream, axis=0), permutation=(1, 2, 0))
    index = b.add(b.mul(b.cast(at, dtype=i64), half), b.iota(shape=(1, 1, half), axis=2, dtype=i64))
    tables, scale = [], float(node.attribute("scale", 1.0))
    for table in (cosine, sine):
        rows = b.mul(b.gather(b.reshape(table, shape=(table.type.size,)), index, axis=0), scale)
        tables.append(b.reshape(rows, shape=(rows.shape[0], 1, *rows.shape[1:])))
    y = b.rotary(x, *tables, interleaved=bool(node.attribute("interleaved", 0)), dims=2 * half)
    return join_heads(context, y) if flat else y


def _streams(sections: list[int], layout: int) -> np.ndarray:
    """Which of the three positions each angle follows: in sections, or taking turns as far as each goes."""
    if layout == 0:
        return np.repeat(np.arange(3), sections)
    streams = np.zeros(sum(sections), np.int64)
    for stream in (1, 2):
        streams[stream : 3 * sections[stream] : 3] = stream
    return streams
