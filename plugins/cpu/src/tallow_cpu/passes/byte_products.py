"""Products of bytes: integer products and convolutions whose operands are 8-bit codes less a zero point.

With codes a of zero point z, and weights W that are w + c for signed bytes w and a number c for each column,

    sum (a - z) W = sum a w - z sum w + c sum (a - z),

exactly, also where sums wrap. The first sum is of bytes, the second a constant for each column, and the
last one is needed only where weights do not fit signed bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tallow.backend import Target
from tallow.builder import Builder
from tallow.dim import product
from tallow.dtype import DType, i8, i32, u8
from tallow.graph import Graph, Node, Value
from tallow.passes.layout import is_product, to_first, to_last
from tallow.passes.rewrite import rewrite
from tallow.passes.simplify import Facts
from tallow_cpu.lowerings.contraction import are_lines_whole
from tallow_cpu.passes.pack import pack


@dataclass(frozen=True, slots=True)
class Codes:
    """u8 codes and their zero point, a scalar of i32, or None for 0. `is_code`: it is surely a code itself."""

    x: Value
    zero: Value | None
    is_code: bool


def multiply_bytes(graph: Graph, target: Target) -> Graph:
    """Integer matmul and conv of 8-bit codes with constant weights of few bits as products of bytes."""
    facts = Facts(graph)

    def rule(builder: Builder, node: Node):
        if node.op not in ("matmul", "conv") or node.output.dtype != i32:
            return None
        weights = facts.constant(node.inputs[1])
        if weights is None or not weights.size:
            return None
        make = _matmul if node.op == "matmul" else _conv
        return make(builder, node, weights, facts, target)

    return rewrite(graph, rule)


def codes_in(value: Value, facts: Facts) -> tuple[Value, Value | None] | None:
    """What an i32 value is made of, if it is 8-bit codes less a scalar zero point."""
    zero, node = None, facts.made_by(value, "sub")
    if node is not None:
        value, zero = node.inputs
        if zero.type.size != 1 or value.shape != node.output.shape:
            return None
    cast = facts.made_by(value, "cast")
    return None if cast is None or cast.inputs[0].dtype not in (u8, i8) else (cast.inputs[0], zero)


def codes_of(builder: Builder, value: Value, facts: Facts) -> Codes | None:
    """The same as unsigned codes."""
    found = codes_in(value, facts)
    if found is None:
        return None
    x, zero = found
    is_code = zero is None or _is_code(zero, x.dtype, facts)
    zero = None if zero is None else builder.reshape(zero, shape=())
    if x.dtype == i8:  # as unsigned codes, 128 up
        x = builder.bit_xor(builder.cast(x, dtype=u8), 128)
        middle = builder.scalar(128, i32)
        zero = middle if zero is None else builder.add(zero, middle)
    return Codes(x, zero, is_code)


def _is_code(zero: Value, dtype: DType, facts: Facts) -> bool:
    number, cast = facts.scalar(zero), facts.made_by(zero, "cast")
    if number is not None:
        return np.iinfo(dtype.numpy).min <= number <= np.iinfo(dtype.numpy).max
    return cast is not None and cast.inputs[0].dtype == dtype


def split_weights(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Signed bytes w and, for each index of `axis`, c such that weights are w + c; None where none are."""
    others = tuple(a for a in range(weights.ndim) if a != axis)
    low, high = weights.min(others).astype(np.int64), weights.max(others).astype(np.int64)
    if np.any(high - low > 255):
        return None
    shift = np.where((low >= -128) & (high <= 127), 0, (low + high + 1) // 2)
    shape = tuple(-1 if a == axis else 1 for a in range(weights.ndim))
    return (weights - shift.reshape(shape)).astype(np.int8), shift.astype(np.int32)


def _matmul(builder: Builder, node: Node, weights: np.ndarray, facts: Facts, target: Target) -> Value | None:
    split = split_weights(weights, 1) if weights.ndim == 2 else None
    codes = None if split is None else codes_of(builder, node.inputs[0], facts)
    if codes is None:
        return None
    small, shift = split
    depth, n = small.shape
    packed = _packed(builder, small.reshape(1, 1, depth, n), target)
    total = builder.emit("cpu.matmul_bytes", codes.x, packed, n=n, depth=depth)
    total = _less(builder, total, codes, builder.constant(small.sum(0, dtype=np.int32)))
    if shift.any():
        rows = builder.reduce(node.inputs[0], function="add", axes=(codes.x.rank - 1,), keepdims=True)
        total = builder.add(total, builder.mul(rows, builder.constant(shift)))
    return total


def _conv(builder: Builder, node: Node, weights: np.ndarray, facts: Facts, target: Target) -> Value | None:
    x, groups, kernel, rank = node.inputs[0], node["groups"], weights.shape[2:], weights.ndim
    if not isinstance(x.shape[1], int) or any(
        isinstance(p, int) and p < 0 for pair in node["pads"] for p in pair
    ):
        return None
    if weights.shape[1] == 1 and x.shape[1] == groups == weights.shape[0]:
        return _depthwise(builder, node, weights, facts)
    split = split_weights(weights, 0)
    if split is None or (split[1].any() and groups != 1):
        return None
    codes = codes_of(builder, x, facts)
    if codes is None or not codes.is_code:
        return None
    small, shift = split
    each, n = small.shape[1], small.shape[0] // groups
    line = kernel[-1] if are_lines_whole(node) else 1
    matrices = np.moveaxis(small.reshape(groups, n, each, *kernel), (2, 1), (-2, -1))
    packed = _packed(builder, matrices.reshape(groups, product(kernel) // line, line * each, n), target)
    last = builder.transpose(codes.x, permutation=to_last(rank))
    fill = builder.scalar(0, u8) if codes.zero is None else builder.cast(codes.zero, dtype=u8)
    spec = {key: node[key] for key in ("strides", "pads", "dilations", "groups")}
    if is_product(node):
        total = builder.emit("cpu.matmul_bytes", last, packed, n=n, depth=each)
    else:
        total = builder.emit("cpu.conv_bytes", last, packed, fill, kernel=tuple(kernel), n=n, **spec)
    sums = small.reshape(small.shape[0], -1).sum(1, dtype=np.int32)
    total = _less(builder, total, codes, builder.constant(sums))
    if shift.any():
        channels = builder.reduce(x, function="add", axes=(1,), keepdims=True)
        ones = builder.constant(np.ones((1, 1, *kernel), np.int32))
        windows = builder.conv(channels, ones, **spec)
        windows = builder.transpose(windows, permutation=to_last(rank))
        total = builder.add(total, builder.mul(windows, builder.constant(shift)))
    return builder.transpose(total, permutation=to_first(rank))


def _depthwise(builder: Builder, node: Node, weights: np.ndarray, facts: Facts) -> Value | None:
    """One channel each: codes are read as bytes and lose their zero point where they are used."""
    found, rank = codes_in(node.inputs[0], facts), weights.ndim
    if found is None or rank != 4:
        return None
    x, zero = found
    zero = builder.scalar(0, i32) if zero is None else builder.reshape(zero, shape=())
    taps = builder.constant(np.moveaxis(weights[:, 0], 0, -1))
    spec = {key: node[key] for key in ("strides", "pads", "dilations")}
    last = builder.transpose(x, permutation=to_last(rank))
    total = builder.emit("cpu.depthwise_bytes", last, taps, zero, **spec)
    return builder.transpose(total, permutation=to_first(rank))


def _packed(builder: Builder, small: np.ndarray, target: Target) -> Value:
    """Bytes [groups, taps, each, n] as packed words, each tap's run filled with zeros to whole words."""
    groups, taps, each, n = small.shape
    words = -(-each // 4)
    full = np.zeros((groups, taps, 4 * words, n), np.int8)
    full[:, :, :each] = small
    order = full.reshape(groups, taps * words, 4, n).swapaxes(2, 3)
    return pack(builder, builder.byte_words(builder.constant(order)), target)


def _less(builder: Builder, total: Value, codes: Codes, sums: Value) -> Value:
    if codes.zero is None:
        return total
    return builder.sub(total, builder.mul(codes.zero, sums))
