"""Reductions, softmax, norms, pools and plain element-wise work on work-groups against their numpy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from test_workgroup_products import numbers
from workgroup_support import TARGETS, Pocl, agree

from tallow.builder import Builder

INTERPRETED = ["small", "narrow"]
TOLERANCE = {"f64": 1e-13, "f32": 3e-6, "f16": 2e-3, "bf16": 2e-2}


def both(graph, inputs, tolerance, target: str, pocl, interpret: bool = True) -> None:
    """Through PoCL, and in the interpreter where the target is small enough."""
    if interpret and target in INTERPRETED:
        agree(graph, inputs, tolerance, TARGETS[target])
    agree(graph, inputs, tolerance, TARGETS[target], Pocl(pocl, TARGETS[target]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_reductions(axes, target, pocl):
    g = Builder()
    x = g.input("x", "f32", ["a", 5, "c"])
    ys = {}
    for function in ("add", "max", "min", "mul"):
        y = g.reduce(g.mul(x, 0.5), function=function, axes=axes, keepdims=function == "max")
        ys[function] = g.exp(g.neg(g.abs(y)))
    graph = g.finish(ys)
    for shape in ((3, 5, 70), (1, 5, 1), (0, 5, 4)):
        both(graph, {"x": numbers(shape)}, 3e-6, target, pocl, shape[2] < 70)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "dtype, functions", [("i32", "add mul max min"), ("bool", "or and"), ("f16", "add max")]
)
def test_reductions_of_other_dtypes(dtype, functions, target, pocl):
    g = Builder()
    x = g.input("x", dtype, [3, 37])
    ys = {f: g.reduce(x, function=f, axes=(1,), keepdims=False) for f in functions.split()}
    data = numbers((3, 37)) > 0.5 if dtype == "bool" else numbers((3, 37), dtype)
    both(g.finish(ys), {"x": data}, 2e-3 if dtype == "f16" else 0, target, pocl)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_places_of_extremes(op, last, target, pocl):
    """Ties go to the first or last; NaN counts as best."""
    g = Builder()
    x = g.input("x", "f32", ["n", 33, 4])
    ys = {f"y{axis}": g.emit(op, x, axis=axis, keepdims=False, last=last) for axis in (1, 2)}
    data = np.random.default_rng(0).integers(0, 4, (3, 33, 4)).astype("f4")
    data[1, 20, 2] = data[1, 25, 2] = np.nan
    both(g.finish(ys), {"x": data}, 0, target, pocl)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [1, 2])
def test_softmax(op, axis, target, pocl):
    g = Builder()
    x = g.input("x", "f32", ["n", 5, "c"])
    graph = g.finish({"y": g.emit(op, g.mul(x, 3.0), axis=axis), "z": g.mul(g.emit(op, x, axis=axis), 2.0)})
    for shape in ((2, 5, 45), (1, 5, 1), (0, 5, 3)):
        both(graph, {"x": numbers(shape)}, 3e-6, target, pocl)
    special = numbers((2, 5, 45))
    special[0, 1, 3], special[1, 2, 44], special[1, 3] = np.nan, np.inf, -np.inf
    both(graph, {"x": special}, 3e-6, target, pocl, False)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_norms(dtype, target, pocl):
    for op, shape, axis, operands in (
        ("layer_norm", (3, 4, 37), 2, 2),
        ("layer_norm", (2, 3, 10), 1, 1),
        ("rms_norm", (7, 100), 1, 1),
        ("rms_norm", (5, 1), 1, 0),
    ):
        g = Builder()
        x = g.input("x", dtype, shape)
        rest = [g.constant(numbers(shape[axis:], dtype, n + 1)) for n in range(operands)]
        y = g.emit(op, x, *rest, axis=axis, epsilon=1e-3)
        both(g.finish({"y": g.relu(y)}), {"x": numbers(shape, dtype)}, TOLERANCE[dtype], target, pocl)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("function", ["max", "add"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pools(rank, function, target, pocl):
    g = Builder()
    x = g.input("x", "f32", ["n", 3, *(f"s{i}" for i in range(rank))])
    spec = {
        "kernel": (3, 2, 1),
        "strides": (2, 1, 1),
        "dilations": (1, 2, 1),
        "pads": ((1, 1), (1, 0), (0, 0)),
    }
    spec = {key: value[:rank] for key, value in spec.items()}
    graph = g.finish({"y": g.relu(g.pool(x, function=function, **spec))})
    data = numbers((2, 3, 7, 6, 2)[: rank + 2])
    data[0, 0, 2] = np.nan
    both(graph, {"x": data}, 3e-6, target, pocl)


@pytest.mark.parametrize("target", TARGETS)
def test_elements_and_concatenations(target, pocl):
    g = Builder()
    x, y = g.input("x", "f32", ["n", 6]), g.input("y", "f32", [1, 6])
    joined = g.concat(g.add(x, y), g.tanh(x), axis=1)
    turned = g.transpose(joined, permutation=(1, 0))
    picked = g.gather(x, g.constant(np.array([5, 0, 3])), axis=1)
    graph = g.finish({"joined": joined, "turned": g.exp(turned), "picked": g.mul(picked, y.shape[0] * 2.0)})
    for n in (0, 1, 9):
        both(graph, {"x": numbers((n, 6)), "y": numbers((1, 6), seed=1)}, 3e-6, target, pocl)


@pytest.mark.parametrize("target", ["large", "vectors"])
def test_long_lines(target, pocl):
    g = Builder()
    x = g.input("x", "f32", [3, 5000])
    ys = {"sum": g.reduce(x, function="add", axes=(1,), keepdims=False), "soft": g.softmax(x, axis=1)}
    ys["place"] = g.argmax(x, axis=1, keepdims=False, last=False)
    both(g.finish(ys), {"x": numbers((3, 5000))}, 3e-5, target, pocl)
