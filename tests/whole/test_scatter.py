"""Scatters: compiled ones agree with evaluate and with onnxruntime, whatever meets."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import tallow
from tallow.builder import Builder
from tallow.dtype import DTYPES

REDUCTIONS = ["none", "add", "mul", "max", "min"]
TOLERANCE = {"f16": 1e-2, "bf16": 8e-2, "f32": 1e-5, "f64": 1e-12}


def data(shape, dtype, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 3).astype(DTYPES[dtype].numpy)


def places(shape, extent, seed=1):
    """Indices of which many are equal and half count from the end."""
    return np.random.default_rng(seed).integers(-extent, max(extent, 1), shape)


def agree(graph, feed, device="cpu"):
    executable = tallow.compile(graph, device)
    assert not [s.label for s in executable.plan.steps if s.place == "host"], str(executable.plan)
    (got,), (want,) = executable.run(feed).values(), tallow.evaluate(graph, feed).values()
    assert got.shape == want.shape and got.dtype == want.dtype
    tolerance = TOLERANCE.get(str(graph.outputs[0].dtype), 0)
    np.testing.assert_allclose(got.astype("f8"), want.astype("f8"), tolerance, tolerance)


def elements(shape, index_shape, axis, reduction, dtype="f32", index="i64"):
    b = Builder()
    x = b.input("x", dtype, list(shape))
    i, u = b.input("i", index, list(index_shape)), b.input("u", dtype, list(index_shape))
    return b.finish({"y": b.scatter_elements(x, i, u, axis=axis, reduction=reduction)})


def feed_elements(shape, index_shape, axis, dtype="f32", index="i64"):
    at = places(index_shape, shape[axis]).astype(DTYPES[index].numpy)
    return {"x": data(shape, dtype), "i": at, "u": data(index_shape, dtype, 2)}


SHAPES = [
    ((7,), (5,), 0),
    ((5, 9), (5, 9), 0),
    ((5, 300), (3, 290), 0),
    ((40, 6), (40, 11), 1),
    ((3, 4, 5), (2, 9, 4), 1),
    ((3, 4, 5), (3, 4, 1), 2),
    ((4, 3), (0, 3), 0),
    ((1, 1), (6, 1), 0),
    ((3, 0), (2, 0), 0),
    ((0, 3), (0, 3), 0),
]


@pytest.mark.parametrize("shape,index_shape,axis", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_elements(shape, index_shape, axis, reduction):
    agree(elements(shape, index_shape, axis, reduction), feed_elements(shape, index_shape, axis))


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i32", "i64", "u8", "i8"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_elements_of_other_dtypes(dtype, reduction):
    case = ((5, 40), (4, 37), 0)
    agree(elements(*case, reduction, dtype, "i32"), feed_elements(*case, dtype, "i32"))


def test_elements_of_bool():
    case = ((5, 40), (4, 37), 0)
    agree(elements(*case, "none", "bool"), feed_elements(*case, "bool"))


def test_sums_of_bool_run_on_the_host_and_say_why():
    case = ((5, 40), (4, 37), 0)
    graph, feed = elements(*case, "max", "bool"), feed_elements(*case, "bool")
    executable = tallow.compile(graph)
    assert [s.reason for s in executable.plan.steps] == ["no sums and products of bool in kernels"]
    np.testing.assert_array_equal(executable.run(feed)["y"], tallow.evaluate(graph, feed)["y"])


def test_elements_of_open_sizes():
    graph = elements(("a", "b"), ("c", "b"), 0, "add")
    for a, b, c in ((4, 70, 9), (1, 1, 1), (3, 0, 2), (3, 5, 0)):
        agree(graph, feed_elements((a, b), (c, b), 0))


ND = [
    # (data, indices, reduction)
    ((6,), (4, 1)),
    ((5, 8), (3, 1)),
    ((5, 8), (3, 2)),
    ((4, 3, 70), (2, 3, 1)),
    ((4, 3, 70), (5, 2)),
    ((4, 3, 2), (7, 3)),
    ((4, 3), (0, 1)),
]


def tuples(shape, index_shape, reduction):
    b = Builder()
    x, i = b.input("x", "f32", list(shape)), b.input("i", "i64", list(index_shape))
    u = b.input("u", "f32", [*index_shape[:-1], *shape[index_shape[-1] :]])
    return b.finish({"y": b.scatter_nd(x, i, u, reduction=reduction)})


def feed_tuples(shape, index_shape):
    parts = [places(index_shape[:-1], shape[k], k) for k in range(index_shape[-1])]
    updates = data((*index_shape[:-1], *shape[index_shape[-1] :]), "f32", 2)
    return {"x": data(shape, "f32"), "i": np.stack(parts, -1), "u": updates}


@pytest.mark.parametrize("shape,index_shape", ND)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_tuples(shape, index_shape, reduction):
    agree(tuples(shape, index_shape, reduction), feed_tuples(shape, index_shape))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_onnxruntime_agrees(reduction, save_onnx):
    feeds = {"ScatterElements": feed_elements((5, 9), (6, 9), 0), "ScatterND": feed_tuples((5, 8), (6, 2))}
    for kind, feed in feeds.items():
        spec = {"axis": 0} if kind == "ScatterElements" else {}
        node = helper.make_node(kind, ["x", "i", "u"], ["y"], reduction=reduction, **spec)
        kinds = {"x": "FLOAT", "i": "INT64", "u": "FLOAT"}
        ports = [(n, kinds[n], list(a.shape)) for n, a in feed.items()]
        path = save_onnx([node], ports, [("y", "FLOAT", list(feed["x"].shape))], opset=18, ir_version=8)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (got,) = tallow.compile(path).run(feed).values()
        np.testing.assert_allclose(got, session.run(None, feed)[0], 1e-6, 1e-6)


def test_what_feeds_a_scatter_is_part_of_it():
    b = Builder()
    x, u = b.input("x", "f32", ["n", 40]), b.input("u", "f32", ["m", 40])
    at = b.broadcast(b.reshape(b.input("i", "i64", ["m"]), shape=(u.shape[0], 1)), shape=u.shape)
    y = b.scatter_elements(b.mul(x, 2.0), at, b.neg(u), axis=0, reduction="add")
    graph = b.finish({"y": b.tanh(y)})
    feed = {"x": data((3, 40), "f32"), "u": data((9, 40), "f32", 1), "i": places((9,), 3)}
    agree(graph, feed)
    assert len(tallow.compile(graph).plan.steps) == 3  # copy, updates, tanh


def test_indices_outside_are_not_written():
    feed = {"x": data((4, 20), "f32"), "i": np.array([[5], [-5], [1], [1 << 40]]).repeat(20, 1)}
    feed["u"] = data((4, 20), "f32", 1)
    got = tallow.compile(elements((4, 20), (4, 20), 0, "none")).run(feed)["y"]
    want = feed["x"].copy()
    want[1] = feed["u"][2]
    np.testing.assert_array_equal(got, want)


def test_infinity_and_nan():
    feed = feed_elements((3, 20), (8, 20), 0)
    feed["u"][2], feed["u"][5, :7] = np.nan, -np.inf
    for reduction in REDUCTIONS:
        agree(elements((3, 20), (8, 20), 0, reduction), feed)


def test_threads_do_not_change_bits():
    feed = feed_elements((50, 2000), (200, 2000), 0)
    graph = elements((50, 2000), (200, 2000), 0, "add")
    one, two, four = (tallow.compile(graph, threads=t)(*feed.values()) for t in (1, 2, 4))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, four)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_common_lowering_on_the_interpreter(reduction):
    agree(elements((3, 5), (4, 5), 0, reduction), feed_elements((3, 5), (4, 5), 0), "fake")
    agree(tuples((4, 3, 2), (2, 3, 1), reduction), feed_tuples((4, 3, 2), (2, 3, 1)), "fake")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_scatters(draw):
    sizes = st.integers(1, 20)
    shape = tuple(draw.draw(st.lists(sizes, min_size=1, max_size=3)))
    axis = draw.draw(st.integers(0, len(shape) - 1))
    index_shape = tuple(draw.draw(st.integers(0, 30 if a == axis else d)) for a, d in enumerate(shape))
    reduction = draw.draw(st.sampled_from(REDUCTIONS))
    agree(elements(shape, index_shape, axis, reduction), feed_elements(shape, index_shape, axis))
    depth = draw.draw(st.integers(1, len(shape)))
    tuple_shape = (*draw.draw(st.lists(st.integers(0, 4), max_size=2)), depth)
    agree(tuples(shape, tuple_shape, reduction), feed_tuples(shape, tuple_shape))
