"""A recurrent layer with 8-bit weights, whose inputs and states are rounded to 8 bits as they come."""

from __future__ import annotations

import numpy as np

from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.recurrence import backwards, functions_of, lstm_cell
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


register(Op("dynamic_quantize_lstm", "composite", _infer, _evaluate, arity=(11, 12)))
