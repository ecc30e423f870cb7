"""Recurrences: the steps of LSTM, GRU and RNN over time, once the inputs are projected and weights packed.

`projected` [steps * batch, directions * gates * hidden] is the input's part of every gate, biases included.
`weights` [directions, blocks, hidden, gates, BLOCK] has the recurrent weights of BLOCK columns of every
gate side by side, filled with zeros to whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.rules import rank_is, same_dtype, tensors
from tallow.ops.table import Op, register
from tallow.scalar import apply

BLOCK = 16
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
Do = Callable[..., object]  # do(function, *operands): numbers take the dtype of the other operands


@dataclass(frozen=True, slots=True)
class Activation:
    """A gate's activation, written once for numpy and kernels, and the defaults of the parameters it has."""

    apply: Callable[[Do, object, float | None, float | None], object]
    alpha: float | None = None
    beta: float | None = None


def _elu(do: Do, x, a, b):
    return do("select", do("lt", x, 0.0), do("mul", do("expm1", x), a), x)


def _softplus(do: Do, x, a, b):
    return do("add", do("max", x, 0.0), do("log1p", do("exp", do("neg", do("abs", x)))))


def _hard_sigmoid(do: Do, x, a, b):
    return do("max", do("min", do("add", do("mul", x, a), b), 1.0), 0.0)


ACTIVATIONS = {
    "Sigmoid": Activation(lambda do, x, a, b: do("sigmoid", x)),
    "Tanh": Activation(lambda do, x, a, b: do("tanh", x)),
    "Relu": Activation(lambda do, x, a, b: do("max", x, 0.0)),
    "Affine": Activation(lambda do, x, a, b: do("add", do("mul", x, a), b), 1.0, 0.0),
    "LeakyRelu": Activation(lambda do, x, a, b: do("select", do("lt", x, 0.0), do("mul", x, a), x), 0.01),
    "ThresholdedRelu": Activation(lambda do, x, a, b: do("select", do("gt", x, a), x, 0.0), 1.0),
    "ScaledTanh": Activation(lambda do, x, a, b: do("mul", do("tanh", do("mul", x, b)), a), 1.0, 1.0),
    "HardSigmoid": Activation(_hard_sigmoid, 0.2, 0.5),
    "Elu": Activation(_elu, 1.0),
    "Softsign": Activation(lambda do, x, a, b: do("div", x, do("add", do("abs", x), 1.0))),
    "Softplus": Activation(_softplus),
}
_BY_LOWER = {name.lower(): row for name, row in ACTIVATIONS.items()}


@dataclass(frozen=True, slots=True)
class Function:
    """An activation with its parameters."""

    row: Activation
    alpha: float | None
    beta: float | None

    def __call__(self, do: Do, x):
        return self.row.apply(do, x, self.alpha, self.beta)


def functions_of(attributes, directions: int) -> list[tuple[Function, ...]]:
    """The activations of each direction, each taking the next of the given parameters that it has;
    GraphError for an unknown one."""
    names, alphas, betas = attributes["activations"], iter(attributes["alphas"]), iter(attributes["betas"])
    found = []
    for name in names:
        row = _BY_LOWER.get(name.lower())
        if row is None:
            raise GraphError(f"unknown activation {name!r}: expected one of {', '.join(ACTIVATIONS)}")
        alpha = None if row.alpha is None else next(alphas, row.alpha)
        beta = None if row.beta is None else next(betas, row.beta)
        found.append(Function(row, alpha, beta))
    each = len(names) // directions
    return [tuple(found[d * each : (d + 1) * each]) for d in range(directions)]


def backwards(attributes, direction: int) -> bool:
    """Whether a direction goes from the last step to the first."""
    return attributes["direction"] == "reverse" or direction == 1


# The numpy meaning --------------------------------------------------------------------------------


def _do(function: str, *operands):
    like = next(o for o in reversed(operands) if isinstance(o, np.ndarray))
    return apply(function, *(o if isinstance(o, np.ndarray) else np.asarray(o, like.dtype) for o in operands))


def _clip(x: np.ndarray, limit: float) -> np.ndarray:
    return np.clip(x, -limit, limit) if limit else x


Cell = Callable[[int, Sequence[Function], np.ndarray, list[np.ndarray]], list[np.ndarray]]


def scan(attributes, projected: np.ndarray, lengths: np.ndarray, cell: Cell, states: Sequence[np.ndarray]):
    """Runs `cell(direction, functions, gates at t, states)` over time: y, then the final states.

    `projected` is [steps, batch, directions, gates * hidden]. States are [directions, batch, hidden], the
    first is the hidden one; a sequence that has ended keeps its states and gives zeros."""
    steps, batch, directions = projected.shape[:3]
    shape = directions, batch, states[0].shape[2]
    y = np.zeros((steps, *shape), projected.dtype)
    finals = [np.array(np.broadcast_to(s, shape)) for s in states]
    for d, functions in enumerate(functions_of(attributes, directions)):
        current = [s[d] for s in finals]
        for t in reversed(range(steps)) if backwards(attributes, d) else range(steps):
            with np.errstate(all="ignore"):
                new = cell(d, functions, projected[t, :, d], current)
            alive = (t < lengths)[:, None]
            current = [
                np.where(alive, n, c).astype(projected.dtype) for n, c in zip(new, current, strict=True)
            ]
            y[t, d] = np.where(alive, new[0], 0)
        for s, value in zip(finals, current, strict=True):
            s[d] = value
    return (y, *finals)


