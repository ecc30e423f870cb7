"""Products, convolutions and attention on matrix units and folds among neighbours, with the host for a GPU."""

from __future__ import annotations

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.compile import open_compiled
from tallow.compiler import compile_graph
from tallow.dtype import dtype as dtype_of

EPSILON = {"f16": 2e-3, "bf16": 2e-2, "f32": 1e-3}  # f32: operands are rounded to 11 bits


def numbers(shape, dtype: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype_of(dtype).numpy)


def agree(graph, inputs, tolerance: float, target: str = "cuda:sm_80+tf32") -> None:
    want = tallow.evaluate(graph, inputs)
    got = open_compiled(compile_graph(graph, target)).run(inputs)
    for name, expected in want.items():
        expected = expected.astype("f8")
        scale = max(np.abs(expected).max(initial=0), 1e-3)
        np.testing.assert_allclose(got[name].astype("f8"), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize(
    "a, b, sizes",
    [
        ((40, 24), (24, 48), ()),
        ((2, 33, 50), (2, 50, 19), ()),
        (("b", "m", 64), (64, 72), (3, 45)),
        (("m", "k"), ("k", "n"), (70, 21)),
        ((128, 32), (32, 136), ()),
    ],
    ids=str,
)
def test_products(device, dtype, a, b, sizes):
    g = Builder()
    x, y = g.input("x", dtype, a), g.input("y", dtype, b)
    z = g.matmul(x, y)
    z = g.relu(g.add(z, g.input("bias", dtype, z.shape[-1:])))
    graph = g.finish({"z": g.add(z, g.input("residual", dtype, z.shape))})
    known = {"b": 2, "m": 37, "k": 41, "n": 29}
    a, b = (tuple(known.get(d, d) for d in s) for s in (a, b))
    shapes = {"x": a, "y": b, "bias": b[-1:], "residual": (*a[:-1], b[-1])}
    inputs = {n: numbers(s, dtype, i) for i, (n, s) in enumerate(shapes.items())}
    agree(graph, inputs, EPSILON[dtype])


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize(
    "channels, results, kernel, strides, groups, constant",
    [(16, 32, 3, 1, 1, True), (20, 36, 3, 2, 2, True), (9, 17, 2, 1, 1, False)],
)
def test_convolutions(device, dtype, channels, results, kernel, strides, groups, constant):
    g = Builder()
    x = g.input("x", dtype, ["n", channels, 9, "w"])
    shape = (results, channels // groups, kernel, kernel)
    w = g.constant(numbers(shape, dtype, 1)) if constant else g.input("w", dtype, shape)
    spec = {"strides": (strides,) * 2, "pads": ((1, 1), (0, 1)), "dilations": (1, 1)}
    y = g.conv(x, w, groups=groups, **spec)
    graph = g.finish({"y": g.relu(g.add(y, g.constant(numbers((results, 1, 1), dtype, 2))))})
    inputs = {"x": numbers((2, channels, 9, 11), dtype, 0)}
    agree(graph, inputs if constant else {**inputs, "w": numbers(shape, dtype, 1)}, EPSILON[dtype])


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize(
    "batch, heads, groups, queries, keys, depth, width, options",
    [
        (2, 2, 2, 33, 41, 64, 64, {}),
        (1, 4, 2, 70, 70, 32, 32, {"causal": True}),
        (1, 2, 2, 9, 150, 12, 20, {"safe": True, "softcap": 3.0}),
        (1, 1, 1, 20, 40, 128, 128, {}),
    ],
    ids=str,
)
def test_attention(device, dtype, batch, heads, groups, queries, keys, depth, width, options):
    """Operands as projections lie in memory, tokens before heads."""
    g = Builder()
    shapes = {
        "q": (batch, queries, heads, depth),
        "k": (batch, keys, groups, depth),
        "v": (batch, keys, groups, width),
    }
    symbolic = {"q": "queries", "k": "keys", "v": "keys"}
    operands = [
        g.transpose(g.input(n, dtype, (s[0], symbolic[n], *s[2:])), permutation=(0, 2, 1, 3))
        for n, s in shapes.items()
    ]
    y = g.attention(*operands, **{"scale": depth**-0.5, "causal": False, **options})
    inputs = {n: numbers(s, dtype, i) for i, (n, s) in enumerate(shapes.items())}
    agree(g.finish({"y": g.transpose(y, permutation=(0, 2, 1, 3))}), inputs, 2 * EPSILON[dtype])


@pytest.mark.parametrize("length", [1, 40, 130, 1000])
def test_folds(device, length):
    """Parts of a sub-group, all of one, and several."""
    g = Builder()
    x = g.input("x", "f32", ["n", length])
    ys = {f: g.reduce(x, function=f, axes=(1,), keepdims=False) for f in ("add", "max")}
    ys["place"] = g.argmax(x, axis=1, keepdims=False, last=False)
    ys["softmax"] = g.softmax(x, axis=1)
    ys["norm"] = g.layer_norm(x, g.constant(numbers((length,), "f32", 1)), axis=1, epsilon=1e-3)
    agree(g.finish(ys), {"x": numbers((5, length), "f32", 0)}, 3e-6)
