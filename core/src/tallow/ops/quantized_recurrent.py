"""A recurrent layer with 8-bit weights, whose inputs and states are rounded to 8 bits as they come.

All inputs share one scale, and at each step the states of all sequences do. The steps are an operator of
their own once inputs are projected; its weights are signed bytes w, with a number c for each column such
that the weights meant are w + c.
"""

from __future__ import annotations

import numpy as np

from tallow.dim import product
from tallow.dtype import f32, i8, i32, u8
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.recurrence import BLOCK, backwards, functions_of, lstm_cell, scan
from tallow.ops.rules import tensors
from tallow.ops.table import Op, register


def _infer(types, attributes):
    x, w, r = tensors("dynamic_quantize_lstm", types)[:3]
    directions, hidden = r.shape[0], r.shape[1]
    wanted = 2 if attributes["direction"] == "bidirectional" else 1
    if x.rank != 3 or directions != wanted or w.shape[2] != hidden * 4 or r.shape[2] != hidden * 4:
        raise GraphError(
            f"dynamic_quantize_lstm: weights {w} and {r} do not fit {x} and {attributes['direction']}: "
            "expected [directions, inputs, 4 hidden] and [directions, hidden, 4 hidden]"
        )
    functions_of(attributes, directions)
    state = TensorType(x.dtype, (directions, x.shape[1], hidden))
    return TensorType(x.dtype, (x.shape[0], directions, x.shape[1], hidden)), state, state