def lstm_cell(
    attributes, r: Sequence[np.ndarray], peepholes: np.ndarray | None, product: Callable = np.matmul
) -> Cell:
    """`r` is [directions, hidden, 4 * hidden], gates in the order i, o, f, c; states meet it in `product`."""

    def cell(d, functions, t_x, state):
        f, g, h_fn = functions
        h, c = state
        i, o, forget, inner = np.split(_clip(t_x + product(h, r[d]), attributes["clip"]), 4, -1)
        if peepholes is not None:
            pi, po, pf = np.split(peepholes[d], 3)
            i, forget = i + pi * c, forget + pf * c
        i = f(_do, i)
        forget = 1 - i if attributes["input_forget"] else f(_do, forget)
        c = forget * c + i * g(_do, inner)
        o = o if peepholes is None else o + po * c
        return [f(_do, o) * h_fn(_do, c), c]

    return cell


def gru_cell(attributes, r: np.ndarray, inner_bias: np.ndarray) -> Cell:
    """`r` is [directions, hidden, 3 * hidden], gates in the order z, r, h; `inner_bias` [directions,
    hidden] is added to the recurrent part of the last."""

    def cell(d, functions, t_x, state):
        f, g = functions
        (h,) = state
        rz, rr, rh = np.split(r[d], 3, -1)
        xz, xr, xh = np.split(t_x, 3, -1)
        z = f(_do, _clip(xz + h @ rz, attributes["clip"]))
        reset = f(_do, _clip(xr + h @ rr, attributes["clip"]))
        if attributes["linear_before_reset"]:
            inner = xh + reset * (h @ rh + inner_bias[d])
        else:
            inner = xh + (reset * h) @ rh + inner_bias[d]
        return [(1 - z) * g(_do, _clip(inner, attributes["clip"])) + z * h]

    return cell


def rnn_cell(attributes, r: np.ndarray) -> Cell:
    """`r` is [directions, hidden, hidden]."""

    def cell(d, functions, t_x, state):
        return [functions[0](_do, _clip(t_x + state[0] @ r[d], attributes["clip"]))]

    return cell


# Rows ---------------------------------------------------------------------------------------------


def unpack(weights: np.ndarray, hidden: int) -> np.ndarray:
    """[directions, blocks, hidden, gates, BLOCK] as [directions, hidden, gates * hidden]."""
    directions, blocks, k, gates, _ = weights.shape
    flat = weights.transpose(0, 2, 3, 1, 4).reshape(directions, k, gates, blocks * BLOCK)
    return flat[..., :hidden].reshape(directions, k, gates * hidden)


def stages(name: str, attributes) -> tuple[int, ...]:
    """How many gates each product with the weights gives: GRU may need the reset gate before the last."""
    if name == "gru" and not attributes["linear_before_reset"]:
        return (2, 1)
    return (GATES[name],)


def _infer(name: str, states: int):
    own = f"{name}_steps"

    def infer(types, attributes):
        projected, lengths, *rest = tensors(own, types)
        same_dtype(own, [projected, *rest])
        h0 = rest[0]
        rank_is(own, h0, 3, "initial states")
        directions, batch, hidden = h0.shape
        steps = attributes["steps"]
        wanted = (steps * batch, directions * hidden * GATES[name])
        if projected.shape != wanted or any(s != h0 for s in rest[:states]) or lengths.shape != (batch,):
            raise GraphError(
                f"{own}: expected projected inputs {list(wanted)}, states {h0} and {batch} lengths, got {types}"
            )
        for gates, w in zip(stages(name, attributes), rest[states:], strict=False):
            packed = (directions, -(-hidden // BLOCK), hidden, gates, BLOCK)
            if w.shape != packed:
                raise GraphError(f"{own}: expected packed weights {list(packed)}, got {w}")
        y = TensorType(projected.dtype, (steps, directions, batch, hidden))
        return (y, *(h0,) * states)

    return infer


def _split(projected: np.ndarray, attributes, h0: np.ndarray) -> np.ndarray:
    directions, batch, _ = h0.shape
    return projected.reshape(attributes["steps"], batch, directions, projected.shape[1] // directions)


def _evaluate_lstm(arrays, attributes):
    projected, lengths, h0, c0, weights, *peepholes = arrays
    projected = _split(projected, attributes, h0)
    cell = lstm_cell(attributes, unpack(weights, h0.shape[2]), peepholes[0] if peepholes else None)
    return scan(attributes, projected, lengths, cell, [h0, c0])


def _evaluate_gru(arrays, attributes):
    projected, lengths, h0, *rest = arrays
    projected = _split(projected, attributes, h0)
    hidden = h0.shape[2]
    count = len(stages("gru", attributes))
    parts = [unpack(w, hidden) for w in rest[:count]]
    inner = rest[count] if len(rest) > count else np.zeros((h0.shape[0], hidden), h0.dtype)
    cell = gru_cell(attributes, np.concatenate(parts, -1), inner)
    return scan(attributes, projected, lengths, cell, [h0])


def _evaluate_rnn(arrays, attributes):
    projected, lengths, h0, weights = arrays
    projected = _split(projected, attributes, h0)
    return scan(attributes, projected, lengths, rnn_cell(attributes, unpack(weights, h0.shape[2])), [h0])


register(Op("lstm_steps", "composite", _infer("lstm", 2), _evaluate_lstm, arity=(5, 6)))
register(Op("gru_steps", "composite", _infer("gru", 1), _evaluate_gru, arity=(5, 6)))
register(Op("rnn_steps", "composite", _infer("rnn", 1), _evaluate_rnn, arity=(4, 4)))
