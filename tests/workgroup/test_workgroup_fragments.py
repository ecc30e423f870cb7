"""Products and convolutions on matrix units against their numpy meaning, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_workgroup_products import conv_graph, numbers
from workgroup_support import agree, kernels_of

from tallow.builder import Builder
from tallow.dtype import dtype as dtype_of
from tallow.kernel.build import walk_stmts
from tallow.kernel.grammar import Copy, Multiply
from tallow.lower.workgroup.tile import FEWEST, choose_block, staged_bytes
from tallow.target import Target

UNITS = ("f16", "bf16", "tf32")


def of_units(
    group: int = 16, subgroup: int = 4, shared: int = 48 << 10, units: int = 1, features=UNITS
) -> Target:
    limits = {"group": group, "shared": shared, "units": units, "subgroup": subgroup}
    return Target("groups", "units", features, 0, limits)


ONE, SEVERAL = of_units(4), of_units(16, shared=8 << 10)
EPSILON = {"f16": 2e-3, "bf16": 2e-2, "f32": 1e-3}  # f32: operands are rounded to 11 bits


def statements(graph, target: Target, kind: type) -> list:
    found = (s for kernel in kernels_of(graph, target).values() for s in walk_stmts(kernel.body))
    return [s for s in found if isinstance(s, kind)]


def product_graph(a, b, dtype: str, turned: str = "", residual: bool = True, halved: bool = False):
    """relu(a b + bias) + residual, operands transposed or computed on the way."""
    g = Builder()
    x, y = g.input("a", dtype, a), g.input("b", dtype, b)
    for_a, for_b = (
        g.transpose(v, permutation=(*range(v.rank - 2), v.rank - 1, v.rank - 2)) if side in turned else v
        for v, side in ((x, "a"), (y, "b"))
    )
    z = g.matmul(g.mul(for_a, 0.5) if halved else for_a, for_b)
    z = g.relu(g.add(z, g.input("bias", dtype, z.shape[-1:])))
    return g.finish({"y": g.add(z, g.input("residual", dtype, z.shape)) if residual else z})


def product_inputs(a, b, dtype: str, turned: str = "", residual: bool = True, seed: int = 0, **_):
    inputs = {"a": numbers(a, dtype, seed), "b": numbers(b, dtype, seed + 1)}
    rows, columns = a[-1 if "a" in turned else -2], b[-2 if "b" in turned else -1]
    inputs["bias"] = numbers((columns,), dtype, seed + 2)
    if residual:
        lead = np.broadcast_shapes(a[:-2], b[:-2])
        inputs["residual"] = numbers((*lead, rows, columns), dtype, seed + 3)
    return inputs


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["f16", "bf16", "f32"]),
    st.tuples(st.integers(8, 36), st.integers(0, 36), st.integers(8, 20)),
    st.sampled_from([(), (2,), (2, 1)]),
    st.booleans(),
    st.sampled_from(["", "a", "b", "ab"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([ONE, SEVERAL]),
    st.integers(0, 99),
)
def test_products(dtype, sizes, lead, shared, turned, symbolic, halved, target, seed):
    rows, depth, columns = sizes
    a, b = (*lead, rows, depth), (*(() if shared else lead), depth, columns)
    a, b = ((*s[:-2], s[-1], s[-2]) if side in turned else s for side, s in (("a", a), ("b", b)))
    inputs = product_inputs(a, b, dtype, turned, seed=seed)
    if symbolic:
        names = {rows: "m", depth: "k", columns: "n"}
        a, b = ((*s[:-2], *(names[d] for d in s[-2:])) for s in (a, b))
    graph = product_graph(a, b, dtype, turned, halved=halved)
    if not symbolic and depth >= FEWEST:
        assert statements(graph, target, Multiply)
    agree(graph, inputs, EPSILON[dtype], target)


def test_copies_go_by_several_elements_where_sizes_are_multiples():
    """Rows of 24 halves of a: 8 at once; 20 columns of b: 4 at once; 17 by one."""

    def counts(a, b, turned=""):
        return sorted({s.count for s in statements(product_graph(a, b, "f16", turned), ONE, Copy)})

    assert counts((32, 24), (24, 20)) == [4, 8]
    assert counts((32, 17), (17, 19)) == []
    assert counts(("m", 24), (24, "n")) == [8]
    assert counts((24, 32), (20, 24), "ab") == [8]
    heads = Builder()
    x = heads.transpose(heads.input("x", "f16", [1, "s", 4, 24]), permutation=(0, 2, 1, 3))
    y = heads.input("y", "f16", [1, 4, 24, 16])
    graph = heads.finish({"y": heads.matmul(x, y)})
    assert {s.count for s in statements(graph, ONE, Copy)} == {8}
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.normal(size=(1, 19, 4, 24)).astype("f2"),
        "y": rng.normal(size=(1, 4, 24, 16)).astype("f2"),
    }
    agree(graph, inputs, 2e-3, ONE)


@pytest.mark.parametrize("dtype", EPSILON)
def test_products_pass_nan_and_infinity_on(dtype):
    a, b = (20, 33), (33, 24)
    inputs = product_inputs(a, b, dtype, residual=False)
    x, y = inputs["a"], inputs["b"]
    x[3, 5], x[4, 32], y[7, 9], y[32, 23] = np.nan, np.inf, -np.inf, np.nan
    agree(product_graph(a, b, dtype, residual=False), inputs, EPSILON[dtype], ONE)


def test_large_products():
    """More than one block each way, and several pieces of the summed index with a rest."""
    a, b = (70, 85), (85, 40)
    agree(product_graph(a, b, "f16"), product_inputs(a, b, "f16"), EPSILON["f16"], SEVERAL)


CONVOLUTIONS = [
    # (channels, results, kernel, strides, pads, dilations, groups, spatial)
    (16, 20, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, (5, 4)),
    (9, 12, (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1, (7, 6)),
    (16, 18, (2, 3), (2, 1), ((2, 1), (0, 2)), (2, 2), 2, (5, 6)),
    (8, 9, (3,), (2,), ((1, 1),), (1,), 1, (23,)),
    (8, 8, (2, 1, 2), (1, 2, 1), ((1, 0), (0, 1), (1, 1)), (1, 1, 2), 1, (2, 3, 4)),
]


@pytest.mark.parametrize(
    "dtype, constant", [("f16", True), ("bf16", True), ("f32", True), ("f16", False)], ids=str
)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case, dtype, constant):
    graph, inputs = conv_graph(case, constant, not constant, dtype)
    if constant:
        assert statements(graph, SEVERAL, Multiply)
    agree(graph, {"x": numbers((1, case[0], *case[-1]), dtype), **inputs}, EPSILON[dtype], SEVERAL)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["f16", "f32"]),
    st.tuples(st.integers(6, 18), st.integers(8, 18), st.sampled_from([1, 2])),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(st.integers(0, 2), st.integers(2, 4), st.integers(2, 4)),
    st.booleans(),
)
@example("f16", (6, 8, 1), (2, 1), (2, 1), (1, 0, 0, 0), (1, 2, 2), True)  # a first tap outside for all
def test_any_convolution(dtype, channels, kernel, strides, pads, sizes, constant):
    (each, results, groups), (images, *spatial) = channels, sizes
    case = (
        each * groups,
        results * groups,
        kernel,
        strides,
        (pads[:2], pads[2:]),
        (1, 1),
        groups,
        tuple(spatial),
    )
    graph, inputs = conv_graph(case, constant, not constant, dtype)
    agree(graph, {"x": numbers((images, each * groups, *spatial), dtype), **inputs}, EPSILON[dtype], SEVERAL)


@pytest.mark.parametrize("size", [(4, 32, 32), (32, 32, 4), (32, 4, 32)], ids=["rows", "columns", "products"])
def test_little_work_has_no_use_for_units(size):
    rows, depth, columns = size
    graph = product_graph((rows, depth), (depth, columns), "f16")
    assert not statements(graph, ONE, Multiply)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_units_are_used_for_what_a_target_has_them_for(dtype):
    graph = product_graph((32, 32), (32, 32), dtype)
    name = {"f32": "tf32"}.get(dtype, dtype)
    assert statements(graph, of_units(features=(name,)), Multiply)
    assert not statements(graph, of_units(features=tuple(set(UNITS) - {name})), Multiply)
    assert not statements(graph, of_units(subgroup=1), Multiply)


def test_few_groups_have_deeper_pieces():
    """Where many run at once, one waits for memory while others multiply."""

    def depth(rows, columns, each):
        return choose_block(1, rows, columns, each, dtype_of("f16"), of_units(256, 32, units=108)).depth

    assert depth(49, 512, 512) == 64 and depth(50_000, 512, 512) == 32
    assert depth(49, 512, 96) == 32  # 64 would be a third more
    assert depth(49, 512, 16) == 16


@given(
    st.sampled_from(UNITS),
    st.tuples(*[st.integers(1, 5000)] * 4),
    st.sampled_from([32, 64, 256, 1024]),
    st.sampled_from([1 << 10, 4 << 10, 16 << 10, 48 << 10]),
)
def test_blocks_keep_within_the_target(name, sizes, group, shared):
    dtype = dtype_of({"tf32": "f32"}.get(name, name))
    block = choose_block(*sizes, dtype, of_units(group, 32, shared, 108))
    if block is None:
        assert min(sizes[1:]) < FEWEST or shared < 4 << 10
    else:
        assert block.threads <= group and staged_bytes(block, dtype) <= shared
