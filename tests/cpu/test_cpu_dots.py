"""Contractions of few columns, whose vectors lie along the sum, against their numpy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_support import spans
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cpu_contractions import ARCHES, conv_graph, run_guarded

from tallow.builder import Builder
from tallow.choices import Candidate
from tallow_cpu.passes import channels_last, pack


@pytest.fixture(scope="module", autouse=True)
def dots():
    """Everything that may go by dot products does."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (channels_last, pack):
            patch.setattr(module, "dot_widths", lambda n, taps, run, target: [Candidate(1, 0)])
        yield


def agrees(got: np.ndarray, want: np.ndarray, depth: int, term: float) -> None:
    """Sums may cancel, their rounding errors do not: these are relative to the largest product, `term`."""
    bound = 2 * float(np.finfo(got.dtype).eps) * max(depth, 16) * max(term, 1)
    assert np.abs(got.astype("f8") - want).max(initial=0) <= bound


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    each = draw(st.sampled_from([1, 2, 5, 16, 35, 70]))
    columns = draw(st.integers(1, 8))
    kernel = [draw(st.integers(1, 4)) for _ in range(axes - 1)] + [draw(st.integers(1, 40))]
    sizes, spec = draw(spans(kernel, longest=150))
    shape = (draw(st.integers(0, 2)), *sizes, groups * each)
    spec["groups"] = groups
    return shape, (groups * columns, each, *kernel), spec


@settings(max_examples=80, deadline=None)
@given(convolutions(), st.booleans(), st.sampled_from(ARCHES), st.integers(0, 1 << 30))
def test_any_convolution(case, known, device, seed):
    """Sizes known at compile time and only at the run; rows at the ends of lines, whole runs and their rests."""
    shape, weights, spec = case
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (shape, weights))
    dims = shape if known else ("batch", *(f"size{a}" for a in range(len(shape) - 2)), shape[-1])
    graph = conv_graph(x, w, dims, **spec)
    depth = int(np.prod(weights[1:]))
    term = np.abs(x).max(initial=0) * np.abs(w).max() * depth**-0.5
    agrees(*run_guarded(graph, {"x": x}, device, 2), depth, term)


@pytest.mark.parametrize("dtype, tolerance", [("f8", 1e-13), ("f2", 2e-3), ("i4", 0)])
@pytest.mark.parametrize("device", ARCHES)
def test_dtypes(device, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-8, 9, s) for s in ((1, 6, 30, 9), (3, 9, 2, 5)))
    x, w = ((a if dtype == "i4" else a / 8).astype(dtype) for a in (x, w))
    spec = {"strides": (1, 1), "dilations": (1, 1), "pads": ((1, 0), (2, 2)), "groups": 1}
    got, want = run_guarded(conv_graph(x, w, **spec), {"x": x}, device)
    assert np.abs(got.astype("f8") - want).max() <= tolerance * np.abs(want.astype("f8")).max()


@pytest.mark.parametrize("device", ARCHES)
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 65, 200])
@pytest.mark.parametrize("depth, n", [(1, 1), (17, 1), (64, 3), (130, 2), (33, 8)])
def test_products(device, rows, depth, n):
    rng = np.random.default_rng(rows)
    x, w = rng.standard_normal((2, rows, depth), np.float32), rng.standard_normal((depth, n), np.float32)
    for dims in (x.shape, ("batch", "rows", depth)):
        b = Builder("g")
        y = b.add(b.matmul(b.input("x", "f32", dims), b.constant(w)), b.constant(np.ones(n, np.float32)))
        agrees(*run_guarded(b.finish({"y": b.tanh(y)}), {"x": x}, device), depth, 1)


def test_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 40, 300, 8), np.float32), rng.standard_normal((1, 8, 5, 5), np.float32)
    spec = {"strides": (1, 1), "dilations": (1, 1), "pads": ((2, 2), (2, 2)), "groups": 1}
    results = [run_guarded(conv_graph(x, w, **spec), {"x": x}, threads=threads)[0] for threads in (1, 2, 4)]
    assert len({got.tobytes() for got in results}) == 1


def test_what_is_not_finite_stays_inside_its_windows():
    x = np.ones((1, 9, 60, 5), np.float32)
    x[0, 4, 20, 1], x[0, 2, 40, 4] = np.nan, np.inf
    w = np.ones((2, 5, 3, 3), np.float32)
    for pads in (((0, 0), (0, 0)), ((1, 1), (1, 1))):
        spec = {"strides": (1, 1), "dilations": (1, 1), "pads": pads, "groups": 1}
        got, want = run_guarded(conv_graph(x, w, **spec), {"x": x})
        np.testing.assert_array_equal(got, want)
