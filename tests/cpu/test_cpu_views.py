"""Views say where elements lie; attention reads its operands through them, projections become one product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.stages import lower, prepare
from tallow.verify import verify
from tallow_cpu.passes.projections import merge_projections
from tallow_cpu.passes.views import view_of

BACKEND = plugins.backend("cpu")
TARGET = BACKEND.target()


def elements(view, array: np.ndarray) -> np.ndarray:
    """What a view shows of its base."""
    shape = [int(np.prod([size for size, _ in axis])) for axis in view.axes]
    places = np.full(shape, view.offset)
    for axis, (size, step) in enumerate(zip(shape, view.strides, strict=True)):
        places = places + np.arange(size).reshape([-1 if a == axis else 1 for a in range(len(shape))]) * step
    return array.reshape(-1)[places]


@st.composite
def movements(draw):
    """A value moved a few times at random, and its graph."""
    b = Builder()
    x = y = b.input("x", "f32", draw(st.sampled_from([(4, 6), (2, 1, 12), (3, 2, 2, 2)])))
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["transpose", "reshape", "slice", "broadcast"]))
        if kind == "transpose":
            y = b.transpose(y, permutation=tuple(draw(st.permutations(range(y.rank)))))
        elif kind == "reshape":
            size = y.type.size
            first = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
            second = draw(st.sampled_from([d for d in range(1, size // first + 1) if size // first % d == 0]))
            y = b.reshape(y, shape=(first, second, size // first // second))
        elif kind == "slice":
            starts = tuple(draw(st.integers(0, d - 1)) for d in y.shape)
            shape = tuple(draw(st.integers(1, d - s)) for d, s in zip(y.shape, starts, strict=True))
            y = b.slice(y, starts=starts, steps=(1,) * y.rank, shape=shape)
        else:
            y = b.broadcast(y, shape=(2, *(3 if d == 1 else d for d in y.shape)))
    return b.finish({"y": y}), x, y


@settings(deadline=None, max_examples=200)
@given(movements())
def test_a_view_shows_the_elements_of_the_value(case):
    graph, x, y = case
    view = view_of(y, {v: n for n in graph.nodes for v in n.outputs})
    array = np.arange(x.type.size, dtype="f4").reshape(x.shape)
    base = tallow.evaluate(Builder.finish(_copy(graph), {"base": view.base}), {"x": array})["base"]
    np.testing.assert_array_equal(elements(view, base), tallow.evaluate(graph, {"x": array})["y"])


def _copy(graph):
    b = Builder()
    b.inputs, b.nodes = list(graph.inputs), list(graph.nodes)
    return b


def test_merged_axes_that_are_split_again_are_a_view():
    b = Builder()
    x = b.input("x", "f32", ["n", "s", 12])
    n, s, _ = x.shape
    heads = b.transpose(b.reshape(x, shape=(n, s, 3, 4)), permutation=(0, 2, 1, 3))
    turned = b.transpose(b.reshape(heads, shape=(n * 3, s, 4)), permutation=(0, 2, 1))
    y = b.reshape(turned, shape=(n, 3, 4, s))
    view = view_of(y, {v: node for node in b.nodes for v in node.outputs})
    assert view.base is x
    assert view.strides == (s * 12, 4, 1, 12)


def layer(length, heads=2, size=8, same=True, biased=True):
    """Attention of x with itself (or of x with z) as exporters write it, then a projection."""
    rng = np.random.default_rng(3)
    b = Builder()
    width = heads * size
    x = b.input("x", "f32", ["n", length, width])
    z = x if same else b.input("z", "f32", ["n", length, width])

    def linear(v):
        y = b.matmul(v, b.constant(rng.standard_normal((width, width)).astype("f4") / width))
        return b.add(y, b.constant(rng.standard_normal(width).astype("f4"))) if biased else y

    def split(v, order=(0, 2, 1, 3)):
        return b.transpose(b.reshape(v, shape=(*v.shape[:2], heads, size)), permutation=order)

    q, k, v = split(linear(x)), split(linear(z), (0, 2, 3, 1)), split(linear(z))
    weights = b.softmax(b.mul(b.matmul(q, k), size**-0.5), axis=3)
    joined = b.transpose(b.matmul(weights, v), permutation=(0, 2, 1, 3))
    y = linear(b.reshape(joined, shape=(*joined.shape[:2], width)))
    return b.finish({"y": b.add(y, x)})


def labels(graph):
    scheduled = lower(prepare(graph, BACKEND, TARGET), BACKEND, TARGET)
    return [step.label for step in scheduled.program.steps]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("length", [9, "s"])
def test_a_layer_of_attention_is_three_kernels(length, biased):
    after = ["cpu.matmul", "add"] if biased else ["cpu.matmul"]
    assert labels(layer(length, biased=biased)) == [
        "+".join(after),
        "cpu.attention",
        "+".join([*after, "add"]),
    ]


def test_only_projections_of_one_value_are_merged():
    assert labels(layer("s", same=False)).count("cpu.matmul+add") == 2


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_layer_keeps_its_meaning(same, threads, rng):
    graph = layer("s", same=same)
    executable = tallow.compile(graph, threads=threads)
    for shape in ((1, 9, 16), (3, 40, 16), (2, 1, 16), (0, 4, 16), (2, 0, 16)):
        inputs = {v.name: rng.standard_normal(shape).astype("f4") for v in graph.inputs}
        got, want = executable.run(inputs)["y"], tallow.evaluate(graph, inputs)["y"]
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_merging_keeps_a_graph_valid():
    b = Builder()
    x = b.input("x", "f32", [2, 5, 8])
    w = [b.constant(np.full((8, 8), i, "f4")) for i in range(3)]
    q, k, v = (b.reshape(b.matmul(x, m), shape=(2, 1, 5, 8)) for m in w)
    y = b.attention(q, k, v, scale=1.0, causal=False)
    graph = b.finish({"y": y, "k": k})
    after = verify(merge_projections(graph, TARGET))
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 5, 8)).astype("f4")}
    for name, want in tallow.evaluate(graph, inputs).items():
        np.testing.assert_allclose(tallow.evaluate(after, inputs)[name], want, rtol=1e-5, atol=1e-5)
