"""Attention on matrix units against its numpy meaning, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from test_workgroup_attention import attention_graph, inputs_of
from test_workgroup_fragments import of_units, statements
from workgroup_support import agree

from tallow.kernel.grammar import Copy, Multiply

ONE, TWO = of_units(16, 16), of_units(64, 32)  # one thread for a query, and two
EPSILON = {"f16": 4e-3, "bf16": 3e-2, "f32": 2e-3}
CASES = {
    "plain": dict(shape=(2, 2, 2, 9, 13, 8, 6)),
    "grouped": dict(shape=(1, 4, 2, 8, 18, 5, 17)),
    "causal": dict(shape=(1, 2, 2, 19, 19, 4, 4), causal=True),
    "later": dict(shape=(1, 1, 1, 9, 37, 4, 4), causal=True, causal_offset=28),
    "capped": dict(shape=(1, 1, 1, 9, 17, 16, 4), softcap=2.0),
    "no keys": dict(shape=(1, 2, 2, 9, 0, 8, 8)),
    "no queries": dict(shape=(1, 2, 2, 0, 3, 8, 8)),
    "bias": dict(shape=(2, 2, 2, 9, 13, 4, 6), mask=(2, 2, 9, 13), kind="f16"),
    "keys masked": dict(shape=(2, 1, 1, 8, 19, 4, 4), mask=(2, 1, 1, 19), kind="bool"),
    "all masked": dict(shape=(1, 1, 1, 9, 17, 4, 4), mask=(9, 1), kind="bool", safe=True),
    "turned": dict(shape=(1, 2, 2, 9, 10, 8, 8), turned=True),
}


@pytest.mark.parametrize("name", CASES)
def test_attention(name):
    case = {**CASES[name], "dtype": "f16"}
    graph = attention_graph(**case)
    assert statements(graph, ONE, Multiply) or not case["shape"][3]
    inputs = inputs_of(**case)
    if case.get("kind") == "f16":
        inputs["mask"] = inputs["mask"].astype("f2")
    agree(graph, inputs, EPSILON["f16"], ONE)


@pytest.mark.parametrize("dtype, symbolic", [("f16", False), ("bf16", True), ("f32", False)])
def test_two_threads_for_a_query(dtype, symbolic):
    case = {"shape": (1, 2, 1, 18, 70, 12, 20), "dtype": dtype, "causal": True, "causal_offset": 30}
    agree(attention_graph(**case, symbolic=symbolic), inputs_of(**case), EPSILON[dtype], TWO)


@pytest.mark.parametrize("safe", [False, True])
def test_attention_passes_nan_and_infinity_on(safe):
    case = {"shape": (1, 2, 2, 9, 19, 4, 4), "safe": safe, "dtype": "f16"}
    inputs = inputs_of(**case)
    inputs["q"][0, 0, 2, 3], inputs["k"][0, 1, 12, 0], inputs["v"][0, 0, 5, 1] = np.nan, np.inf, -np.inf
    agree(attention_graph(**case), inputs, EPSILON["f16"], ONE)


def test_lines_of_features_are_copied_by_several_elements():
    def counts(**case):
        return {s.count for s in statements(attention_graph(**case, dtype="f16"), ONE, Copy)}

    assert counts(shape=(1, 2, 2, 9, 10, 64, 64), turned=True) == {8}
    assert counts(shape=(1, 2, 2, 9, 10, 12, 8)) == {4, 8}
    assert counts(shape=(1, 2, 2, 9, 10, 5, 7)) == set()


@pytest.mark.parametrize(
    "shape, dtype",
    [((1, 2, 2, 4, 9, 8, 8), "f16"), ((1, 2, 2, 9, 9, 8, 256), "f16"), ((1, 2, 2, 9, 9, 8, 8), "f64")],
)
def test_few_queries_wide_values_and_other_dtypes_go_without_units(shape, dtype):
    assert not statements(attention_graph(shape, dtype=dtype), ONE, Multiply)
