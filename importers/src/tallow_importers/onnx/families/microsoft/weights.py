"""Products with weights of 4 bits whose codes mean floats, or lie in blobs with their scales (com.microsoft)."""

from __future__ import annotations

import numpy as np

from tallow.dtype import f32, i32, u32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.matmul import matmul_any_rank
from tallow_importers.onnx.families.microsoft.attention import part
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op

# What the codes mean (Dettmers et al., 2023: QLoRA): floats of 4 bits, and quantiles of a normal distribution.
_FP4 = [0, 5.208333333e-3, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25]
_NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]
_MEANINGS = {0: [*_FP4, *(-x for x in _FP4)], 1: _NF4}


@onnx_op("MatMulBnb4", domain=MS)
def matmul_bnb4(context: Context, node: NodeView) -> Value:
    """Weights [N, K] are coded two to a byte, the first in its high bits, in blocks that run on over rows."""
    b, (a, codes, largest) = context.builder, node.inputs
    n, k, block = (node.attribute(name) for name in ("N", "K", "block_size"))
    meaning = _MEANINGS.get(node.attribute("quant_type"))
    if meaning is None:
        context.unsupported(f"quant_type {node.attribute('quant_type')}: 0 (FP4) or 1 (NF4)")
    if block < 16 or block & (block - 1):
        context.unsupported(f"block_size {block}: a power of two from 16 on")
    count, blocks = n * k, -(-n * k // block)
    codes = b.reshape(codes, shape=(-(-count // 2), 1))
    pairs = b.concat(b.shift_right(codes, 4), b.bit_and(codes, 15), axis=1)
    line = b.reshape(pairs, shape=(2 * codes.shape[0],))
    line = b.pad(line, before=(0,), after=(blocks * block - line.shape[0],), mode="constant")
    values = b.gather(b.constant(np.array(meaning, a.dtype.numpy)), b.cast(line, dtype=i32), axis=0)
    scaled = b.mul(b.reshape(values, shape=(blocks, block)), b.reshape(largest, shape=(blocks, 1)))
    flat = part(context, b.reshape(scaled, shape=(blocks * block,)), 0, 0, count)
    w = b.reshape(flat, shape=(n, k))
    return matmul_any_rank(
        context, a, b.transpose(w, permutation=(1, 0)) if node.attribute("transB", 1) else w
    )


@onnx_op("MatMulFpQ4", domain=MS)
def matmul_fp_q4(context: Context, node: NodeView) -> Value:
    """Each column of the weights is a row of blobs: a scale of 4 bytes, perhaps a zero point, then codes,
    of which 16 bytes hold 16 in their low and the next 16 in their high bits."""
    b, (a, blob, shape) = context.builder, node.inputs
    k, n = context.constant(shape, "a shape of weights").tolist()
    # onnxruntime reads every kind but 0 as 1, also 2, which its documentation gives blocks of 64.
    block, has_zero = 32, node.attribute("blk_quant_type", 1) != 0
    blocks, head = -(-k // block), 4 + has_zero
    rows = b.reshape(blob, shape=(n * blocks, head + block // 2))
    scale = _as_float(context, part(context, rows, 1, 0, 4))
    packed = part(context, rows, 1, head, block // 2)
    codes = b.concat(b.bit_and(packed, 15), b.shift_right(packed, 4), axis=1)
    codes = b.cast(codes, dtype=f32)
    zero = b.cast(part(context, rows, 1, 4, 1), dtype=f32) if has_zero else 8.0
    real = b.reshape(b.mul(b.sub(codes, zero), scale), shape=(n, blocks * block))
    columns = part(context, real, 1, 0, k)
    return matmul_any_rank(context, a, b.transpose(columns, permutation=(1, 0)))


def _as_float(context: Context, quads: Value) -> Value:
    """[rows, 4] bytes, the lowest first, as floats [rows, 1]."""
    b = context.builder
    shifts = b.constant(np.array([0, 8, 16, 24], np.uint32))
    bits = b.reduce(b.shift_left(b.cast(quads, dtype=u32), shifts), function="add", axes=(1,), keepdims=True)
    return b.bitcast(bits, dtype=f32)
