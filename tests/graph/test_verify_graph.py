"""The verifier finds each fault and shows where it is."""

from __future__ import annotations

import numpy as np
import pytest

from tallow.builder import Builder
from tallow.dtype import f32
from tallow.errors import GraphError, VerifyError
from tallow.graph import Graph, Node, TensorType, Value
from tallow.verify import verify


def graph_of(*nodes, outputs):
    return Graph("g", (X,), tuple(outputs), tuple(nodes))


X = Value("x", TensorType(f32, (3,)))
Y = Value("y", TensorType(f32, (3,)))
GOOD = Node("neg", (X,), (Y,))


def test_a_good_graph_passes():
    verify(graph_of(GOOD, outputs=[Y]))


@pytest.mark.parametrize(
    "nodes,message",
    [
        ([Node("neg", (Y,), (Y,))], "reads y before it is made"),
        ([GOOD, GOOD], "makes y a second time"),
        ([Node("nothing", (X,), (Y,))], "there is no operator 'nothing'"),
        ([Node("neg", (X, X), (Y,))], "neg has 2 operands, expected 1 to 1"),
        (
            [Node("neg", (X,), (Value("y", TensorType(f32, (4,))),))],
            r"neg gives f32\[3\], the graph says f32\[4\]",
        ),
        ([Node("transpose", (X,), (Y,), {"permutation": (1,)})], "no permutation"),
    ],
)
def test_faults_are_named_and_shown(nodes, message):
    with pytest.raises(VerifyError, match=message) as caught:
        verify(graph_of(*nodes, outputs=[Y]))
    assert "> " in str(caught.value)


def test_sizes_are_bound_before_they_are_mentioned():
    b = Builder()
    x = b.input("x", "f32", ["n"])
    y = b.broadcast(b.reduce(x, function="add", axes=(0,), keepdims=False), shape=(b.fresh_symbol("late"),))
    with pytest.raises(VerifyError, match="mentions late.*, which nothing has bound yet"):
        verify(b.finish([y]))


def test_results_must_be_made():
    with pytest.raises(VerifyError, match="returns y, which nothing makes"):
        verify(graph_of(outputs=[Y]))


def test_the_builder_refuses_in_the_operators_words():
    b = Builder()
    x = b.input("x", "f32", [2, 3])
    for make, message in [
        (lambda: b.matmul(x, x), "inner sizes 3 and 2 differ"),
        (lambda: b.add(x, b.constant(np.ones(4, "f4"))), "do not broadcast"),
        (lambda: b.add(x, b.constant(np.ones(3, "i4"))), "operands of one dtype"),
        (lambda: b.reshape(x, shape=(7,)), "has 6 elements"),
        (lambda: b.emit("matmull", x, x), "did you mean matmul"),
        (lambda: b.neg(x, x), "takes 1 operands, got 2"),
    ]:
        with pytest.raises(GraphError, match=message):
            make()
