"""Lines on devices whose neighbouring threads exchange values, against their numpy meaning, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_workgroup_products import numbers
from test_workgroup_rows import TOLERANCE
from workgroup_support import agree, kernels_of

from tallow.builder import Builder
from tallow.kernel.build import walk_stmts
from tallow.kernel.grammar import Alloc, Barrier, Exchange
from tallow.target import Target


def of_neighbours(group: int, subgroup: int) -> Target:
    return Target(
        "groups", "warps", (), 0, {"group": group, "shared": 4096, "units": 1, "subgroup": subgroup}
    )


TARGETS = {
    "one sub-group": of_neighbours(8, 8),
    "several": of_neighbours(16, 4),
    "whole lines": of_neighbours(64, 32),
}
PAIRS = of_neighbours(16, 2)  # 16 threads of a line are more pairs than two exchanges put together


def statements(graph, target: Target) -> list:
    return [s for kernel in kernels_of(graph, target).values() for s in walk_stmts(kernel.body)]


def sum_of(*shape) -> object:
    g = Builder()
    x = g.input("x", "f32", shape)
    return g.finish({"y": g.reduce(x, function="add", axes=(len(shape) - 1,), keepdims=False)})


def test_one_sub_group_needs_no_memory():
    found = statements(sum_of(5, "n"), TARGETS["one sub-group"])
    assert sum(isinstance(s, Exchange) for s in found) == 3  # 8 threads
    assert not any(isinstance(s, Barrier) for s in found)
    assert not any(isinstance(s, Alloc) and s.buffer.space == "shared" for s in found)


def test_several_sub_groups_meet_once():
    found = statements(sum_of(5, "n"), TARGETS["several"])
    assert sum(isinstance(s, Exchange) for s in found) == 4  # 4 threads, and then what 4 sub-groups have
    assert sum(isinstance(s, Barrier) for s in found) == 2
    assert [s.buffer.size for s in found if isinstance(s, Alloc) and s.buffer.space == "shared"] == [4]


def test_sub_groups_too_small_for_a_line_meet_in_memory():
    found = statements(sum_of(5, "n"), PAIRS)
    assert not any(isinstance(s, Exchange) for s in found)
    agree(sum_of(5, "n"), {"x": numbers((5, 70))}, 3e-6, PAIRS)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(TARGETS)),
    st.sampled_from(["add", "max", "min", "mul"]),
    st.tuples(st.integers(0, 4), st.integers(0, 70)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_reductions(target, function, shape, symbolic, special, seed):
    if not shape[1] and function in ("max", "min"):
        shape = shape[0], 1
    g = Builder()
    x = g.input("x", "f32", ["a", "b"] if symbolic else shape)
    graph = g.finish({"y": g.reduce(x, function=function, axes=(1,), keepdims=False)})
    data = np.clip(numbers(shape, seed=seed), 0.5, 1.5)
    if special and data.size:
        data.ravel()[seed % data.size] = [np.nan, np.inf, -np.inf][seed % 3]
    agree(graph, {"x": data}, 3e-5, TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "dtype, functions",
    [("i32", "add mul max min"), ("bool", "or and"), ("f16", "add max"), ("i64", "add max")],
)
def test_reductions_of_other_dtypes(dtype, functions, target):
    g = Builder()
    x = g.input("x", dtype, [3, 37])
    ys = {f: g.reduce(x, function=f, axes=(1,), keepdims=False) for f in functions.split()}
    data = numbers((3, 37)) > 0.5 if dtype == "bool" else numbers((3, 37), dtype)
    agree(g.finish(ys), {"x": data}, 2e-3 if dtype == "f16" else 0, TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_places_of_extremes(op, last, target):
    g = Builder()
    x = g.input("x", "f32", ["n", 4, 33])
    graph = g.finish({"y": g.emit(op, x, axis=2, keepdims=False, last=last)})
    data = np.random.default_rng(0).integers(0, 4, (2, 4, 33)).astype("f4")
    data[1, 2, 20] = data[1, 2, 25] = np.nan
    agree(graph, {"x": data}, 0, TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax(op, target):
    g = Builder()
    x = g.input("x", "f32", ["n", "c"])
    graph = g.finish({"y": g.emit(op, g.mul(x, 3.0), axis=1)})
    special = numbers((5, 45))
    special[0, 3], special[1, 44], special[2] = np.nan, np.inf, -np.inf
    for data in (special, numbers((5, 1)), numbers((0, 3))):
        agree(graph, {"x": data}, 3e-6, TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_norms(dtype, target):
    for op, shape, axis, operands in (("layer_norm", (3, 37), 1, 2), ("rms_norm", (5, 100), 1, 1)):
        g = Builder()
        rest = [g.constant(numbers(shape[axis:], dtype, n + 1)) for n in range(operands)]
        y = g.emit(op, g.input("x", dtype, shape), *rest, axis=axis, epsilon=1e-3)
        agree(g.finish({"y": g.relu(y)}), {"x": numbers(shape, dtype)}, TOLERANCE[dtype], TARGETS[target])
