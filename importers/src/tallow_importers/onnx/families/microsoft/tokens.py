"""Tables, rotations and hashes of single tokens of the com.microsoft domain."""

from __future__ import annotations

from tallow.dtype import i32, u32, u64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op


@onnx_op("SampleOp", domain=MS)
def sample(context: Context, node: NodeView) -> Value:
    return node.input(0)


@onnx_op("TorchEmbedding", domain=MS)
def torch_embedding(context: Context, node: NodeView) -> Value:
    """What the other operands say concerns gradients alone."""
    return context.builder.gather(node.input(0), node.input(1), axis=0)


@onnx_op("GemmaRotaryEmbedding", domain=MS)
def gemma_rotary_embedding(context: Context, node: NodeView) -> list[Value]:
    """Queries and keys by the cosine of their angles, and by the sine what they are turned halfway."""
    b, (angles, q, q_half, k, k_half) = context.builder, node.inputs
    shape = (angles.shape[0], 1, *angles.shape[1:])
    cosine, sine = (b.reshape(b.cast(f(angles), dtype=q.dtype), shape=shape) for f in (b.cos, b.sin))
    return [b.add(b.mul(x, cosine), b.mul(half, sine)) for x, half in ((q, q_half), (k, k_half))]


# MurmurHash3 (Appleby, 2011), 32 bits -----------------------------------------------------------------


@onnx_op("MurmurHash3", domain=MS)
def murmur_hash(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    if x.dtype.kind not in ("int", "uint", "float") or x.dtype.bits not in (32, 64):
        context.unsupported(f"hashes of {x.dtype}")
    seed = node.attribute("seed", 0) % 2**32
    hashed = b.broadcast(b.scalar(seed, u32), shape=x.shape)
    for word in _words(context, x):
        word = b.mul(_rotated(context, b.mul(word, 0xCC9E2D51), 15), 0x1B873593)
        hashed = _rotated(context, b.bit_xor(hashed, word), 13)
        hashed = b.add(b.mul(hashed, 5), 0xE6546B64)
    hashed = b.bit_xor(hashed, x.dtype.bits // 8)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashed = b.mul(b.bit_xor(hashed, b.shift_right(hashed, shift)), factor)
    hashed = b.bit_xor(hashed, b.shift_right(hashed, 16))
    return hashed if node.attribute("positive", 1) else b.bitcast(hashed, dtype=i32)


def _words(context: Context, x: Value) -> list[Value]:
    """The elements' bits in words of 32, the lowest first."""
    b = context.builder
    if x.dtype.bits == 32:
        return [x if x.dtype == u32 else b.bitcast(x, dtype=u32)]
    wide = x if x.dtype == u64 else b.bitcast(x, dtype=u64)
    low = b.bit_and(wide, 2**32 - 1)
    return [b.cast(v, dtype=u32) for v in (low, b.shift_right(wide, 32))]


def _rotated(context: Context, x: Value, by: int) -> Value:
    b = context.builder
    return b.bit_or(b.shift_left(x, by), b.shift_right(x, 32 - by))
