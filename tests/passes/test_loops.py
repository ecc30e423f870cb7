"""Carried values that no iteration changes are captured; loops mean the same afterwards."""

from __future__ import annotations

import numpy as np

import tallow
from tallow.builder import Builder
from tallow.passes.loops import capture_unchanged
from tallow.passes.pipeline import run_common
from tallow.verify import verify


def looped(write, *carried_of, trips=3):
    """y, ... = a loop over values that functions of (builder, x) start."""
    b = Builder()
    x = b.input("x", "f32", ["n", 4])
    starts = [make(b, x) for make in carried_of]
    inner = Builder("body", b)
    iteration, going = inner.input("i", "i64", []), inner.input("g", "bool", [])
    values = [inner.input(f"c{k}", v.dtype, v.shape) for k, v in enumerate(starts)]
    body = inner.finish([inner.constant(np.array(True)), *write(inner, iteration, going, *values)])
    types = tuple(v.type for v in starts)
    made = b.emit(
        "loop", b.constant(np.array(trips)), b.constant(np.array(True)), *starts, body=body, types=types
    )
    return b.finish(made if isinstance(made, tuple) else [made])


def same(graph, after):
    verify(after)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("f4")
    want, got = tallow.evaluate(graph, {"x": x}), tallow.evaluate(after, {"x": x})
    for a, b in zip(want.values(), got.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def weights(b, x):
    return b.constant(np.eye(4, dtype="f4") * 2)


def itself(b, x):
    return x


def test_weights_that_are_carried_are_constants():
    graph = looped(lambda c, i, g, w, v: [w, c.matmul(v, w)], weights, itself)
    after = run_common(capture_unchanged(graph))
    (loop,) = (n for n in after.nodes if n.op == "loop")
    assert len(loop.inputs) == 3
    (product,) = (n for n in loop["body"].nodes if n.op == "matmul")
    assert product.inputs[1] in {n.output for n in after.nodes if n.op == "constant"}
    same(graph, after)


def test_values_that_change_places_stay_carried():
    graph = looped(lambda c, i, g, p, q: [q, p], itself, lambda b, x: b.neg(x))
    assert capture_unchanged(graph) is graph


def test_a_loop_that_changes_nothing_goes():
    graph = looped(lambda c, i, g, v: [v], itself)
    after = run_common(capture_unchanged(graph))
    assert not any(n.op == "loop" for n in after.nodes)
    same(graph, after)


def test_what_a_branch_inside_reads_is_replaced_too():
    def write(c, i, g, w, v):
        regions = {}
        for name, function in (("then", "matmul"), ("otherwise", "add")):
            inner = Builder(name, c)
            operands = (
                (v, w)
                if function == "matmul"
                else (v, inner.reduce(w, function="add", axes=(0,), keepdims=True))
            )
            regions[name] = inner.finish([getattr(inner, function)(*operands)])
        even = c.eq(c.mod(i, c.constant(np.array(2))), c.constant(np.array(0)))
        return [w, c.emit("if", even, types=(v.type,), **regions)]

    graph = looped(write, weights, itself)
    after = capture_unchanged(graph)
    (loop,) = (n for n in after.nodes if n.op == "loop")
    assert len(loop.inputs) == 3
    same(graph, after)
