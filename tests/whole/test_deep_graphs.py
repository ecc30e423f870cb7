"""Graphs of any depth compile: groups are cut where expressions would grow too deep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow.builder import Builder
from tallow.lower.group import Group
from tallow.lower.pointwise import is_inlinable
from tallow.ops import OPS
from tallow.schedule.fuse import DEEPEST, MOVED, PLACES, Rules, fuse

LINKS = {
    "neg": lambda b, x, y: b.neg(y),
    "tanh": lambda b, x, y: b.tanh(y),
    "add": lambda b, x, y: b.add(y, x),
    "square": lambda b, x, y: b.mul(y, y),
    "max": lambda b, x, y: b.max(b.neg(y), y),
    "sin": lambda b, x, y: b.sin(y),
}


def shifted(b, x, y):
    wide = b.pad(y, before=(1, 0), after=(0, 1), mode="constant")
    return b.slice(wide, starts=(0, 1), shape=tuple(y.shape), steps=(1, 1))


MOVES = {
    "transpose": lambda b, x, y: b.transpose(y, permutation=(1, 0)),
    "pad": lambda b, x, y: b.pad(y, before=(1, 0), after=(0, 1), mode="constant"),
    "shift": shifted,
    "reshape": lambda b, x, y: b.reshape(y, shape=(y.shape[1], y.shape[0])),
}


def blended(b, x, y):
    """Each element from two others, as a resize makes it."""
    left, right = (b.pad(y, before=(0, 1 - i), after=(0, i), mode="edge") for i in (0, 1))
    both = b.add(b.mul(left, 0.25), b.mul(right, 0.75))
    return b.slice(both, starts=(0, 0), shape=tuple(y.shape), steps=(1, 1))


def chain(links):
    b = Builder()
    x = b.input("x", "f32", ["n", 8])
    y = x
    for link in links:
        y = link(b, x, y)
    return b.finish({"y": y})


def lengths(group: Group) -> int:
    """The most nodes inlined one in another, each root a new beginning."""
    depth = {}
    for node in reversed(group.nodes):
        weight = 1 if OPS[node.op].kind == "pointwise" else MOVED
        mine = 0 if node is group.root else depth.get(node.output, 0) + weight
        for value in node.inputs:
            depth[value] = max(depth.get(value, 0), mine)
    return max(depth.values(), default=0)


@pytest.mark.parametrize("moved", [False, True])
def test_groups_are_as_deep_as_they_may_be_and_no_deeper(moved):
    links = [LINKS["neg"], MOVES["transpose"]] if moved else [LINKS["neg"], LINKS["tanh"]]
    graph = chain(links * 150)
    groups = [g for g in fuse(graph, Rules(lambda node: False, lambda *_: True)) if isinstance(g, Group)]
    assert sum(len(g.nodes) for g in groups) == 300
    assert max(map(lengths, groups)) <= DEEPEST
    fewest = 300 if not moved else 150 + 150 * MOVED
    assert len(groups) == -(-fewest // DEEPEST)
    assert all(is_inlinable(node) for g in groups for node in g.nodes)


def most_places(group: Group) -> int:
    """At how many indices the node that most chains of other nodes lead to is computed."""
    maker = {node.output: node for node in group.nodes if node.op != "constant"}
    seen: dict = {value: set() for value in maker}

    def walk(value, place):
        if value not in maker or place in seen[value]:
            return
        seen[value].add(place)
        node = maker[value]
        for operand in node.inputs:
            walk(operand, place if OPS[node.op].kind == "pointwise" else (node, *place))

    walk(group.nodes[-1].output, ())
    return max(map(len, seen.values()))


@pytest.mark.parametrize("links", [[blended], [blended, LINKS["neg"]], [blended, MOVES["transpose"]]])
def test_groups_end_where_one_node_would_be_computed_at_many_indices(links):
    graph = chain(links * 6)
    groups = [g for g in fuse(graph, Rules(lambda node: False, lambda *_: True)) if isinstance(g, Group)]
    assert max(map(most_places, groups)) == PLACES
    assert len(groups) == 2  # a third link is read at four indices, what it reads would be at eight


def test_what_gathers_take_as_indices_is_read_where_they_are():
    b = Builder()
    y = b.input("x", "i64", ["n"])
    tables = [b.constant(np.arange(8)[::step].copy()) for step in (1, -1)]
    for _ in range(4):
        y = b.max(*(b.gather(table, y, axis=0) for table in tables))
    groups = fuse(b.finish({"y": y}), Rules(lambda node: False, lambda *_: True))
    assert [len(g.nodes) for g in groups if isinstance(g, Group)] == [12]


def test_indices_of_a_node_of_several_results(device, rng):
    b = Builder()
    x = b.input("x", "f32", ["n", 8])
    _, order = b.topk(x, axis=1, k=3, largest=True)
    graph = b.finish({"y": b.gather(b.constant(np.arange(8, 0, -1)), order, axis=0)})
    x = rng.normal(size=(3, 8)).astype("f4")
    np.testing.assert_array_equal(tallow.compile(graph, device)(x), tallow.evaluate(graph, {"x": x})["y"])


def test_chains_of_blends(device, rng):
    graph = chain([blended] * 9)
    x = rng.normal(size=(3, 8)).astype("f4")
    got, want = tallow.compile(graph, device)(x), tallow.evaluate(graph, {"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", [200, 2000])
def test_chains_of_pointwise_operators(device, depth, rng):
    graph = chain([[LINKS["neg"], LINKS["sin"], LINKS["tanh"]][i % 3] for i in range(depth)])
    x = rng.normal(size=(3, 8)).astype("f4")
    got, want = tallow.compile(graph, device)(x), tallow.evaluate(graph, {"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=depth * 2e-6, atol=depth * 1e-6)


def test_chains_before_and_after_a_product_and_a_sum(device, rng):
    weights = rng.normal(size=(8, 8)).astype("f4") / 4
    links = [LINKS["sin"], LINKS["add"], LINKS["tanh"], LINKS["max"]] * 40
    middle = [lambda b, x, y: b.matmul(y, b.constant(weights)), *links, lambda b, x, y: b.softmax(y, axis=1)]
    graph = chain([*links, *middle, *links])
    x = rng.normal(size=(3, 8)).astype("f4")
    got, want = tallow.compile(graph, device)(x), tallow.evaluate(graph, {"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(links=st.lists(st.sampled_from(sorted(MOVES)), min_size=30, max_size=60), rows=st.integers(0, 3))
def test_chains_of_movements(links, rows):
    graph = chain([MOVES[name] for name in links])
    x = np.arange(rows * 8, dtype="f4").reshape(rows, 8)
    want = tallow.evaluate(graph, {"x": x})["y"]
    np.testing.assert_array_equal(tallow.compile(graph, "cpu")(x), want)
