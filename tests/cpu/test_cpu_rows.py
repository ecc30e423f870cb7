"""Softmax and log_softmax on the CPU: every length of row, what is fused to them, and odd numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow.builder import Builder
from tallow.graph import Graph
from tallow_cpu.lowerings.softmax import BLOCK, LONG, SCRATCH

OPERATORS = ["softmax", "log_softmax"]


def graph(op: str, shape, dtype: str = "f32", before=(), after=()) -> Graph:
    b = Builder(op)
    y = b.input("x", dtype, shape)
    for name in before:
        y = b.emit(name, y, 0.5)
    y = b.emit(op, y, axis=len(shape) - 1)
    for name in after:
        y = b.emit(name, y)
    return b.finish({"y": y})


def numbers(shape, seed: int = 0, scale: float = 4) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def reference(op: str, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    with np.errstate(all="ignore"):
        below = x - x.max(-1, keepdims=True)
        e = np.exp(below)
        total = e.sum(-1, keepdims=True)
        return e / total if op == "softmax" else below - np.log(total)


def check(op: str, x: np.ndarray, run: tallow.Executable) -> None:
    """The difference to the maximum is rounded: an exponential is off by so much, and 2.5e-7 itself."""
    got, want = run(x), reference(op, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    spread = np.ptp(x[np.isfinite(x)]) if np.isfinite(x).any() else 0
    atol = 2e-6 if op == "log_softmax" else 1e-37
    np.testing.assert_allclose(got, want, rtol=1e-6 + 6e-8 * min(spread, 90), atol=atol)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 16, 17, 31, 64, 100, 128, 129, 300, 1000])
def test_each_length(op, rows, length):
    check(op, numbers((rows, length)), tallow.compile(graph(op, (rows, length))))


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("length", [LONG, LONG + 1, 5 * BLOCK - 1, 7 * BLOCK, 50257])
def test_long_rows(op, length):
    x = numbers((3, length))
    x[0].sort()  # each block has a larger maximum than all before
    x[1] = -np.sort(-x[1])
    check(op, x, tallow.compile(graph(op, x.shape), threads=2))


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("length", [40, 700, LONG + 50])
def test_numbers_that_are_not_finite(op, length):
    x = numbers((9, length))
    x[0, : length // 2] = -np.inf
    x[1, length // 2 :] = -np.inf
    x[2] = -np.inf
    x[3, length // 3] = np.inf
    x[4, length - 1] = np.nan
    x[5, 0] = np.nan
    x[6], x[7] = -3e38, 3e38
    x[8, 0] = 3e38
    with np.errstate(over="ignore"):
        check(op, x, tallow.compile(graph(op, x.shape)))


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("sizes", [(3, 5), (4, 128), (1, 3000), (0, 7)])
def test_sizes_known_at_the_run(op, sizes):
    for shape in (["n", "k"], ["n", sizes[1]]):
        check(op, numbers(sizes), tallow.compile(graph(op, shape)))
    bounded = tallow.compile(graph(op, ["n", "k"]), dims={"k": (1, 3 * LONG)})
    check(op, numbers(sizes), bounded)
    check(op, numbers((2, 2 * LONG + 5)), bounded)


@pytest.mark.parametrize("op", OPERATORS)
def test_rows_without_elements(op):
    for shape in ((3, 0), (0, 0)):
        assert tallow.compile(graph(op, shape))(np.empty(shape, np.float32)).shape == shape


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("length", [24, 500, LONG + 3, SCRATCH + 1])
@pytest.mark.parametrize("before, after", [(["mul", "add"], []), ([], ["neg", "abs"]), (["mul"], ["neg"])])
def test_what_is_fused(op, length, before, after):
    g = graph(op, (5, length), before=before, after=after)
    x = numbers((5, length), 3)
    run = tallow.compile(g)
    np.testing.assert_allclose(run(x), tallow.evaluate(g, {"x": x})["y"], rtol=4e-6, atol=2e-6)
    if not (after and length > SCRATCH):
        assert len(run.plan.steps) == 1


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("dtype, tolerance", [("f16", 2e-3), ("bf16", 2e-2), ("f64", 1e-12)])
@pytest.mark.parametrize("length", [10, 200, LONG + 1])
def test_other_dtypes(op, dtype, tolerance, length):
    g = graph(op, (3, length), dtype)
    x = numbers((3, length)).astype(g.inputs[0].dtype.numpy)
    got = tallow.compile(g)(x)
    assert got.dtype == x.dtype
    want = reference(op, x.astype(np.float64))
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=tolerance, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(OPERATORS),
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(1, 200),
    st.integers(0, 1000),
)
def test_any_shape_and_any_number_of_threads(op, lead, length, seed):
    x = numbers((*lead, length), seed, 30)
    g = graph(op, x.shape)
    check(op, x, tallow.compile(g, threads=1))
    np.testing.assert_array_equal(tallow.compile(g, threads=1)(x), tallow.compile(g, threads=2)(x))


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("arch", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("length", [30, 300, LONG + 30])
def test_other_instruction_sets(op, arch, length):
    try:
        run = tallow.compile(graph(op, (4, length)), f"cpu:{arch}")
    except tallow.ArtifactError as lacks:
        pytest.skip(str(lacks))
    check(op, numbers((4, length)), run)
