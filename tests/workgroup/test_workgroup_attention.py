"""Attention on work-groups and on vectors against its numpy meaning."""

from __future__ import annotations

import numpy as np
import pytest
from test_workgroup_products import numbers
from workgroup_support import TARGETS, Pocl, agree

from tallow.builder import Builder

# PoCL 3.0 mixes up the variables of threads in this kernel of many barriers, in each of its ways of running groups;
# the interpreter and, for vectors, PoCL run it.
SHAPES = ["small", "vectors", "narrow"]


def check(graph, inputs, tolerance: float, target: str, pocl) -> None:
    if target == "small":
        agree(graph, inputs, tolerance, TARGETS[target])
    else:
        agree(graph, inputs, tolerance, TARGETS[target], Pocl(pocl, TARGETS[target]))


CASES = {
    "plain": dict(shape=(2, 3, 3, 9, 13, 4, 6)),
    "few": dict(shape=(1, 1, 1, 1, 2, 3, 5)),
    "grouped": dict(shape=(1, 4, 2, 9, 10, 5, 7)),
    "causal": dict(shape=(1, 2, 2, 11, 11, 4, 4), causal=True),
    "later": dict(shape=(1, 2, 2, 5, 17, 4, 4), causal=True, causal_offset=12),
    "capped": dict(shape=(1, 2, 2, 5, 17, 4, 4), softcap=2.0),
    "no keys": dict(shape=(1, 2, 2, 5, 0, 8, 8)),
    "no queries": dict(shape=(1, 2, 2, 0, 3, 8, 8)),
    "bias": dict(shape=(2, 3, 3, 9, 13, 4, 6), mask=(2, 3, 9, 13)),
    "keys masked": dict(shape=(2, 2, 2, 7, 13, 4, 4), mask=(2, 1, 1, 13), kind="bool"),
    "all masked": dict(shape=(1, 2, 2, 7, 13, 4, 4), mask=(7, 1), kind="bool", safe=True),
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


@pytest.mark.parametrize("target", SHAPES)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("name", CASES)
def test_attention(name, symbolic, target, pocl):
    case = CASES[name]
    graph = attention_graph(**case, symbolic=symbolic)
    check(graph, inputs_of(**case), 5e-6, target, pocl)


@pytest.mark.parametrize("target", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [("f16", 4e-3), ("f64", 1e-12)])
def test_attention_of_transposed_operands_and_other_dtypes(dtype, tolerance, target, pocl):
    case = {"shape": (1, 2, 2, 9, 10, 5, 6), "turned": True, "dtype": dtype}
    check(attention_graph(**case), inputs_of(**case), tolerance, target, pocl)


@pytest.mark.parametrize("target", SHAPES)
@pytest.mark.parametrize("safe", [False, True])
def test_attention_passes_nan_and_infinity_on(safe, target, pocl):
    case = {"shape": (1, 2, 2, 7, 13, 4, 4), "safe": safe}
    inputs = inputs_of(**case)
    inputs["q"][0, 0, 2, 3], inputs["k"][0, 1, 12, 0], inputs["v"][0, 0, 5, 1] = np.nan, np.inf, -np.inf
    check(attention_graph(**case), inputs, 5e-6, target, pocl)


@pytest.mark.parametrize("target", ["vectors", "narrow"])
def test_long_attention(target, pocl):
    case = {"shape": (1, 2, 2, 130, 300, 64, 64)}
    check(attention_graph(**case), inputs_of(**case), 5e-6, target, pocl)
