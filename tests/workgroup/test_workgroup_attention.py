"""Attention on work-groups and on vectors against its numpy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from test_workgroup_products import numbers
from test_workgroup_rows import both
from workgroup_support import TARGETS

from tallow.builder import Builder

CASES = {
    "plain": dict(shape=(2, 3, 3, 20, 33, 8, 8)),
    "few": dict(shape=(1, 1, 1, 1, 2, 3, 5)),
    "grouped": dict(shape=(1, 4, 2, 9, 40, 16, 20)),
    "causal": dict(shape=(1, 2, 2, 21, 21, 8, 8), causal=True),
    "later": dict(shape=(1, 2, 2, 5, 30, 8, 8), causal=True, causal_offset=25),
    "capped": dict(shape=(1, 2, 2, 5, 30, 8, 8), softcap=2.0),
    "no keys": dict(shape=(1, 2, 2, 5, 0, 8, 8)),
    "no queries": dict(shape=(1, 2, 2, 0, 3, 8, 8)),
    "bias": dict(shape=(2, 3, 3, 20, 33, 8, 8), mask=(2, 3, 20, 33)),
    "keys masked": dict(shape=(2, 2, 2, 7, 33, 8, 8), mask=(2, 1, 1, 33), kind="bool"),
    "all masked": dict(shape=(1, 2, 2, 7, 33, 8, 8), mask=(7, 1), kind="bool", safe=True),
}


def attention_graph(shape, mask=None, kind="f32", symbolic=False, turned=False, dtype="f32", **attributes):
    batch, heads, groups, queries, keys, depth, width = shape
    g = Builder()
    sizes = ("b", "q", "k") if symbolic else (batch, queries, keys)
    dims = [
        (sizes[0], heads, sizes[1], depth),
        (sizes[0], groups, sizes[2], depth),
        (sizes[0], groups, sizes[2], width),
    ]
    if turned:  # as projections lie in memory: tokens before heads
        operands = [
            g.transpose(g.input(n, dtype, (d[0], d[2], d[1], d[3])), permutation=(0, 2, 1, 3))
            for n, d in zip("qkv", dims, strict=True)
        ]
    else:
        operands = [g.input(n, dtype, d) for n, d in zip("qkv", dims, strict=True)]
    if mask is not None:
        operands.append(g.input("mask", kind, mask))
    y = g.attention(*operands, **{"scale": 0.3, "causal": False, **attributes})
    return g.finish({"y": g.mul(y, 2.0)})


def inputs_of(shape, mask=None, kind="f32", turned=False, dtype="f32", **_):
    batch, heads, groups, queries, keys, depth, width = shape
    shapes = [(batch, heads, queries, depth), (batch, groups, keys, depth), (batch, groups, keys, width)]
    shapes = [(s[0], s[2], s[1], s[3]) if turned else s for s in shapes]
    inputs = {n: numbers(s, dtype, seed) for seed, (n, s) in enumerate(zip("qkv", shapes, strict=True))}
    if mask is not None:
        values = numbers(mask, seed=9)
        inputs["mask"] = values > 0.2 if kind == "bool" else values
    return inputs


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("name", CASES)
def test_attention(name, symbolic, target, pocl):
    case = CASES[name]
    graph = attention_graph(**case, symbolic=symbolic)
    both(graph, inputs_of(**case), 5e-6, target, pocl, name in ("few", "no keys", "later"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype, tolerance", [("f16", 4e-3), ("f64", 1e-12)])
def test_attention_of_transposed_operands_and_other_dtypes(dtype, tolerance, target, pocl):
    case = {"shape": (1, 2, 2, 18, 19, 8, 24), "turned": True, "dtype": dtype}
    both(attention_graph(**case), inputs_of(**case), tolerance, target, pocl, False)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("safe", [False, True])
def test_attention_passes_nan_and_infinity_on(safe, target, pocl):
    case = {"shape": (1, 2, 2, 7, 33, 8, 8), "safe": safe}
    inputs = inputs_of(**case)
    inputs["q"][0, 0, 2, 3], inputs["k"][0, 1, 32, 0], inputs["v"][0, 0, 5, 1] = np.nan, np.inf, -np.inf
    both(attention_graph(**case), inputs, 5e-6, target, pocl, False)


@pytest.mark.parametrize("target", ["large", "vectors"])
def test_long_attention(target, pocl):
    case = {"shape": (1, 2, 2, 130, 300, 64, 64)}
    both(attention_graph(**case), inputs_of(**case), 5e-6, target, pocl)
