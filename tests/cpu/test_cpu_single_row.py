"""Products of a single row with an operand in memory: right for any size, dtype and number of threads."""

from __future__ import annotations

import numpy as np
import pytest

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.stages import lower, prepare

TOLERANCE = {"f64": 1e-12, "f32": 1e-4, "f16": 4e-3, "bf16": 3e-2, "i32": 0, "i64": 0}
SIZES = [(1, 1), (3, 5), (4, 64), (37, 129), (130, 1024), (64, 1025), (9, 3000), (0, 7), (5, 0)]


def row_graph(depth, columns, dtype="f32", left=(1,), right=()):
    b = Builder()
    x, w = b.input("x", dtype, [*left, depth]), b.input("w", dtype, [*right, depth, columns])
    return b.finish({"y": b.matmul(x, w)})


def noise(graph, sizes=None, seed=0):
    rng = np.random.default_rng(seed)
    sizes = sizes or {}
    made = {}
    for value in graph.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d)] for d in value.shape]
        made[value.name] = (rng.standard_normal(shape) * 3).astype(value.dtype.numpy)
    return made


def agree(graph, inputs, dtype="f32"):
    got, want = tallow.compile(graph, threads=2).run(inputs)["y"], tallow.evaluate(graph, inputs)["y"]
    assert got.shape == want.shape and got.dtype == want.dtype
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(got.astype("f8"), want.astype("f8"), rtol=tolerance, atol=tolerance)


def entries(graph):
    backend = plugins.backend("cpu")
    target = backend.target()
    return [s.entry for s in lower(prepare(graph, backend, target), backend, target).program.steps]


@pytest.mark.parametrize("depth,columns", SIZES)
def test_sizes(depth, columns):
    graph = row_graph(depth, columns)
    agree(graph, noise(graph))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes(dtype):
    graph = row_graph(19, 70, dtype)
    agree(graph, noise(graph), dtype)


def test_symbolic_sizes():
    graph = row_graph("k", "n", left=("b", 1), right=("b",))
    for sizes in ({"b": 1, "k": 5, "n": 600}, {"b": 3, "k": 64, "n": 33}, {"b": 2, "k": 0, "n": 4}):
        agree(graph, noise(graph, sizes))


@pytest.mark.parametrize("left,right", [((3, 1), (3,)), ((3, 1), (1,)), ((1, 1), (3,)), ((2, 3, 1), (3,))])
def test_leading_axes_broadcast(left, right):
    graph = row_graph(20, 90, left=left, right=right)
    assert entries(graph)[0].startswith("row")
    agree(graph, noise(graph))


def test_what_follows_is_part_of_the_kernel():
    b = Builder()
    x, w, c = b.input("x", "f32", [1, 40]), b.input("w", "f32", [40, 200]), b.input("c", "f32", [200])
    graph = b.finish({"y": b.relu(b.add(b.matmul(x, w), c))})
    assert len(entries(graph)) == 1
    agree(graph, noise(graph))


def test_several_rows_take_the_register_tile():
    assert entries(row_graph(20, 90, left=(2,)))[0].startswith("matmul")


def test_numbers_that_are_not_finite_reach_their_columns_only():
    graph = row_graph(30, 100)
    inputs = noise(graph)
    inputs["w"][3, 5], inputs["w"][29, 99], inputs["w"][0, 64] = np.nan, np.inf, -np.inf
    agree(graph, inputs)


def test_results_are_the_same_bits_for_any_number_of_threads():
    graph = row_graph(300, 5000)
    inputs = noise(graph)
    results = {tallow.compile(graph, threads=t).run(inputs)["y"].tobytes() for t in (1, 2, 4)}
    assert len(results) == 1
