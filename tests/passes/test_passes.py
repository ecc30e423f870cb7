"""Each pass keeps the meaning of a graph and does what its law says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.dtype import f32
from tallow.graph import Graph
from tallow.passes.clean import merge_equal, remove_dead
from tallow.passes.decompose import decompose
from tallow.passes.fold import fold_constants
from tallow.passes.pipeline import COMMON
from tallow.passes.recognise import recognise
from tallow.passes.rewrite import rewrite
from tallow.passes.simplify import simplify
from tallow.verify import verify


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes if n.op != "constant"]


def start(*shape):
    b = Builder()
    return b, b.input("x", "f32", shape or ("n", 4, 6))


def same(before: Graph, after: Graph, shape=(2, 4, 6)):
    verify(after)
    inputs = {v.name: np.random.default_rng(0).normal(size=shape).astype("f4") for v in before.inputs}
    want, got = tallow.evaluate(before, inputs), tallow.evaluate(after, inputs)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


def test_dead_nodes_go():
    b, x = start()
    b.exp(x)
    graph = b.finish({"y": b.neg(x)})
    assert ops(remove_dead(graph)) == ["neg"]


def test_equal_nodes_are_one():
    b, x = start()
    graph = b.finish({"y": b.add(b.exp(x), b.exp(x))})
    after = merge_equal(graph)
    assert ops(after) == ["exp", "add"]
    same(graph, after)


def test_random_nodes_are_never_merged():
    b = Builder()
    spec = {"shape": (3,), "dtype": f32, "seed": None, "low": 0.0, "high": 1.0}
    graph = b.finish([b.random_uniform(**spec), b.random_uniform(**spec)])
    assert ops(merge_equal(graph)) == ["random_uniform"] * 2


def test_constants_fold():
    b, x = start()
    two = b.exp(b.constant(np.zeros(6, "f4")))
    graph = b.finish({"y": b.mul(x, b.add(two, two))})
    after = remove_dead(fold_constants(graph))
    assert ops(after) == ["mul"]
    same(graph, after)


def test_large_broadcasts_are_not_folded():
    b = Builder()
    y = b.broadcast(b.scalar(1.0, "f32"), shape=(1000, 1000))
    assert ops(fold_constants(b.finish([y]))) == ["broadcast"]


WEIGHT = np.arange(30, dtype="f4").reshape(6, 5)
BIAS = np.arange(5, dtype="f4")
LAWS = {
    "reshape of reshape": (
        lambda b, x: b.reshape(b.reshape(x, shape=(x.shape[0], 24)), shape=(x.shape[0], 6, 4)),
        ["reshape"],
    ),
    "reshape to the same": (lambda b, x: b.neg(b.reshape(x, shape=x.shape)), ["neg"]),
    "transpose there and back": (
        lambda b, x: b.neg(b.transpose(b.transpose(x, permutation=(0, 2, 1)), permutation=(0, 2, 1))),
        ["neg"],
    ),
    "times one, plus zero": (lambda b, x: b.neg(b.add(b.mul(x, 1.0), 0.0)), ["neg"]),
    "plus zeros": (lambda b, x: b.neg(b.add(b.constant(np.zeros((4, 1), "f4")), x)), ["neg"]),
    "plus what is not all zeros stays": (
        lambda b, x: b.add(x, b.constant(np.eye(4, 6, dtype="f4"))),
        ["add"],
    ),
    "rows arranged anew around a product": (
        lambda b, x: b.reshape(
            b.add(b.matmul(b.reshape(x, shape=(x.shape[0] * 4, 6)), WEIGHT), BIAS), shape=(*x.shape[:2], 5)
        ),
        ["matmul", "add"],
    ),
    "columns arranged anew around a product stay": (
        lambda b, x: b.reshape(b.matmul(x, WEIGHT), shape=(x.shape[0], 5, 4)),
        ["matmul", "reshape"],
    ),
    "division by a power of two": (lambda b, x: b.div(x, 4.0), ["mul"]),
    "division by three stays": (lambda b, x: b.div(x, 3.0), ["div"]),
    "slice of all": (
        lambda b, x: b.neg(b.slice(x, starts=(0, 0, 0), steps=(1, 1, 1), shape=x.shape)),
        ["neg"],
    ),
    "cast to the same": (lambda b, x: b.neg(b.cast(x, dtype=x.dtype)), ["neg"]),
    "concat of one": (lambda b, x: b.neg(b.concat(x, axis=0)), ["neg"]),
}


@pytest.mark.parametrize("law", LAWS)
def test_laws(law):
    make, left = LAWS[law]
    b, x = start()
    graph = b.finish({"y": make(b, x)})
    after = remove_dead(simplify(graph))
    assert ops(after) == left
    same(graph, after)


def test_batch_normalisation_goes_into_the_convolution(rng):
    b, x = start("n", 3, 8)
    spec = {"strides": (1,), "pads": ((0, 0),), "dilations": (1,), "groups": 1}
    w = b.constant(rng.standard_normal((5, 3, 3)).astype("f4"))
    padded = b.pad(x, before=(0, 0, 1), after=(0, 0, 1), mode="constant")
    y = b.add(b.conv(padded, w, **spec), b.constant(rng.standard_normal((5, 1)).astype("f4")))
    y = b.mul(y, b.constant(rng.uniform(0.5, 2, (5, 1)).astype("f4")))
    y = b.add(y, b.constant(rng.standard_normal((5, 1)).astype("f4")))
    graph = b.finish({"y": y})
    after = graph
    for each in COMMON:
        after = verify(each(after))
    assert ops(after) == ["conv", "add"]
    same(graph, after, (2, 3, 8))


@pytest.mark.parametrize(
    "composite", ["softmax", "log_softmax", "layer_norm", "rms_norm", "gelu", "silu", "relu"]
)
def test_decompositions_mean_the_same(composite):
    b, x = start()
    attributes = {"softmax": {"axis": 1}, "log_softmax": {"axis": 2}, "gelu": {"approximate": "none"}}.get(
        composite, {}
    )
    if composite.endswith("norm"):
        attributes = {"axis": 1, "epsilon": 1e-5}
    y = b.mul(x, b.sigmoid(x)) if composite == "silu" else b.emit(composite, x, **attributes)
    graph = b.finish({"y": y})
    after = decompose(graph)
    assert composite not in ops(after)
    same(graph, after)


def test_the_backends_passes_keep_graphs_valid(rng):
    b, x = start(1, 6, 9, 9)
    spec = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}
    y = b.relu(b.conv(x, b.constant(rng.standard_normal((8, 6, 3, 3)).astype("f4")), groups=1, **spec))
    y = b.add(b.conv(y, b.constant(rng.standard_normal((8, 1, 3, 3)).astype("f4")), groups=8, **spec), y)
    y = b.pool(y, function="max", kernel=(2, 2), strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1))
    graph = after = b.finish({"y": y})
    backend = plugins.backend("cpu")
    for each in COMMON:
        after = verify(each(after))
    after = verify(decompose(after))
    for each in backend.passes:
        after = verify(each(after, backend.target()))
    assert ops(remove_dead(fold_constants(after))).count("transpose") <= 2
    same(graph, after, (1, 6, 9, 9))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rank=st.integers(1, 3), dtype=st.sampled_from(["f4", "i1", "f2"]))
def test_maxima_of_windows_are_found_axis_by_axis(data, rank, dtype):
    def each(low, high):
        return data.draw(st.tuples(*[st.integers(low, high)] * rank))

    window = {"kernel": each(1, 9), "strides": each(1, 2), "dilations": each(1, 2)}
    pads = tuple(zip(each(0, 3), each(0, 3), strict=True))
    sizes = [
        data.draw(st.integers(max(1, (k - 1) * d + 1 - sum(p)), 20))
        for k, d, p in zip(window["kernel"], window["dilations"], pads, strict=True)
    ]
    x = np.random.default_rng(rank).normal(size=(2, 1, *sizes)) * 9
    x = np.where((np.abs(x) < 0.5) & (dtype != "i1"), np.nan, x).astype(dtype)
    b = Builder()
    name = {"f4": "f32", "i1": "i8", "f2": "f16"}[dtype]
    y = b.pool(b.input("x", name, x.shape), function="max", pads=pads, **window)
    graph = b.finish({"y": y})
    after = verify(simplify(graph))
    by_axes = sum(k * int(np.prod(window["strides"][:i])) for i, k in enumerate(window["kernel"]))
    if 2 * by_axes < np.prod(window["kernel"]):
        moving = [
            k > 1 or s > 1 or any(p)
            for k, s, p in zip(window["kernel"], window["strides"], pads, strict=True)
        ]
        assert ops(after) == ["pool"] * sum(moving)
    else:
        assert ops(after) == ["pool"]
    want, got = (tallow.evaluate(g, {"x": x})["y"] for g in (graph, after))
    np.testing.assert_array_equal(got, want)


def test_sums_of_windows_are_left_as_they_are():
    b, x = start(1, 2, 12, 12)
    window = {"kernel": (9, 9), "strides": (1, 1), "dilations": (1, 1), "pads": ((4, 4), (4, 4))}
    assert ops(simplify(b.finish({"y": b.pool(x, function="add", **window)}))) == ["pool"]


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (4, 4), (6, 2)])
@pytest.mark.parametrize(
    "pads,extra,dilations,groups",
    [
        (((0, 0), (0, 0)), (0, 0), (1, 1), 1),
        (((1, 0), (0, 1)), (0, 1), (1, 1), 2),
        (((0, 1), (1, 1)), (1, 0), (2, 1), 1),
    ],
)
def test_transposed_convolution_is_interleaved_convolutions(
    rng, strides, kernel, pads, extra, dilations, groups
):
    b, x = start("n", 4, 5, 6)
    w = b.constant(rng.standard_normal((4, 3, *kernel)).astype("f4"))
    spec = {
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "groups": groups,
        "output_padding": extra,
    }
    graph = b.finish({"y": b.conv_transpose(x, w, **spec)})
    if any(d <= 0 for d in graph.outputs[0].shape[2:]):
        return
    after = decompose(graph)
    assert "conv_transpose" not in ops(after)
    same(graph, after, (2, 4, 5, 6))


@pytest.mark.parametrize("order", range(4))
def test_gelu_is_recognised(order):
    b, x = start()
    inner = b.add(b.erf(b.div(x, 2**0.5) if order % 2 else b.mul(x, 0.5**0.5)), 1.0)
    y = b.mul(b.mul(x, inner), 0.5) if order < 2 else b.mul(b.mul(0.5 * np.ones((), "f4"), x), inner)
    graph = b.finish({"y": y})
    after = remove_dead(recognise(graph))
    assert ops(after) == ["gelu"]
    same(graph, after)


def test_what_only_looks_like_gelu_is_left_alone():
    b, x = start()
    graph = b.finish({"y": b.mul(b.mul(x, b.add(b.erf(b.div(x, 1.5)), 1.0)), 0.5)})
    assert "gelu" not in ops(recognise(graph))


def test_layer_norm_is_recognised():
    b, x = start()

    def mean(v):
        return b.div(b.reduce(v, function="add", axes=(2,), keepdims=True), 6.0)

    d = b.sub(x, mean(x))
    graph = b.finish({"y": b.div(d, b.sqrt(b.add(mean(b.mul(d, d)), 1e-5)))})
    after = remove_dead(recognise(graph))
    assert ops(after) == ["layer_norm"]
    same(graph, after)


def test_a_sum_of_scalars_may_be_reshaped():
    b = Builder()
    x, y = b.input("x", "f32", []), b.input("y", "f32", [])
    graph = b.finish({"z": b.reshape(b.add(x, y), shape=(1,))})
    inputs = {"x": np.array(1.0, "f4"), "y": np.array(2.0, "f4")}
    assert tallow.evaluate(simplify(graph), inputs)["z"].tolist() == [3.0]


def test_a_rule_that_gives_up_leaves_nothing_behind():
    b = Builder()
    x = b.input("x", "f32", [2])
    graph = b.finish({"y": b.exp(x)})

    def rule(builder, node):
        builder.add(node.inputs[0], 1.0)
        return None

    assert rewrite(graph, rule) is graph
