"""Sizes get the bounds that a graph implies, and inputs beyond them are refused."""

from __future__ import annotations

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.dim import minimum
from tallow.errors import InputError
from tallow.graph import Graph, type_symbols
from tallow.passes.bounds import bound_sizes
from tallow.verify import verify


def with_positions(rows: int) -> Graph:
    """x plus as many rows of a table of positions as x has."""
    b = Builder()
    x = b.input("x", "f32", ["n", "s", 3])
    table = b.constant(np.arange(rows * 3, dtype="f4").reshape(1, rows, 3))
    cut = b.slice(table, starts=(0, 0, 0), steps=(1, 1, 1), shape=(1, minimum(rows, x.shape[1]), 3))
    return b.finish({"y": b.exp(b.add(x, cut))})


def test_a_table_of_positions_bounds_the_length():
    after = verify(bound_sizes(with_positions(7)))
    length = after.inputs[0].shape[1]
    assert type_symbols(after.inputs[0].type)["s"].upper == 7
    assert after.outputs[0].shape[1] == length


def test_a_single_row_fits_any_length():
    graph = with_positions(1)
    assert bound_sizes(graph) is graph


@pytest.mark.parametrize("length", [0, 1, 6, 7])
def test_lengths_up_to_the_bound_run(length):
    graph = with_positions(7)
    x = np.ones((2, length, 3), "f4")
    got, want = tallow.compile(graph).run({"x": x}), tallow.evaluate(graph, {"x": x})
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5)


def test_a_length_beyond_the_bound_is_refused_by_name():
    executable = tallow.compile(with_positions(7))
    with pytest.raises(InputError, match=r"s = 8 is outside 0\.\.7"):
        executable.run({"x": np.ones((2, 8, 3), "f4")})
