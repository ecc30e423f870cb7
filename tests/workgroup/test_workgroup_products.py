"""Products and convolutions on work-groups and on vectors against their numpy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from workgroup_support import TARGETS, Pocl, agree

from tallow import dtype as dtypes
from tallow.builder import Builder

EPSILON = {"f64": 1e-13, "f32": 2e-6, "f16": 2e-3, "bf16": 2e-2, "i32": 0, "u8": 0}
INTERPRETED = ["small", "narrow"]


def numbers(shape, dtype: str = "f32", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    carrier = dtypes.dtype(dtype).numpy
    if dtypes.dtype(dtype).is_integer:
        return rng.integers(0, 9, shape).astype(carrier)
    return rng.standard_normal(shape).astype(carrier)


def product_graph(a, b, dtype: str = "f32", turned: str = ""):
    """relu(a b + c) with operands that may come transposed."""
    g = Builder()
    x, y = g.input("a", dtype, a), g.input("b", dtype, b)
    for_a, for_b = (
        g.transpose(v, permutation=(*range(v.rank - 2), v.rank - 1, v.rank - 2)) if side in turned else v
        for v, side in ((x, "a"), (y, "b"))
    )
    z = g.matmul(for_a, for_b)
    return g.finish({"y": g.relu(g.add(z, g.input("c", dtype, z.shape[-1:])))})


PRODUCTS = [
    # shapes that are known, and the same at run time
    (("m", "k"), ("k", "n"), (5, 7), (7, 9)),
    (("m", "k"), ("k", "n"), (0, 2), (2, 3)),
    (("m", "k"), ("k", "n"), (3, 0), (0, 4)),
    ((1, 20), (20, 35), (1, 20), (20, 35)),
    ((19, 9), (9, 1), (19, 9), (9, 1)),
    ((2, 3, 4, 5), (5, 6), (2, 3, 4, 5), (5, 6)),
    (("b", 1, 3, 4), (2, 4, 18), (3, 1, 3, 4), (2, 4, 18)),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_products(case, target, pocl):
    a, b, *shapes = case
    inputs = {name: numbers(s, seed=n) for n, (name, s) in enumerate(zip("ab", shapes, strict=True))}
    inputs["c"] = numbers(shapes[1][-1:])
    if target in INTERPRETED:
        agree(product_graph(a, b), inputs, 2e-6, TARGETS[target])
    agree(product_graph(a, b), inputs, 2e-6, TARGETS[target], Pocl(pocl, TARGETS[target]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("turned", ["a", "b", "ab"])
def test_products_of_transposed_operands(turned, target, pocl):
    shapes = [(2, 13, 37), (2, 37, 70)]
    shapes = [(s[0], s[2], s[1]) if side in turned else s for side, s in zip("ab", shapes, strict=True)]
    graph = product_graph(*shapes, turned=turned)
    inputs = {"a": numbers(shapes[0]), "b": numbers(shapes[1], seed=1), "c": numbers((70,))}
    agree(graph, inputs, 2e-6, TARGETS[target], Pocl(pocl, TARGETS[target]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", EPSILON)
def test_products_of_every_dtype(dtype, target, pocl):
    inputs = {"a": numbers((9, 21), dtype), "b": numbers((21, 19), dtype, 1), "c": numbers((19,), dtype)}
    agree(
        product_graph((9, 21), (21, 19), dtype),
        inputs,
        EPSILON[dtype],
        TARGETS[target],
        Pocl(pocl, TARGETS[target]),
    )


@pytest.mark.parametrize("target", TARGETS)
def test_large_products(target, pocl):
    """Several tiles each way, pieces of the summed index with a rest."""
    inputs = {"a": numbers((150, 85)), "b": numbers((85, 290), seed=1), "c": numbers((290,))}
    agree(product_graph((150, 85), (85, 290)), inputs, 2e-6, TARGETS[target], Pocl(pocl, TARGETS[target]))


@pytest.mark.parametrize("target", TARGETS)
def test_products_pass_nan_and_infinity_on(target, pocl):
    a, b = numbers((20, 33)), numbers((33, 40), seed=1)
    a[3, 5], a[4, 32], b[7, 9], b[32, 39] = np.nan, np.inf, -np.inf, np.nan
    inputs = {"a": a, "b": b, "c": numbers((40,))}
    agree(product_graph((20, 33), (33, 40)), inputs, 2e-6, TARGETS[target], Pocl(pocl, TARGETS[target]))


CONVOLUTIONS = [
    # (channels, results, kernel, strides, pads, dilations, groups, spatial)
    (3, 16, (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1, (19, 22)),
    (16, 40, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, (9, 7)),
    (8, 12, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, (5, 5)),
    (8, 12, (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1, (7, 6)),
    (20, 20, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 20, (8, 9)),
    (18, 36, (5, 5), (2, 2), ((2, 1), (0, 2)), (2, 2), 18, (17, 16)),
    (12, 18, (3, 3), (1, 1), ((0, 1), (2, 0)), (1, 1), 3, (8, 8)),
    (5, 7, (3,), (2,), ((1, 1),), (1,), 1, (23,)),
    (4, 6, (3, 2, 2), (1, 2, 1), ((1, 0), (0, 1), (1, 1)), (1, 1, 2), 2, (5, 6, 7)),
]


def conv_graph(case, constant: bool, symbolic: bool, dtype: str = "f32"):
    c, m, kernel, strides, pads, dilations, groups, spatial = case
    g = Builder()
    x = g.input("x", dtype, ["n", c, *([f"s{i}" for i in range(len(spatial))] if symbolic else spatial)])
    weights = numbers((m, c // groups, *kernel), dtype, 1)
    w = g.constant(weights) if constant else g.input("w", dtype, weights.shape)
    y = g.conv(x, w, strides=strides, pads=pads, dilations=dilations, groups=groups)
    bias = g.constant(numbers((m, *[1] * len(spatial)), dtype, 2))
    inputs = {} if constant else {"w": weights}
    return g.finish({"y": g.relu(g.add(y, bias))}), inputs


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "variable"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case, constant, target, pocl):
    graph, inputs = conv_graph(case, constant, not constant)
    x = numbers((2, case[0], *case[-1]))
    agree(graph, {"x": x, **inputs}, 3e-6, TARGETS[target], Pocl(pocl, TARGETS[target]))


@pytest.mark.parametrize("target", INTERPRETED)
def test_convolutions_interpreted(target):
    """Small ones, and one whose picture is padding alone."""
    for case, spatial in (
        ((2, 3, (3, 2), (1, 2), ((1, 1), (0, 1)), (1, 2), 1, (4, 5)), (4, 5)),
        ((2, 4, (3, 3), (1, 1), ((2, 2), (2, 2)), (1, 1), 2, (0, 2)), (0, 2)),
    ):
        for constant in (True, False):
            graph, inputs = conv_graph(case, constant, True)
            for images in (0, 2):
                agree(graph, {"x": numbers((images, 2, *spatial)), **inputs}, 3e-6, TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f16", "f64", "i32"])
def test_convolutions_of_other_dtypes(dtype, target, pocl):
    case = CONVOLUTIONS[1]
    graph, _ = conv_graph(case, True, False, dtype)
    x = numbers((1, case[0], *case[-1]), dtype)
    agree(graph, {"x": x}, EPSILON[dtype], TARGETS[target], Pocl(pocl, TARGETS[target]))
