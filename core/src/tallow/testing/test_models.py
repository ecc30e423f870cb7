"""Whole small models agree with the numpy meaning, for sizes that come and come again."""

from __future__ import annotations

import numpy as np
import pytest

import tallow
from tallow.testing.kit import left_to_host

TOLERANCE = 1e-4  # of the largest value: float32 sums of some hundred terms, one after another


def assert_close(got: dict, want: dict, where: object) -> None:
    for name, array in want.items():
        array = np.asarray(array)
        assert got[name].dtype == array.dtype and got[name].shape == array.shape, (where, name)
        limit = TOLERANCE * max(np.abs(array).max(initial=0), 1e-3)
        np.testing.assert_allclose(got[name], array, 0, limit, err_msg=f"{where}, {name}")


def test_model(model, device: str):
    graph = model.graph()
    run = tallow.compile(graph, device)
    results = []
    for number, sizes in enumerate((*model.sizes, model.sizes[0])):
        inputs = model.inputs(sizes, number % len(model.sizes))
        results.append(run.run(inputs))
        assert_close(results[-1], tallow.evaluate(graph, inputs), f"{model.name} with {dict(sizes)}")
    for name, array in results[0].items():
        assert array.tobytes() == results[-1][name].tobytes(), f"{name} differs when sizes come again"
    reasons = left_to_host(run)
    if reasons:
        pytest.skip(f"partly: {'; '.join(reasons)}")


def test_model_of_fixed_sizes(model, device: str):
    sizes = dict(model.sizes[0])
    run, inputs = tallow.compile(model.graph(), device, dims=sizes), model.inputs(sizes)
    assert_close(run.run(inputs), tallow.evaluate(model.graph(), inputs), model.name)
