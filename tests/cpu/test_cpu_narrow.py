"""Index rules whose last axis is a few elements against their numpy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cpu_contractions import ARCHES, run_guarded

import tallow
from tallow.builder import Builder

DTYPES = ["f32", "f64", "f16", "u8", "i16", "i64"]


def any_array(shape, dtype, seed=0):
    """Any bits for floats too, but quiet NaN alone."""
    rng = np.random.default_rng(seed)
    numbers = tallow.dtype.dtype(dtype).numpy
    if dtype[0] == "f":
        return np.where(rng.random(shape) < 0.1, np.nan, rng.standard_normal(shape) * 10).astype(numbers)
    return rng.integers(*(lambda i: (i.min, i.max))(np.iinfo(numbers)), shape, numbers, endpoint=True)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.sampled_from(ARCHES),
    st.tuples(st.integers(0, 3), st.integers(2, 9), st.sampled_from([1, 5]), st.integers(0, 200)),
    st.booleans(),
)
def test_channels_become_last(dtype, device, shape, known):
    b = Builder("g")
    x = b.input("x", dtype, shape if known else ("batch", shape[1], "height", "width"))
    graph = b.finish({"y": b.transpose(x, permutation=(0, 2, 3, 1))})
    got, want = run_guarded(graph, {"x": any_array(shape, dtype)}, device, 2)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("device", ARCHES)
@pytest.mark.parametrize("length", [1, 15, 16, 33, 5000])
@pytest.mark.parametrize("last", [2, 3, 4, 7, 8])
def test_arithmetic_and_booleans(device, length, last):
    """A number for each of the few last elements; rows of whole blocks, of parts, and of several pieces."""
    b = Builder("g")
    x, row = b.input("x", "f32", (last, length)), b.input("row", "f32", (last,))
    graph = b.finish({"y": b.lt(b.transpose(x, permutation=(1, 0)), row)})
    given = {"x": any_array((last, length), "f32"), "row": any_array((last,), "f32", 1)}
    got = tallow.compile(graph, device, threads=2).run(given)["y"]
    np.testing.assert_array_equal(got, tallow.evaluate(graph, given)["y"])


def test_the_same_bits_for_any_number_of_threads():
    x = any_array((2, 3, 40, 3000), "f32")
    b = Builder("g")
    turned = b.transpose(b.input("x", "f32", x.shape), permutation=(0, 2, 3, 1))
    graph = b.finish({"y": b.exp(turned)})
    results = [run_guarded(graph, {"x": x}, threads=threads)[0] for threads in (1, 2, 4)]
    assert len({got.tobytes() for got in results}) == 1
