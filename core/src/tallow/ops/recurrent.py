"""Recurrent layers with ONNX's gate orders: one product of all inputs, then the recurrence."""

from __future__ import annotations

import numpy as np

from tallow.dim import product
from tallow.dtype import DType, f32
from tallow.dtype import dtype as dtype_of
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.recurrence import (
    BLOCK,
    GATES,
    functions_of,
    gru_cell,
    lstm_cell,
    rnn_cell,
    scan,
    stages,
)
from tallow.ops.rules import shape_is, tensors
from tallow.ops.table import Op, register


def _infer(name: str):
    def infer(types, attributes):
        x, w, r, bias, *rest = tensors(name, types)
        if x.rank != 3 or w.rank != 3 or r.rank != 3:
            raise GraphError(f"{name}: expected x, w and r of rank 3, got {x}, {w}, {r}")
        directions, hidden = r.shape[0], r.shape[2]
        wanted = 2 if attributes["direction"] == "bidirectional" else 1
        if directions != wanted or w.shape[1] != hidden * GATES[name]:
            raise GraphError(
                f"{name}: weights {w} and {r} do not fit {attributes['direction']} with {GATES[name]} gates"
            )
        functions_of(attributes, directions)
        steps, batch = x.shape[:2]
        state = TensorType(x.dtype, (directions, batch, hidden))
        size = hidden * GATES[name]
        shape_is(name, w, (directions, size, x.shape[2]), "weights")
        shape_is(name, r, (directions, size, hidden), "recurrent weights")
        shape_is(name, bias, (directions, 2 * size), "biases")
        states = 2 if name == "lstm" else 1
        for start in rest[:states]:
            rows = 1 if start.rank == 3 and start.shape[1] == 1 else batch  # one for all sequences
            shape_is(name, start, (directions, rows, hidden), "initial states")
        shape_is(name, rest[states], (batch,), "lengths")
        for peepholes in rest[states + 1 :]:
            shape_is(name, peepholes, (directions, 3 * hidden), "peepholes")
        y = TensorType(x.dtype, (steps, directions, batch, hidden))
        return (y, state, state) if name == "lstm" else (y, state)

    return infer


def _computed_in(dtype: DType) -> DType:
    """Narrow floats keep their states and sums in f32."""
    return f32 if dtype.bits < 32 else dtype


# The numpy meaning --------------------------------------------------------------------------------


