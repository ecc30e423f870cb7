"""The step walker's control flow, step by step: each kind does what `backend.BoundFlow` says of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow.backend import BoundFlow
from tallow.builder import Builder


@pytest.fixture(scope="module")
def module():
    b = Builder()
    x = b.input("x", "f32", ["n"])
    executable = tallow.compile(b.finish({"y": b.neg(x)}), "cpu")
    return executable.device.load(executable.compiled.code)


def run(module, steps, *arrays):
    """What a run gives back and what each step did, on arrays that are bases 1, 2, ..."""
    prepared = module.prepare(steps, 2)
    return prepared.observe([0, *(a.ctypes.data for a in arrays)])


def number(value):
    return np.array(value, np.int64)


def test_jumps_and_stops(module):
    assert run(module, []) == (None, [])
    stopped, taken = run(module, [BoundFlow("jump", (), 2), BoundFlow("stop", ()), BoundFlow("stop", ())])
    assert stopped == 2
    assert [runs for _, runs in taken] == [1, 0, 0]
    assert run(module, [BoundFlow("jump", (), 1)])[0] is None


@pytest.mark.parametrize("flag, stopped", [(True, 1), (False, 2)])
def test_unless(module, flag, stopped):
    steps = [BoundFlow("unless", ((1, 3),), 2), BoundFlow("stop", ()), BoundFlow("stop", ())]
    assert run(module, steps, np.array([not flag, not flag, not flag, flag]))[0] == stopped


@pytest.mark.parametrize("trips", [-(2**62), -1, 0, 1, 7, 1000])
def test_counting(module, trips):
    count, limit, total = number(0), number([0, trips]), number(0)
    steps = [BoundFlow("until", ((1, 0), (2, 8)), 3), BoundFlow("again", ((3, 0),), 2)]
    steps += [BoundFlow("again", ((1, 0),), 0)]
    stopped, taken = run(module, steps, count, limit, total)
    assert stopped is None
    assert count == total == max(trips, 0)
    assert [runs for _, runs in taken] == [max(trips, 0) + 1, max(trips, 0), max(trips, 0)]
    assert all((seconds > 0) == (runs > 0) for seconds, runs in taken)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 200), start=st.integers(0, 40), end=st.integers(0, 40))
def test_copies_of_any_size_and_place(module, size, start, end):
    source = np.random.default_rng(size).integers(0, 256, 300).astype(np.uint8)
    target = np.full(300, 7, np.uint8)
    want = target.copy()
    want[end : end + size] = source[start : start + size]
    assert run(module, [BoundFlow("copy", ((1, start), (2, end)), size=size)], source, target)[0] is None
    np.testing.assert_array_equal(target, want)


def test_rows(module):
    """Rows beyond those that there is room for stop the run, and nothing is written there."""
    row, count, rows = np.arange(3, dtype=np.int32), number(0), np.full((5, 3), -1, np.int32)
    steps = [BoundFlow("row", ((1, 0), (2, 0), (3, 0)), size=12, rows=4), BoundFlow("again", ((2, 0),), 0)]
    stopped, taken = run(module, steps, row, count, rows)
    assert stopped == 0 and count == 4
    assert [runs for _, runs in taken] == [4, 4]
    np.testing.assert_array_equal(rows, [*[[0, 1, 2]] * 4, [-1, -1, -1]])


@pytest.mark.parametrize("count, stopped", [(3, None), (2, 0), (4, 0)])
def test_exactly(module, count, stopped):
    assert run(module, [BoundFlow("exactly", ((1, 0),), rows=3)], number(count))[0] == stopped
