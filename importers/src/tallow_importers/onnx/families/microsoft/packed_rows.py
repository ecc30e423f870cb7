"""Tables whose rows are coded in GGML's blocks, of the com.microsoft domain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tallow.dtype import bf16, f16, f32, i8, i32, i64, u16, u32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.microsoft.attention import parts
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.registry import onnx_op

_BFLOAT16 = 16  # ONNX's number, the default of the result

# Decoders take the fields of a block, bytes [blocks, size] each, and give floats [blocks, values].
Decoder = Callable[..., Value]


@onnx_op("GatherPacked", domain=MS)
def gather_packed(context: Context, node: NodeView) -> Value:
    """Rows by number; one that the table has not is the first."""
    b, (table, indices), kind, width = (
        context.builder,
        node.inputs,
        node.attribute("packed_type"),
        node.attribute("K"),
    )
    if kind not in _KINDS:
        context.unsupported(f"packed_type {kind}: {', '.join(map(str, _KINDS))}")
    values, fields, decode = _KINDS[kind]
    if width < 1 or width % values:
        context.unsupported(f"K={width} in blocks of {values}")
    size = width // values * sum(fields)
    if isinstance(table.shape[1], int) and table.shape[1] != size:
        context.unsupported(f"{table.shape[1]} bytes of rows for K={width}: {size}")
    at = b.cast(indices, dtype=i64)
    known = b.and_(b.ge(at, 0), b.lt(at, context.size(table.shape[0])))
    rows = b.gather(table, b.select(known, at, b.scalar(0, i64)), axis=0)
    blocks = b.reshape(rows, shape=(indices.type.size * (width // values), sum(fields)))
    y = b.reshape(decode(context, *parts(context, blocks, 1, fields)), shape=(*indices.shape, width))
    return b.cast(y, dtype=context.dtype(node.attribute("output_dtype", _BFLOAT16)))


def _number(context: Context, raw: Value, dtype) -> Value:
    """Bytes [blocks, n * width], the lowest first, as numbers [blocks, n] of a dtype of 2 or 4 bytes."""
    b, width = context.builder, dtype.bits // 8
    whole = {2: u16, 4: u32}[width]
    opened = b.reshape(raw, shape=(raw.shape[0], raw.shape[1] // width, width))
    shifts = b.constant(np.arange(0, dtype.bits, 8).astype(whole.numpy))
    bits = b.shift_left(b.cast(opened, dtype=whole), shifts)
    total = b.reduce(bits, function="add", axes=(2,), keepdims=False)
    return total if dtype == whole else b.bitcast(total, dtype=dtype)


def _real(context: Context, raw: Value, dtype=f16) -> Value:
    return context.builder.cast(_number(context, raw, dtype), dtype=f32)


def _signed(context: Context, raw: Value) -> Value:
    return context.builder.cast(context.builder.bitcast(raw, dtype=i8), dtype=f32)


def _halves(context: Context, raw: Value) -> Value:
    """The low 4 bits of all bytes, then the high ones, i32."""
    b = context.builder
    wide = b.cast(raw, dtype=i32)
    return b.concat(b.bit_and(wide, 15), b.shift_right(wide, 4), axis=1)


def _plain(dtype) -> Decoder:
    return lambda context, raw: _real(context, raw, dtype)


def _q4_0(context: Context, scale: Value, codes: Value) -> Value:
    b = context.builder
    return b.mul(b.cast(b.sub(_halves(context, codes), 8), dtype=f32), _real(context, scale))


def _q5_0(context: Context, scale: Value, high: Value, codes: Value) -> Value:
    b = context.builder
    bits = b.shift_right(_number(context, high, u32), b.constant(np.arange(32, dtype=np.uint32)))
    fifth = b.mul(b.cast(b.bit_and(bits, 1), dtype=i32), 16)
    whole = b.sub(b.add(_halves(context, codes), fifth), 16)
    return b.mul(b.cast(whole, dtype=f32), _real(context, scale))


def _q8_0(context: Context, scale: Value, codes: Value) -> Value:
    return context.builder.mul(_signed(context, codes), _real(context, scale))


_QUANTILES = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


def _iq4_nl(context: Context, scale: Value, codes: Value) -> Value:
    b = context.builder
    values = b.gather(b.constant(np.array(_QUANTILES, np.float32)), _halves(context, codes), axis=0)
    return b.mul(values, _real(context, scale))


def _q5_k(context: Context, scale: Value, least: Value, packed: Value, high: Value, codes: Value) -> Value:
    """Eight lines of 32, each with a scale and a least value of 6 bits."""
    b, count = context.builder, scale.shape[0]
    first, second, third = parts(context, b.cast(packed, dtype=i32), 1, [4, 4, 4])

    def six(low: Value, rest: Value) -> Value:
        top = b.mul(b.shift_right(rest, 6), 16)
        return b.cast(b.concat(b.bit_and(rest, 63), b.bit_or(low, top), axis=1), dtype=f32)

    scales = b.mul(six(b.bit_and(third, 15), first), _real(context, scale))
    leasts = b.mul(six(b.shift_right(third, 4), second), _real(context, least))
    lines = b.reshape(b.cast(codes, dtype=i32), shape=(count, 4, 1, 32))
    nibbles = b.concat(b.bit_and(lines, 15), b.shift_right(lines, 4), axis=2)
    line = b.constant(np.arange(8, dtype=np.int32).reshape(1, 8, 1))
    fifth = b.bit_and(b.shift_right(b.reshape(b.cast(high, dtype=i32), shape=(count, 1, 32)), line), 1)
    whole = b.add(b.reshape(nibbles, shape=(count, 8, 32)), b.mul(fifth, 16))
    scales, leasts = (b.reshape(v, shape=(count, 8, 1)) for v in (scales, leasts))
    return b.reshape(b.sub(b.mul(b.cast(whole, dtype=f32), scales), leasts), shape=(count, 256))


def _q6_k(context: Context, low: Value, high: Value, scales: Value, scale: Value) -> Value:
    """Two times four lines of 32, with a scale of 8 bits for each half of a line."""
    b, count = context.builder, scale.shape[0]
    lines = b.reshape(b.cast(low, dtype=i32), shape=(count, 2, 2, 32))
    nibbles = b.concat(b.bit_and(lines, 15), b.shift_right(lines, 4), axis=2)
    shifts = b.constant(np.arange(0, 8, 2, dtype=np.int32).reshape(1, 1, 4, 1))
    top = b.bit_and(b.shift_right(b.reshape(b.cast(high, dtype=i32), shape=(count, 2, 1, 32)), shifts), 3)
    whole = b.cast(b.sub(b.add(nibbles, b.mul(top, 16)), 32), dtype=f32)
    factor = b.mul(_signed(context, scales), _real(context, scale))
    y = b.mul(b.reshape(whole, shape=(count, 16, 16)), b.reshape(factor, shape=(count, 16, 1)))
    return b.reshape(y, shape=(count, 256))


# Kinds of blocks by GGML's numbers: values, bytes of each field, and what decodes them.
_KINDS: dict[int, tuple[int, list[int], Decoder]] = {
    0: (1, [4], _plain(f32)),
    1: (1, [2], _plain(f16)),
    2: (32, [2, 16], _q4_0),
    6: (32, [2, 4, 16], _q5_0),
    8: (32, [2, 32], _q8_0),
    13: (256, [2, 2, 12, 32, 128], _q5_k),
    14: (256, [128, 64, 16, 2], _q6_k),
    20: (32, [2, 16], _iq4_nl),
    30: (1, [2], _plain(bf16)),
}
