"""Recurrent layers with ONNX's gate orders; sequences shorter than the batch's longest are masked."""

from __future__ import annotations

import numpy as np

from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.rules import tensors
from tallow.ops.table import Op, register
from tallow.scalar import apply

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def _activation(name: str, alpha: float | None, beta: float | None):
    def value(given, default):
        return default if given is None else given

    table = {
        "Sigmoid": lambda x: apply("sigmoid", x),
        "Tanh": np.tanh,
        "Relu": lambda x: np.maximum(x, 0),
        "Affine": lambda x: value(alpha, 1.0) * x + value(beta, 0.0),
        "LeakyRelu": lambda x: np.where(x < 0, value(alpha, 0.01) * x, x),
        "ThresholdedRelu": lambda x: np.where(x > value(alpha, 1.0), x, 0),
        "ScaledTanh": lambda x: value(alpha, 1.0) * np.tanh(value(beta, 1.0) * x),
        "HardSigmoid": lambda x: np.clip(value(alpha, 0.2) * x + value(beta, 0.5), 0, 1),
        "Elu": lambda x: np.where(x < 0, value(alpha, 1.0) * np.expm1(x), x),
        "Softsign": lambda x: x / (1 + np.abs(x)),
        "Softplus": lambda x: np.logaddexp(x, 0),
    }
    by_lower = {key.lower(): function for key, function in table.items()}
    if name.lower() not in by_lower:
        raise GraphError(f"unknown activation {name!r}: expected one of {', '.join(table)}")
    return by_lower[name.lower()]


def _infer(name: str):
    def infer(types, attributes):
        x, w, r = tensors(name, types)[:3]
        if x.rank != 3 or w.rank != 3 or r.rank != 3:
            raise GraphError(f"{name}: expected x, w and r of rank 3, got {x}, {w}, {r}")
        directions, hidden = r.shape[0], r.shape[2]
        wanted = 2 if attributes["direction"] == "bidirectional" else 1
        if directions != wanted or w.shape[1] != hidden * GATES[name]:
            raise GraphError(
                f"{name}: weights {w} and {r} do not fit {attributes['direction']} with {GATES[name]} gates"
            )
        steps, batch = x.shape[:2]
        state = TensorType(x.dtype, (directions, batch, hidden))
        y = TensorType(x.dtype, (steps, directions, batch, hidden))
        return (y, state, state) if name == "lstm" else (y, state)

    return infer


def _directions(attributes, count: int):
    """For each direction: its number, whether time runs backwards, and its activations."""
    names, alphas, betas = attributes["activations"], attributes["alphas"], attributes["betas"]
    each = len(names) // count
    for d in range(count):
        functions = [
            _activation(
                names[i], alphas[i] if i < len(alphas) else None, betas[i] if i < len(betas) else None
            )
            for i in range(d * each, (d + 1) * each)
        ]
        yield d, attributes["direction"] == "reverse" or d == 1, functions


def _clip(x, limit: float):
    return np.clip(x, -limit, limit) if limit else x


def _scan(attributes, x, h0, lengths, cell, states):
    """Runs `cell(direction, functions, x_t, states)` over time; (y, final states per direction)."""
    steps, (count, batch, _) = x.shape[0], h0.shape
    y = np.zeros((steps, count, batch, h0.shape[2]), x.dtype)
    finals = [np.array(s) for s in states]
    for d, backwards, functions in _directions(attributes, count):
        current = [s[d] for s in finals]
        for t in reversed(range(steps)) if backwards else range(steps):
            new = cell(d, functions, x[t], current)
            alive = (t < lengths)[:, None]
            current = [np.where(alive, n, c).astype(x.dtype) for n, c in zip(new, current, strict=True)]
            y[t, d] = np.where(alive, new[0], 0)
        for s, value in zip(finals, current, strict=True):
            s[d] = value
    return y, finals


def _evaluate_lstm(arrays, attributes):
    narrow = arrays[0].dtype
    x, w, r, b, h0, c0 = (a.astype(np.float32) if narrow == np.float16 else a for a in arrays[:6])
    lengths, p = arrays[6], arrays[7].astype(x.dtype)
    size = r.shape[2]
    with np.errstate(all="ignore"):
        projected = [x @ w[d].T + (b[d, : 4 * size] + b[d, 4 * size :]) for d in range(w.shape[0])]

        def cell(d, functions, t_x, state):
            f, g, h_fn = functions
            h, c = state
            gates = _clip(t_x[d] + h @ r[d].T, attributes["clip"])
            i, o, forget, cell_in = np.split(gates, 4, -1)
            pi, po, pf = np.split(p[d], 3)
            i = f(i + pi * c)
            forget = 1 - i if attributes["input_forget"] else f(forget + pf * c)
            c = forget * c + i * g(cell_in)
            return [f(o + po * c) * h_fn(c), c]

        stacked = np.stack(projected, 1)
        y, (h, c) = _scan(attributes, stacked, h0, lengths, cell, [h0, c0])
    return y.astype(narrow), h.astype(narrow), c.astype(narrow)


def _evaluate_gru(arrays, attributes):
    narrow = arrays[0].dtype
    x, w, r, b, h0 = (a.astype(np.float32) if narrow == np.float16 else a for a in arrays[:5])
    size = r.shape[2]
    with np.errstate(all="ignore"):
        projected = np.stack([x @ w[d].T + b[d, : 3 * size] for d in range(w.shape[0])], 1)

        def cell(d, functions, t_x, state):
            f, g = functions
            (h,) = state
            rz, rr, rh = np.split(r[d], 3)
            bz, br, bh = np.split(b[d, 3 * size :], 3)
            xz, xr, xh = np.split(t_x[d], 3, -1)
            z = f(_clip(xz + h @ rz.T + bz, attributes["clip"]))
            reset = f(_clip(xr + h @ rr.T + br, attributes["clip"]))
            if attributes["linear_before_reset"]:
                inner = xh + reset * (h @ rh.T + bh)
            else:
                inner = xh + (reset * h) @ rh.T + bh
            return [(1 - z) * g(_clip(inner, attributes["clip"])) + z * h]

        y, (h,) = _scan(attributes, projected, h0, arrays[5], cell, [h0])
    return y.astype(narrow), h.astype(narrow)


def _evaluate_rnn(arrays, attributes):
    narrow = arrays[0].dtype
    x, w, r, b, h0 = (a.astype(np.float32) if narrow == np.float16 else a for a in arrays[:5])
    size = r.shape[2]
    with np.errstate(all="ignore"):
        projected = np.stack([x @ w[d].T + (b[d, :size] + b[d, size:]) for d in range(w.shape[0])], 1)

        def cell(d, functions, t_x, state):
            return [functions[0](_clip(t_x[d] + state[0] @ r[d].T, attributes["clip"]))]

        y, (h,) = _scan(attributes, projected, h0, arrays[5], cell, [h0])
    return y.astype(narrow), h.astype(narrow)


register(Op("lstm", "composite", _infer("lstm"), _evaluate_lstm, arity=(8, 8)))
register(Op("gru", "composite", _infer("gru"), _evaluate_gru, arity=(6, 6)))
register(Op("rnn", "composite", _infer("rnn"), _evaluate_rnn, arity=(6, 6)))
