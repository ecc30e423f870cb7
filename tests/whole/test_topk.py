"""topk: compiled lines agree with evaluate and with onnxruntime, equal elements in their order."""

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
from tallow.errors import GraphError

SHAPES = [((9,), 0), ((4, 50), 1), ((4, 300), 1), ((2, 100), 1), ((700, 3), 0), ((3, 40, 2), 1), ((2, 1), 1)]


def made(shape, axis, k, largest=True, dtype="f32"):
    b = Builder()
    x = b.input("x", dtype, list(shape))
    return b.finish(
        dict(zip(("values", "places"), b.topk(x, axis=axis, k=k, largest=largest, sorted=True), strict=True))
    )


def lines(shape, dtype="f32", seed=0):
    """Numbers of which many are equal."""
    low = 0 if dtype.startswith("u") else -9
    return np.random.default_rng(seed).integers(low, 9, shape).astype(DTYPES[dtype].numpy)


def agree(graph, x, device="cpu"):
    executable = tallow.compile(graph, device)
    assert not [s.label for s in executable.plan.steps if s.place == "host"], str(executable.plan)
    got, want = executable.run({"x": x}), tallow.evaluate(graph, {"x": x})
    for name, expected in want.items():
        assert got[name].dtype == expected.dtype
        np.testing.assert_array_equal(got[name], expected)


@pytest.mark.parametrize("shape,axis", SHAPES)
@pytest.mark.parametrize("largest", [True, False])
def test_lines(shape, axis, largest):
    for k in {0, 1, min(5, shape[axis]), shape[axis] // 5, shape[axis]}:
        agree(made(shape, axis, k, largest), lines(shape))


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i32", "i64", "i8", "u8"])
def test_other_dtypes(dtype):
    for k in (3, 40):
        agree(made((2, 50), 1, k, True, dtype), lines((2, 50), dtype))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("k", [1, 6, 9, 13, 40])
def test_nan_infinity_and_signed_zeros(largest, k):
    x = lines((3, 40))
    x = np.tile(x, (1, 3))
    x[0, ::3], x[1, ::4], x[1, 1::4], x[2] = np.nan, np.inf, -np.inf, np.where(np.arange(120) % 2, 0.0, -0.0)
    agree(made((3, 120), 1, k, largest), x)


@pytest.mark.parametrize("k", [3, "n"])
def test_open_sizes(k):
    b = Builder()
    x = b.input("x", "f32", ["m", "n"])
    y = b.topk(x, axis=1, k=x.shape[1] if k == "n" else k, largest=True, sorted=True)
    graph = b.finish(dict(zip(("values", "places"), y, strict=True)))
    for shape in ((2, 3), (1, 200), (0, 5), (5, 64), (3, 65)):
        agree(graph, lines(shape))


@pytest.mark.parametrize("k", [4, 37])
@pytest.mark.parametrize("largest", [1, 0])
def test_onnxruntime_agrees(k, largest, save_onnx, rng):
    x = rng.normal(size=(6, 50)).astype("f4")
    node = helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=1, largest=largest)
    ports = [("x", "FLOAT", [6, 50])], [("v", "FLOAT", None), ("i", "INT64", None)]
    path = save_onnx([node], *ports, {"k": np.array([k])}, ir_version=8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for got, want in zip(
        tallow.compile(path).run({"x": x}).values(), session.run(None, {"x": x}), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("k", [3, 15, 35])
def test_threads_do_not_change_bits(k):
    graph, x = made((300, 60), 1, k), lines((300, 60))
    runs = [tallow.compile(graph, threads=t).run({"x": x}) for t in (1, 2, 4)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run["places"], runs[0]["places"])


def test_the_common_lowering_on_the_interpreter():
    for k in (2, 13, 60):
        agree(made((2, 61), 1, k), lines((2, 61)), "fake")


def test_more_than_there_are_is_refused():
    with pytest.raises(GraphError, match=r"topk: expected k in 0..9 for axis 0 of f32\[9\], got 10"):
        made((9,), 0, 10)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_lines(draw):
    shape = tuple(draw.draw(st.lists(st.integers(1, 200), min_size=1, max_size=2)))
    axis = draw.draw(st.integers(0, len(shape) - 1))
    k = draw.draw(st.integers(0, shape[axis]))
    agree(made(shape, axis, k, draw.draw(st.booleans())), lines(shape, seed=draw.draw(st.integers(0, 9))))