def _project(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[steps, batch, directions, gates * hidden]."""
    with np.errstate(all="ignore"):
        return np.stack([x @ w[d].T + bias[d] for d in range(w.shape[0])], 2)


def _widened(arrays) -> tuple[np.dtype, list[np.ndarray]]:
    """The dtype of the results, and float arrays in the dtype that is computed in."""
    narrow = arrays[0].dtype
    kind = _computed_in(dtype_of(narrow)).numpy
    return narrow, [a if a.dtype.kind in "iu" else a.astype(kind) for a in arrays]


def _evaluate_lstm(arrays, attributes):
    narrow, (x, w, r, b, h0, c0, lengths, *p) = _widened(arrays)
    size = 4 * r.shape[2]
    projected = _project(x, w, b[:, :size] + b[:, size:])
    cell = lstm_cell(attributes, r.transpose(0, 2, 1), p[0] if p else None)
    return tuple(a.astype(narrow) for a in scan(attributes, projected, lengths, cell, [h0, c0]))


def _evaluate_gru(arrays, attributes):
    narrow, (x, w, r, b, h0, lengths) = _widened(arrays)
    size = r.shape[2]
    outer = b[:, : 3 * size] + np.pad(b[:, 3 * size : 5 * size], ((0, 0), (0, size)))
    projected = _project(x, w, outer)
    cell = gru_cell(attributes, r.transpose(0, 2, 1), b[:, 5 * size :])
    return tuple(a.astype(narrow) for a in scan(attributes, projected, lengths, cell, [h0]))


def _evaluate_rnn(arrays, attributes):
    narrow, (x, w, r, b, h0, lengths) = _widened(arrays)
    size = r.shape[2]
    projected = _project(x, w, b[:, :size] + b[:, size:])
    cell = rnn_cell(attributes, r.transpose(0, 2, 1))
    return tuple(a.astype(narrow) for a in scan(attributes, projected, lengths, cell, [h0]))


# Decomposition ------------------------------------------------------------------------------------


def _columns(builder, x, start: int, count: int):
    """Columns of a matrix."""
    return builder.slice(x, starts=(0, start), steps=(1, 1), shape=(x.shape[0], count))


def _projected(builder, x, w, bias):
    """x times the weights of every gate of every direction as one product, plus the bias."""
    steps, batch, depth = x.shape
    directions, size, _ = w.shape
    matrix = builder.transpose(builder.reshape(w, shape=(directions * size, depth)), permutation=(1, 0))
    rows = builder.reshape(x, shape=(steps * batch, depth))
    return builder.add(builder.matmul(rows, matrix), builder.reshape(bias, shape=(directions * size,)))


def _packed(builder, r, gates: tuple[int, int]):
    """The recurrent weights of gates first..last - 1 as the recurrence wants them."""
    directions, _, hidden = r.shape
    first, last = gates
    count, blocks = last - first, -(-hidden // BLOCK)
    r = builder.slice(
        r, starts=(0, first * hidden, 0), steps=(1, 1, 1), shape=(directions, count * hidden, hidden)
    )
    r = builder.reshape(r, shape=(directions, count, hidden, hidden))
    if hidden % BLOCK:
        filler = (0, 0, blocks * BLOCK - hidden, 0)
        r = builder.pad(r, before=(0, 0, 0, 0), after=filler, mode="constant")
    r = builder.reshape(r, shape=(directions, count, blocks, BLOCK, hidden))
    return builder.transpose(r, permutation=(0, 2, 4, 1, 3))


def _outer_bias(builder, name: str, bias, hidden: int):
    """The part of the bias that is added to the projected inputs."""
    size = GATES[name] * hidden
    if name != "gru":
        return builder.add(_columns(builder, bias, 0, size), _columns(builder, bias, size, size))
    rest = builder.pad(
        _columns(builder, bias, size, 2 * hidden), before=(0, 0), after=(0, hidden), mode="constant"
    )
    return builder.add(_columns(builder, bias, 0, size), rest)


def _agreeing(builder, value, shape):
    """A value in a shape that it may have: where sizes do not prove it, the reshape is checked at the run.
    None if it cannot have it."""
    if value.shape == shape:
        return value
    pairs = [
        (a, b) for a, b in zip(value.shape, shape, strict=False) if isinstance(a, int) and isinstance(b, int)
    ]
    clash = value.rank != len(shape) or any(a != b for a, b in pairs)
    return None if clash else builder.reshape(value, shape=shape)


def _states(builder, states, shape):
    """Initial states in full, or None where they cannot fit."""
    single = (shape[0], 1, shape[2])
    full = [
        builder.broadcast(s, shape=shape) if s.shape == single else _agreeing(builder, s, shape)
        for s in states
    ]
    return None if any(s is None for s in full) else full


def _decompose(name: str):
    def decompose(builder, node):
        """Projection, packing and recurrence; None where sizes are not known well enough."""
        dtype, state = node.outputs[0].dtype, node.outputs[1].shape
        hidden = state[2]
        if not isinstance(hidden, int) or not isinstance(product(node.inputs[1].shape), int):
            return None

        def wide(value):
            return builder.cast(value, dtype=_computed_in(dtype)) if value.dtype.is_float else value

        x, w, r, bias, h0, *rest = map(wide, node.inputs)
        states = _states(builder, [h0, rest.pop(0)] if name == "lstm" else [h0], state)
        lengths, *extra = rest
        lengths = _agreeing(builder, lengths, (state[1],))
        if states is None or lengths is None:
            return None
        if name == "gru":
            extra = [_columns(builder, bias, 5 * hidden, hidden)]
        projected = _projected(builder, x, w, _outer_bias(builder, name, bias, hidden))
        weights, first = [], 0
        for count in stages(name, node.attributes):
            weights.append(_packed(builder, r, (first, first + count)))
            first += count
        spec = {**node.attributes, "steps": x.shape[0]}
        results = builder.emit(f"{name}_steps", projected, lengths, *states, *weights, *extra, **spec)
        return [builder.cast(v, dtype=dtype) for v in results]

    return decompose


register(Op("lstm", "composite", _infer("lstm"), _evaluate_lstm, decompose=_decompose("lstm"), arity=(7, 8)))
register(Op("gru", "composite", _infer("gru"), _evaluate_gru, decompose=_decompose("gru"), arity=(6, 6)))
register(Op("rnn", "composite", _infer("rnn"), _evaluate_rnn, decompose=_decompose("rnn"), arity=(6, 6)))
