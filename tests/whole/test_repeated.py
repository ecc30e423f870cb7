"""A broadcast is computed where it is read, in as many groups as read it, and never written out for several."""

from __future__ import annotations

import numpy as np
import pytest

import tallow
from tallow.builder import Builder


def two_readers(shape):
    """Rows of two tensors picked by one broadcast index, and a third reader that is a root."""
    b = Builder()
    x, y, at = b.input("x", "f32", shape), b.input("y", "f32", shape), b.input("at", "i64", ["rows"])
    column = b.reshape(b.mul(at, 2), shape=(at.shape[0], 1))
    index = b.broadcast(column, shape=(at.shape[0], shape[1]))
    return b.finish(
        {
            "a": b.neg(b.gather_elements(x, index, axis=0)),
            "b": b.exp(b.gather_elements(y, index, axis=0)),
            "c": b.reduce(index, function="add", axes=(1,), keepdims=False),
        }
    )


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_broadcast_joins_every_group_that_reads_it(rows):
    graph = two_readers([9, 33])
    run = tallow.compile(graph)
    labels = [step.label for step in run.plan.steps]
    assert sum("broadcast" in label for label in labels) == 3 and len(labels) == 4
    rng = np.random.default_rng(0)
    inputs = {n: rng.standard_normal((9, 33), np.float32) for n in "xy"}
    inputs["at"] = rng.integers(-4, 5, rows)
    want = tallow.evaluate(graph, inputs)
    for name, got in run.run(inputs).items():
        np.testing.assert_allclose(got, want[name], rtol=1e-6)


def test_a_result_is_written_all_the_same():
    b = Builder()
    x = b.input("x", "f32", [1, 4])
    wide = b.broadcast(x, shape=(3, 4))
    graph = b.finish({"wide": wide, "a": b.neg(wide), "b": b.exp(wide)})
    x = np.arange(4, dtype=np.float32)[None]
    got, want = tallow.compile(graph).run({"x": x}), tallow.evaluate(graph, {"x": x})
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)
