"""Maxima of windows with their places: compiled ones agree with evaluate and with onnxruntime."""

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

CASES = [
    # (spatial, kernel, strides, pads, dilations)
    ((9,), (3,), (1,), ((0, 0),), (1,)),
    ((7, 40), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((6, 5), (3, 2), (1, 3), ((1, 2), (0, 1)), (2, 1)),
    ((5, 4, 19), (2, 3, 3), (1, 2, 1), ((1, 0), (1, 1), (1, 2)), (1, 1, 2)),
]


def made(case, shape, column_major=False, dtype="f32"):
    _, kernel, strides, pads, dilations = case
    b = Builder()
    x = b.input("x", dtype, list(shape))
    spec = {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    y = b.max_pool_with_index(x, **spec, column_major=column_major)
    return b.finish(dict(zip(("values", "places"), y, strict=True)))


def agree(graph, x, device="cpu"):
    executable = tallow.compile(graph, device)
    assert not [s.label for s in executable.plan.steps if s.place == "host"], str(executable.plan)
    got, want = executable.run({"x": x}), tallow.evaluate(graph, {"x": x})
    for name, expected in want.items():
        assert got[name].dtype == expected.dtype
        np.testing.assert_array_equal(got[name], expected)


def picture(shape, dtype="f32", seed=0):
    """Numbers of which many are equal."""
    low = 0 if dtype.startswith("u") else -9
    return np.random.default_rng(seed).integers(low, 9, shape).astype(DTYPES[dtype].numpy)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("column_major", [False, True])
def test_windows(case, column_major):
    for lead in ((1, 1), (2, 3), (0, 2)):
        agree(made(case, ("n", lead[1], *case[0]), column_major), picture((*lead, *case[0])))


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i8", "u8"])
def test_other_dtypes(dtype):
    agree(made(CASES[2], (2, 3, 6, 5), dtype=dtype), picture((2, 3, 6, 5), dtype))


def test_nan_and_infinity():
    x = picture((1, 1, 7, 40))
    x[0, 0, ::3, ::5], x[0, 0, 1, 7:15] = np.nan, -np.inf
    agree(made(CASES[1], x.shape), x)


@pytest.mark.parametrize("order", [0, 1])
def test_onnxruntime_agrees(order, save_onnx, rng):
    x = rng.normal(size=(2, 3, 11, 12)).astype("f4")
    spec = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "storage_order": order}
    node = helper.make_node("MaxPool", ["x"], ["v", "i"], **spec)
    ports = [("x", "FLOAT", list(x.shape))], [("v", "FLOAT", None), ("i", "INT64", None)]
    path = save_onnx([node], *ports, ir_version=8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for got, want in zip(
        tallow.compile(path).run({"x": x}).values(), session.run(None, {"x": x}), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_pooling_and_back(save_onnx, rng):
    x = rng.normal(size=(1, 2, 8, 10)).astype("f4")
    spec = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["v", "i"], **spec),
        helper.make_node("MaxUnpool", ["v", "i"], ["y"], **spec),
    ]
    path = save_onnx(nodes, [("x", "FLOAT", list(x.shape))], [("y", "FLOAT", None)], ir_version=8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    executable = tallow.compile(path)
    assert not [s.label for s in executable.plan.steps if s.place == "host"], str(executable.plan)
    np.testing.assert_array_equal(executable.run({"x": x})["y"], session.run(None, {"x": x})[0])


def test_the_common_lowering_on_the_interpreter():
    agree(made(CASES[2], (1, 2, 6, 5)), picture((1, 2, 6, 5)), "fake")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_windows(draw):
    rank = draw.draw(st.integers(1, 2))

    def each(low, high):
        return tuple(draw.draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilations = each(1, 3), each(1, 2)
    pads = tuple((draw.draw(st.integers(0, k - 1)), draw.draw(st.integers(0, k - 1))) for k in kernel)
    case = (each(5, 40), kernel, each(1, 3), pads, dilations)
    graph = made(case, (2, 2, *case[0]), draw.draw(st.booleans()))
    agree(graph, picture((2, 2, *case[0]), seed=draw.draw(st.integers(0, 5))))
