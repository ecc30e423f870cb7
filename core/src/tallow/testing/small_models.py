"""Whole small models for the kit: each graph with the sizes and the inputs that it is tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tallow.builder import Builder
from tallow.dim import symbol
from tallow.graph import Graph, TensorType, Value
from tallow.testing.case import Sizes, extents, values
from tallow.testing.layer_cases import recurrent


@dataclass(frozen=True)
class SmallModel:
    """`write` makes inputs and names results; every binding of `sizes` is tried, the first one again at last."""

    name: str
    write: Callable[[Builder], dict[str, Value]]
    sizes: tuple[Sizes, ...]

    def graph(self) -> Graph:
        b = Builder(self.name)
        return b.finish(self.write(b))

    def inputs(self, sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {v.name: values(rng, v.dtype, extents(v, sizes), (-1, 1), False) for v in self.graph().inputs}


def _scaled(b: Builder, *shape: int) -> Value:
    """Weights whose products with values of about 1 are about 1."""
    fan = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
    return b.constant(
        (np.random.default_rng(len(b.nodes)).uniform(-1, 1, shape) / fan**0.5).astype(np.float32)
    )


def _convolution(b: Builder, x: Value, results: int, stride: int = 1, groups: int = 1) -> Value:
    w = _scaled(b, results, x.shape[1] // groups, 3, 3)
    y = b.conv(x, w, groups=groups, strides=(stride,) * 2, pads=((1, 1),) * 2, dilations=(1, 1))
    return b.relu(b.add(y, _scaled(b, results, 1, 1)))


def cnn(b: Builder) -> dict[str, Value]:
    """Convolutions with a residual, a depthwise one, pools and a classifier."""
    x = _convolution(b, b.input("x", "f32", ("batch", 3, 17, 15)), 8, stride=2)
    x = b.add(x, _convolution(b, x, 8))
    x = b.pool(x, function="max", kernel=(2, 2), strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1))
    x = _convolution(b, _convolution(b, x, 8, groups=8), 19)
    mean = b.mul(b.reduce(x, function="add", axes=(2, 3), keepdims=False), 1 / 16)
    return {"scores": b.softmax(b.add(b.matmul(mean, _scaled(b, 19, 11)), _scaled(b, 11)), axis=1)}


def _dense(b: Builder, x: Value, width: int) -> Value:
    return b.add(b.matmul(x, _scaled(b, x.shape[-1], width)), _scaled(b, width))


def _norm(b: Builder, x: Value) -> Value:
    return b.layer_norm(x, _scaled(b, x.shape[-1]), _scaled(b, x.shape[-1]), axis=x.rank - 1, epsilon=1e-5)


def transformer(b: Builder) -> dict[str, Value]:
    """One block, norms first, causal attention over four heads."""
    x = b.input("x", "f32", ("batch", "tokens", 20))
    batch, tokens, width = x.shape

    def heads(y: Value) -> Value:
        return b.transpose(b.reshape(y, shape=(batch, tokens, 4, 5)), permutation=(0, 2, 1, 3))

    normed = _norm(b, x)
    q, k, v = (heads(_dense(b, normed, width)) for _ in range(3))
    mixed = b.transpose(b.attention(q, k, v, scale=5**-0.5, causal=True), permutation=(0, 2, 1, 3))
    x = b.add(x, _dense(b, b.reshape(mixed, shape=(batch, tokens, width)), width))
    hidden = b.gelu(_dense(b, _norm(b, x), 48), approximate="none")
    return {"y": b.add(x, _dense(b, hidden, width))}


def lstm(b: Builder) -> dict[str, Value]:
    """A recurrent layer over a batch, and a product of its last state."""
    y, h, _ = recurrent(b, "lstm", 4, b.input("x", "f32", (6, "batch", 7)), 9)
    return {"y": y, "scores": _dense(b, b.reshape(h, shape=(y.shape[2], 9)), 3)}


def control_flow(b: Builder) -> dict[str, Value]:
    """A loop that carries a state and keeps each step's, and a branch on its result."""
    x = b.input("x", "f32", ("n",))
    body = Builder("body", b)
    body.input("iteration", "i64", ())
    goes_on, state = body.input("goes_on", "bool", ()), body.input("state", "f32", x.shape)
    new = body.tanh(body.add(body.mul(state, 0.5), x))
    graph = body.finish([goes_on, new, body.mul(new, 2.0)])
    scan = TensorType(x.dtype, (3, *x.shape))
    start, true = b.constant(np.asarray(3)), b.constant(np.asarray(True))
    state, steps = b.loop(start, true, x, body=graph, types=(x.type, scan))
    arms = {}
    for name, function in (("then", "exp"), ("otherwise", "neg")):
        arm = Builder(name, b)
        arms[name] = arm.finish([arm.emit(function, state)])
    total = b.reduce(x, function="add", axes=(0,), keepdims=False)
    return {"state": state, "steps": steps, "branch": b.emit("if", b.gt(total, 0.0), types=(x.type,), **arms)}


def found_at_run_time(b: Builder) -> dict[str, Value]:
    """Sizes that only the run can tell: the places of positive elements, and what stands there."""
    x = b.input("x", "f32", ("n", 5))
    places = b.nonzero(b.gt(x, 0.0), defines=("found",))
    found = symbol("found")
    at = b.transpose(places, permutation=(1, 0))
    picked = b.gather_nd(b.mul(x, 3.0), at, batch_dims=0)
    total = b.reduce(b.exp(picked), function="add", axes=(0,), keepdims=False)
    return {"picked": b.reshape(picked, shape=(found, 1)), "total": total}


MODELS = (
    SmallModel("cnn", cnn, ({"batch": 2}, {"batch": 1}, {"batch": 0}, {"batch": 3})),
    SmallModel(
        "transformer",
        transformer,
        ({"batch": 2, "tokens": 7}, {"batch": 1, "tokens": 1}, {"batch": 1, "tokens": 33}),
    ),
    SmallModel("lstm", lstm, ({"batch": 3}, {"batch": 1})),
    SmallModel("control_flow", control_flow, ({"n": 5}, {"n": 1}, {"n": 0}, {"n": 18})),
    SmallModel("found_at_run_time", found_at_run_time, ({"n": 4}, {"n": 0}, {"n": 9})),
)
