"""Operators agree with their numpy meaning: every dtype, sizes of none, one and odd remainders, NaN, strides."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import tallow
from tallow.testing.accuracy import difference, magnitudes
from tallow.testing.case import Case, strided
from tallow.testing.guard import Guarded
from tallow.testing.kit import left_to_host


def test_operator(case: Case, dtype: str, device: str, full: bool):
    graph = case.graph(dtype)
    run = tallow.compile(graph, device)
    sizes = [*case.sizes, case.sizes[0]]
    results = [_agree(case, graph, run, s, number) for number, s in enumerate(sizes)]
    for name, first in results[0].items():
        assert first.tobytes() == results[-1][name].tobytes(), f"{name} differs when sizes come again"
    if full or case.fixed:
        empty = next((s for s in case.sizes if 0 in s.values()), {})
        for fixed in filter(None, (case.sizes[0], empty)):
            _agree(case, graph, tallow.compile(graph, device, dims=fixed), fixed, len(case.sizes) * 2)
    reasons = left_to_host(run)
    if reasons:
        pytest.skip("; ".join(reasons))


def _agree(case: Case, graph, run, sizes, number: int) -> dict[str, np.ndarray]:
    """The results, when they agree with the numpy meaning. The second sizes are tried with inputs that are not
    contiguous, the last ones with special values; all but the first write into arrays that are given."""
    turn = number % len(case.sizes)
    seed = zlib.crc32(case.name.encode()) + turn
    inputs = case.inputs(graph, sizes, seed, special=turn == len(case.sizes) - 1)
    given = {name: strided(a) if number == 1 else a.copy() for name, a in inputs.items()}
    with np.errstate(all="ignore"):
        want, sums = tallow.evaluate(graph, inputs), {}
        if case.accuracy.terms:
            large = {n: a if a.dtype.kind == "b" or n == "at" else np.abs(a) for n, a in inputs.items()}
            sums = tallow.evaluate(magnitudes(graph), large)
    guarded = {name: Guarded(np.asarray(array)) for name, array in want.items()}
    out = {name: place.array for name, place in guarded.items()}
    got = run.run(given, out=out if number else None)
    beyond = [name for name, place in guarded.items() if place.broken()]
    assert not beyond, f"{case.name} with {dict(sizes)} writes beyond {', '.join(beyond)}"
    for name, array in want.items():
        wrong = difference(got[name], np.asarray(array), case.accuracy, sums.get(name))
        assert wrong is None, f"{case.name}, {name} with {dict(sizes)}: {wrong}"
    for name, array in inputs.items():
        assert given[name].tobytes() == array.tobytes(), f"the run has changed its input {name}"
    return got
