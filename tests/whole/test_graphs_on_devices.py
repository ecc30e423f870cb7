"""Compiled graphs agree with evaluate: operators, fusion, symbolic and zero sizes, random graphs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow.builder import Builder
from tallow.dtype import DTYPES

TOLERANCE = {"f64": 1e-12, "f32": 2e-5, "f16": 4e-3, "bf16": 3e-2}


def agree(graph, inputs, device, tolerance=2e-5):
    got, want = tallow.compile(graph, device).run(inputs), tallow.evaluate(graph, inputs)
    for name, expected in want.items():
        assert got[name].dtype == expected.dtype and got[name].shape == expected.shape
        a, b = got[name].astype("f8"), np.asarray(expected).astype("f8")
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    return got


def one(shape, dtype="f32", seed=0):
    values = np.random.default_rng(seed).normal(size=shape) * 3
    return values.astype(DTYPES[dtype].numpy)


@pytest.mark.parametrize(
    "m,k,n",
    [(1, 1, 1), (1, 300, 65), (3, 17, 5), (64, 64, 64), (37, 129, 33), (15, 0, 7), (0, 4, 4), (130, 40, 200)],
)
@pytest.mark.parametrize("constant", [True, False])
def test_products(device, m, k, n, constant):
    b = Builder()
    x = b.input("x", "f32", ["m", k])
    w = b.constant(one((k, n), seed=1)) if constant else b.input("w", "f32", [k, n])
    y = b.relu(b.add(b.matmul(x, w), b.constant(one((n,), seed=2))))
    inputs = {"x": one((m, k))} | ({} if constant else {"w": one((k, n), seed=1)})
    agree(b.finish({"y": y}), inputs, device, 1e-4)


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 3), min_size=2, max_size=5), keep=st.lists(st.booleans(), min_size=5))
def test_broadcasts_of_every_pattern(device, shape, keep):
    """Axes of one element beside others, present or not, never change what is read."""
    b = Builder()
    small = [d if k else 1 for d, k in zip(shape, keep, strict=False)]
    while small and small[0] == 1 and keep[-1]:
        small = small[1:]
    x, y = b.input("x", "f32", shape), b.input("y", "f32", small)
    agree(b.finish({"z": b.sub(x, y)}), {"x": one(shape), "y": one(small, seed=1)}, device, 0)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i32"])
def test_products_of_other_dtypes(device, dtype):
    b = Builder()
    x = b.input("x", dtype, [5, 19])
    y = b.matmul(x, b.constant(one((19, 21), dtype, 1)))
    agree(b.finish({"y": y}), {"x": one((5, 19), dtype)}, device, TOLERANCE.get(dtype, 0))


CONVOLUTIONS = [
    # (channels, results, kernel, strides, pads, dilations, groups, spatial)
    (3, 16, (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1, (19, 22)),
    (16, 40, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, (9, 7)),
    (8, 12, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, (5, 5)),
    (8, 12, (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1, (7, 6)),
    (20, 20, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 20, (8, 9)),
    (18, 18, (5, 5), (2, 2), ((2, 1), (0, 2)), (2, 2), 18, (17, 16)),
    (12, 18, (3, 3), (1, 1), ((0, 1), (2, 0)), (1, 1), 3, (8, 8)),
    (5, 7, (3,), (2,), ((1, 1),), (1,), 1, (23,)),
    (4, 6, (3, 2, 2), (1, 2, 1), ((1, 0), (0, 1), (1, 1)), (1, 1, 2), 2, (5, 6, 7)),
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(device, case):
    c, m, kernel, strides, pads, dilations, groups, spatial = case
    b = Builder()
    x = b.input("x", "f32", ["n", c, *spatial])
    w = b.constant(one((m, c // groups, *kernel), seed=1) / 5)
    y = b.conv(x, w, strides=strides, pads=pads, dilations=dilations, groups=groups)
    y = b.relu(b.add(y, b.constant(one((m, *[1] * len(spatial)), seed=2))))
    for batch in (1, 2):
        agree(b.finish({"y": y}), {"x": one((batch, c, *spatial))}, device, 1e-4)


def test_residual_blocks_keep_their_meaning_under_channels_last(device):
    b = Builder()
    x = b.input("x", "f32", [1, 8, "h", "w"])
    spec = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
    y = b.relu(b.conv(x, b.constant(one((8, 8, 3, 3), seed=1) / 9), **spec))
    y = b.add(b.conv(y, b.constant(one((8, 8, 3, 3), seed=2) / 9), **spec), x)
    pooled = b.pool(y, function="max", kernel=(3, 3), strides=(2, 2), pads=((1, 1), (1, 1)), dilations=(1, 1))
    joined = b.concat(y, y, axis=1)
    mean = b.reduce(joined, function="add", axes=(2, 3), keepdims=False)
    graph = b.finish({"pooled": pooled, "mean": mean})
    for size in ((5, 6), (12, 1), (1, 1)):
        agree(graph, {"x": one((1, 8, *size))}, device, 1e-4)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("function", ["add", "max", "min", "mul"])
def test_reductions(device, axes, function):
    b = Builder()
    x = b.input("x", "f32", ["a", 5, "c"])
    y = b.exp(b.neg(b.abs(b.reduce(b.mul(x, 0.5), function=function, axes=axes, keepdims=False))))
    for shape in ((3, 5, 70), (1, 5, 1), (0, 5, 4)):
        agree(b.finish({"y": y}), {"x": one(shape)}, device, 1e-4)


@pytest.mark.parametrize(
    "composite", ["softmax", "log_softmax", "layer_norm", "attention", "gelu", "cumulative", "argmax"]
)
def test_composites(device, composite):
    b = Builder()
    x = b.input("x", "f32", ["n", 4, 6, 9])
    match composite:
        case "softmax" | "log_softmax":
            y = b.emit(composite, x, axis=3)
        case "layer_norm":
            y = b.layer_norm(
                x, b.constant(one((9,), seed=1)), b.constant(one((9,), seed=2)), axis=3, epsilon=1e-5
            )
        case "attention":
            y = b.attention(x, x, x, scale=0.3, causal=True)
        case "gelu":
            y = b.add(b.gelu(x, approximate="none"), b.gelu(x, approximate="tanh"))
        case "cumulative":
            y = b.cumulative(x, axis=2, function="add", exclusive=True, reverse=True)
        case "argmax":
            y = b.argmax(x, axis=1, keepdims=True, last=False)
    for batch in (1, 3):
        agree(b.finish({"y": y}), {"x": one((batch, 4, 6, 9))}, device, 1e-4)


def test_sizes_that_only_the_run_can_tell(device):
    b = Builder()
    x = b.input("x", "f32", ["n"])
    where = b.nonzero(b.gt(x, 0), defines=("found",))
    picked = b.gather(x, b.reshape(where, shape=(where.shape[1],)), axis=0)
    graph = b.finish({"y": b.mul(picked, 2.0)})
    for values in ([1.0, -2.0, 3.0], [-1.0], []):
        agree(graph, {"x": np.array(values, "f4")}, device)


def test_threads_do_not_change_bits():
    b = Builder()
    x = b.input("x", "f32", [200, 300])
    y = b.softmax(b.matmul(x, b.constant(one((300, 257), seed=1))), axis=1)
    graph, data = b.finish({"y": y}), one((200, 300))
    one_thread, two, four = (tallow.compile(graph, threads=t)(data) for t in (1, 2, 4))
    np.testing.assert_array_equal(one_thread, two)
    np.testing.assert_array_equal(one_thread, four)


UNARY = ["neg", "abs", "exp", "tanh", "sigmoid", "floor", "erf", "relu", "sin"]
BINARY = ["add", "sub", "mul", "max", "min"]


@st.composite
def random_graphs(draw):
    """Element-wise and movement operators over a few inputs, with broadcasting and odd sizes."""
    b = Builder()
    rows, columns = draw(st.sampled_from([(1, 1), (3, 5), (0, 4), (17, 33), (2, 64)]))
    values = [b.input("x", "f32", ["r", columns]), b.input("y", "f32", [1, columns])]
    for _ in range(draw(st.integers(1, 8))):
        x = draw(st.sampled_from(values))
        kind = draw(
            st.sampled_from(["unary", "binary", "transpose", "slice", "pad", "concat", "reduce", "reshape"])
        )
        if kind == "unary":
            op = draw(st.sampled_from(UNARY))
            y = b.emit(
                op, draw(st.sampled_from(values[:2])) if op == "floor" else x
            )  # rounded values may jump
        elif kind == "binary":
            other = draw(
                st.sampled_from([v for v in values if v.shape == x.shape or v.type.size == 1] or [x])
            )
            y = b.emit(draw(st.sampled_from(BINARY)), x, other)
        elif kind == "transpose":
            y = b.transpose(b.transpose(b.tanh(x), permutation=(1, 0)), permutation=(1, 0))
        elif kind == "slice":
            y = b.slice(x, starts=(0, 0), steps=(1, 1), shape=x.shape)
        elif kind == "pad":
            y = b.pad(x, before=(1, 0), after=(0, 2), mode="constant")
        elif kind == "concat":
            y = b.concat(x, b.neg(x), axis=draw(st.integers(0, 1)))
        elif kind == "reduce":
            y = b.reduce(b.tanh(x), function="add", axes=(draw(st.integers(0, 1)),), keepdims=True)
        else:
            y = b.reshape(b.reshape(x, shape=(x.shape[0] * x.shape[1],)), shape=x.shape)
        values.append(y)
    outputs = {
        f"o{i}": v for i, v in enumerate(draw(st.lists(st.sampled_from(values), min_size=1, max_size=3)))
    }
    return b.finish(outputs), rows, columns


@settings(max_examples=60, deadline=None)
@given(random_graphs(), st.integers(0, 5))
def test_random_graphs(device, made, seed):
    graph, rows, columns = made
    inputs = {"x": one((rows, columns), seed=seed), "y": one((1, columns), seed=seed + 1)}
    agree(graph, inputs, device, 1e-3)