def _rounded_product(a: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """a @ whole * scale, all of `a` rounded to 8 bits with one scale; integer sums, exact in float64."""
    whole, scale = weights
    low, high = np.minimum(a.min(initial=0), 0), np.maximum(a.max(initial=0), 0)
    step = np.float32((high - low) / np.float32(255)) or np.float32(1)
    offset = np.clip(np.rint(-low / step), 0, 255)
    codes = np.clip(np.rint(a / step) + offset, 0, 255) - offset
    return np.matmul(codes.astype(np.float64), whole).astype(np.float32) * (step * scale)


def _evaluate(arrays, attributes):
    """Each direction goes over every sequence from its own end on, up to the longest one's last step."""
    x, w, r, b, h0, c0, lengths, w_scale, w_zero, r_scale, r_zero, *peepholes = arrays
    steps, (count, batch, size) = int(max(lengths.max(initial=0), 0)), h0.shape
    y = np.zeros((x.shape[0], count, batch, size), x.dtype)
    finals = [np.array(h0), np.array(c0)]
    w, r = (v.astype(np.float64) - zero for v, zero in ((w, w_zero), (r, r_zero)))
    weights, bias = list(zip(r, r_scale, strict=True)), b[:, : 4 * size] + b[:, 4 * size :]
    cell = lstm_cell(attributes, weights, peepholes[0] if peepholes else None, _rounded_product)
    with np.errstate(all="ignore"):
        for d, functions in enumerate(functions_of(attributes, count)):
            at = np.arange(steps)[:, None]
            at = np.where(backwards(attributes, d) & (at < lengths), lengths - 1 - at, at)
            given = np.take_along_axis(x, at[:, :, None], 0)
            projected = _rounded_product(given, (w[d], w_scale[d])) + bias[d]
            state = [h0[d], c0[d]]
            for t in range(steps):
                alive = (t < lengths)[:, None]
                h, c = (v.astype(x.dtype) for v in cell(d, functions, projected[t], state))
                state = [np.where(alive, h, 0).astype(x.dtype), c]
                y[at[t], d, np.arange(batch)] = state[0]
                for final, value in zip(finals, state, strict=True):
                    final[d] = np.where(alive, value, final[d])
    return y, *finals


# Steps --------------------------------------------------------------------------------------------


def _infer_steps(types, attributes):
    projected, lengths, h0, c0, words, *columns = tensors("lstm_steps_bytes", types)
    directions, batch, hidden = h0.shape
    wanted = (attributes["steps"] * batch, directions * hidden * 4)
    packed = (directions, -(-hidden // BLOCK), -(-hidden // 4), 4, BLOCK)
    fits = projected.shape == wanted and c0 == h0 and words == TensorType(i32, packed)
    if not fits or any(c.shape != (directions, 4 * hidden) for c in columns[:3]):
        raise GraphError(
            f"lstm_steps_bytes: expected projected inputs {list(wanted)}, states {h0}, words {list(packed)} "
            f"and three rows of {4 * hidden} for each direction, got {types}"
        )
    return TensorType(projected.dtype, (attributes["steps"], directions, batch, hidden)), h0, h0


def _evaluate_steps(arrays, attributes):
    projected, lengths, h0, c0, words, _, shift, scale, *peepholes = arrays
    directions, batch, hidden = h0.shape
    small = words.astype("<i4")[..., None].view(np.int8)  # [directions, blocks, words, gates, BLOCK, 4]
    small = small.transpose(0, 2, 5, 3, 1, 4).reshape(directions, -1, 4, small.shape[1] * BLOCK)
    whole = small[:, :hidden, :, :hidden].reshape(directions, hidden, 4 * hidden).astype(np.float64)
    weights = list(zip(whole + shift[:, None], scale, strict=True))
    cell = lstm_cell(attributes, weights, peepholes[0] if peepholes else None, _rounded_product)
    projected = projected.reshape(attributes["steps"], batch, directions, 4 * hidden)
    return scan(attributes, projected, lengths, cell, [h0, c0])


def _rounded(builder, x):
    """Codes less their zero point in i32, and the scale: NaN where that is not finite."""
    axes = tuple(range(x.rank))
    low = builder.min(builder.reduce(x, function="min", axes=axes, keepdims=False), 0)
    high = builder.max(builder.reduce(x, function="max", axes=axes, keepdims=False), 0)
    step = builder.div(builder.sub(high, low), 255.0)
    step = builder.select(builder.eq(step, 0), 1.0, step)
    offset = builder.max(builder.min(builder.round(builder.div(builder.neg(low), step)), 255.0), 0.0)
    codes = builder.add(builder.round(builder.div(x, step)), offset)
    codes = builder.cast(builder.max(builder.min(codes, 255.0), 0.0), dtype=u8)
    zero = builder.cast(builder.cast(offset, dtype=u8), dtype=i32)
    return builder.sub(builder.cast(codes, dtype=i32), zero), builder.add(step, builder.sub(step, step))


def _words(builder, r):
    """Signed bytes [directions, hidden, 4 * hidden] as words of four summed indexes in blocks of columns."""
    directions, hidden, _ = r.shape
    depth, blocks = -(-hidden // 4), -(-hidden // BLOCK)
    r = builder.reshape(r, shape=(directions, hidden, 4, hidden))
    filler = (0, 4 * depth - hidden, 0, blocks * BLOCK - hidden)
    if any(filler):
        r = builder.pad(r, before=(0, 0, 0, 0), after=filler, mode="constant")
    r = builder.reshape(r, shape=(directions, depth, 4, 4, blocks, BLOCK))
    return builder.byte_words(builder.transpose(r, permutation=(0, 4, 1, 3, 5, 2)))


def _decompose(builder, node):
    """Rounding and projecting all inputs, then the steps; None where sizes are not known well enough or
    sequences end at different steps."""
    x, w, r, bias, h0, c0, lengths, w_scale, w_zero, r_scale, r_zero, *peepholes = node.inputs
    state = node.outputs[1].shape
    directions, _, hidden = state
    if not node["whole"] or not isinstance(product(w.shape), int) or x.dtype != f32:
        return None
    if not hidden or h0.shape != state or c0.shape != state or lengths.shape != (state[1],):
        return None
    columns, (steps, batch, depth) = 4 * hidden, x.shape
    rows, step = _rounded(builder, builder.reshape(x, shape=(steps * batch, depth)))
    whole = builder.sub(builder.cast(w, dtype=i32), builder.cast(w_zero, dtype=i32))
    matrix = builder.transpose(whole, permutation=(1, 0, 2))
    total = builder.matmul(rows, builder.reshape(matrix, shape=(depth, directions * columns)))
    factor = builder.mul(step, _row(builder, w_scale, directions, columns))
    size = (directions, columns)
    both = [builder.slice(bias, starts=(0, start), steps=(1, 1), shape=size) for start in (0, columns)]
    projected = builder.add(
        builder.mul(builder.cast(total, dtype=f32), builder.reshape(factor, shape=(directions * columns,))),
        builder.reshape(builder.add(*both), shape=(directions * columns,)),
    )
    middle = 128 if r.dtype == u8 else 0
    small = builder.cast(builder.sub(builder.cast(r, dtype=i32), middle), dtype=i8)
    sums = builder.reduce(builder.cast(small, dtype=i32), function="add", axes=(1,), keepdims=False)
    shift = builder.sub(middle, builder.cast(_row(builder, r_zero, directions, columns), dtype=i32))
    spec = {key: value for key, value in node.attributes.items() if key != "whole"}
    operands = (projected, lengths, h0, c0, _words(builder, small), sums, shift)
    scale = _row(builder, r_scale, directions, columns)
    return builder.emit("lstm_steps_bytes", *operands, scale, *peepholes, **spec, steps=steps)


def _row(builder, value, directions: int, columns: int):
    """One number for each column of each direction, of [directions, 1, columns or 1]."""
    full = builder.broadcast(value, shape=(directions, 1, columns))
    return builder.reshape(full, shape=(directions, columns))


register(Op("dynamic_quantize_lstm", "composite", _infer, _evaluate, decompose=_decompose, arity=(11, 12)))
register(Op("lstm_steps_bytes", "composite", _infer_steps, _evaluate_steps, arity=(8, 9)))
