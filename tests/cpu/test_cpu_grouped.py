"""Convolutions in groups of few channels against their numpy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_support import spans
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cpu_contractions import ARCHES, TARGET, conv_graph, run_guarded

import tallow
from tallow.dtype import f32, f64
from tallow_cpu.lowerings.grouped import block_of
from tallow_cpu.passes.channels_last import convert_windows


@st.composite
def grouped(draw):
    """Groups whose results fill vectors together, exactly or with a narrower one."""
    axes = draw(st.integers(1, 3))
    n = draw(st.sampled_from([1, 2, 4, 8]))
    each = draw(st.integers(1, 2 * n))
    groups = draw(st.sampled_from([4, 12, 16, 20, 72]))
    kernel = [draw(st.integers(1, 4)) for _ in range(axes)]
    sizes, spec = draw(spans(kernel, longest=30))
    shape = (draw(st.integers(0, 2)), *sizes, groups * each)
    spec["groups"] = groups
    return shape, (groups * n, each, *kernel), spec


@settings(max_examples=60, deadline=None)
@given(grouped(), st.booleans(), st.sampled_from(ARCHES), st.integers(0, 1 << 30))
def test_any_convolution(case, known, device, seed):
    """Sizes known at compile time and only at the run; also the meaning of cpu.grouped itself."""
    shape, weights, spec = case
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (shape, weights))
    dims = shape if known else ("batch", *(f"size{a}" for a in range(len(shape) - 2)), shape[-1])
    graph = conv_graph(x, w, dims, **spec)
    got, want = run_guarded(graph, {"x": x}, device, 2)
    meant = tallow.evaluate(convert_windows(graph, TARGET), {"x": x})["y"]
    depth, term = np.prod(weights[1:]), np.abs(x).max(initial=0) * np.abs(w).max()
    for result in (got, meant):
        bound = 2 * float(np.finfo(np.float32).eps) * max(depth, 16) ** 0.5 * max(term, 1)
        assert np.abs(result.astype("f8") - want).max(initial=0) <= bound


def operators(channels, each, groups):
    w = np.ones((channels, each, 3, 3), np.float32)
    spec = {"strides": (1, 1), "dilations": (1, 1), "pads": ((1, 1), (1, 1)), "groups": groups}
    graph = conv_graph(np.ones((1, 5, 5, each * groups), np.float32), w, **spec)
    return {n.op for n in convert_windows(graph, TARGET).nodes}


def test_what_goes_this_way():
    assert "cpu.grouped" in operators(128, 4, 32)
    assert "cpu.grouped" in operators(64, 1, 32)
    assert "cpu.depthwise" in operators(64, 1, 64)
    assert "cpu.conv" in operators(64, 32, 2)
    assert "cpu.conv" in operators(9, 3, 3)


@pytest.mark.parametrize(
    "channels, groups, each, taps, dtype, block",
    [
        (64, 16, 4, 3, f32, 16),
        (64, 16, 4, 3, f64, 8),
        (40, 20, 2, 3, f32, 8),
        (12, 6, 2, 3, f32, 4),
        (64, 4, 16, 3, f32, 0),  # a vector for each group
        (64, 16, 4, 17, f32, 0),  # too many products
        (30, 10, 3, 3, f32, 0),  # no whole groups in a vector
        (32, 16, 5, 3, f32, 0),  # data of more than two vectors
    ],
)
def test_vectors_of_whole_groups(channels, groups, each, taps, dtype, block):
    target = tallow.plugins.backend("cpu").target("x86-64-v4")
    assert block_of(channels, groups, each, taps, dtype, target) == block


@pytest.mark.parametrize("dtype, tolerance", [("f8", 1e-13), ("f2", 2e-3), ("i4", 0)])
@pytest.mark.parametrize("device", ARCHES)
def test_dtypes(device, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-8, 9, s) for s in ((1, 6, 30, 32), (32, 2, 3, 3)))
    x, w = ((a if dtype == "i4" else a / 8).astype(dtype) for a in (x, w))
    spec = {"strides": (1, 1), "dilations": (1, 1), "pads": ((1, 0), (2, 2)), "groups": 16}
    got, want = run_guarded(conv_graph(x, w, **spec), {"x": x}, device)
    assert np.abs(got.astype("f8") - want).max() <= tolerance * np.abs(want.astype("f8")).max()


def test_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 21, 23, 64), np.float32), rng.standard_normal((64, 4, 3, 3), np.float32)
    spec = {"strides": (1, 1), "dilations": (1, 1), "pads": ((1, 1), (1, 1)), "groups": 16}
    results = [run_guarded(conv_graph(x, w, **spec), {"x": x}, threads=threads)[0] for threads in (1, 2, 4)]
    assert len({got.tobytes() for got in results}) == 1


def test_what_is_not_finite_stays_in_its_group():
    x = np.ones((1, 9, 9, 32), np.float32)
    x[0, 4, 4, 6], x[0, 2, 7, 21] = np.nan, np.inf
    w = np.ones((32, 4, 3, 3), np.float32)
    spec = {"strides": (1, 1), "dilations": (1, 1), "pads": ((1, 1), (1, 1)), "groups": 8}
    got, want = run_guarded(conv_graph(x, w, **spec), {"x": x})
    np.testing.assert_array_equal(got, want)
