"""The verifier finds each fault and shows where it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.dtype import DTYPES, f32
from tallow.errors import GraphError, VerifyError
from tallow.graph import Graph, Location, Node, TensorType, Value
from tallow.verify import checked, verify


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
        (lambda: b.argmax(x, axis=1, last=False), "expected the attribute 'keepdims', got axis, last"),
    ]:
        with pytest.raises(GraphError, match=message):
            make()


def test_names_in_shapes_are_sizes():
    b = Builder()
    x = b.input("x", "f32", ["n", 2])
    assert b.reshape(x, shape=(2, "n")).shape == tuple(reversed(x.shape))


def test_the_neighbourhood_of_a_fault_is_shown_and_no_more():
    values = [Value(f"v{n}", X.type) for n in range(30)]
    nodes = [Node("neg", (a,), (b,)) for a, b in zip([X, *values], values, strict=False)]
    nodes[15] = Node("neg", (values[20],), (values[15],), location=Location("middle", "Neg", "m.onnx"))
    with pytest.raises(VerifyError) as caught:
        verify(graph_of(*nodes, outputs=[values[-1]]))
    first, *lines = str(caught.value).splitlines()
    assert first == 'neg reads v20 before it is made (Neg node "middle" in m.onnx)'
    assert [line.startswith("> ") for line in lines] == [n == 5 for n in range(11)]
    assert "%v10:" in lines[0] and "%v20:" in lines[-1]


def test_a_fault_in_a_region_is_found():
    inner = Graph("then", (), (Y,), (Node("neg", (Y,), (Y,)),))
    c = Value("c", TensorType(DTYPES["bool"], ()))
    node = Node("if", (c,), (Value("z", Y.type),), {"then": inner, "otherwise": inner, "types": (Y.type,)})
    with pytest.raises(VerifyError, match="neg reads y before it is made"):
        verify(Graph("g", (c,), node.outputs, (node,)))


def test_attributes_that_an_operator_cannot_use_are_a_fault():
    with pytest.raises(VerifyError, match="transpose cannot be typed with attributes none .*'permutation'"):
        verify(graph_of(Node("transpose", (X,), (Y,)), outputs=[Y]))
    with pytest.raises(VerifyError, match="reduce cannot be typed with attributes axes, function"):
        node = Node("reduce", (X,), (Y,), {"axes": None, "function": "add", "keepdims": False})
        verify(graph_of(node, outputs=[Y]))


def breaks(graph: Graph, *_) -> Graph:
    """A pass that loses every node."""
    return Graph(graph.name, graph.inputs, graph.outputs, (), graph.output_names)


def test_the_pass_at_fault_is_named(monkeypatch):
    graph = graph_of(GOOD, outputs=[Y])
    backend = plugins.backend("fake")
    monkeypatch.setattr(backend, "passes", (breaks,), raising=False)
    with pytest.raises(VerifyError, match="^after pass breaks: graph g returns y, which nothing makes"):
        tallow.compile(graph, "fake")
    monkeypatch.setenv("TALLOW_VERIFY", "")
    assert checked(breaks, graph).nodes == ()


def test_an_importer_at_fault_is_named(monkeypatch, save_onnx):
    path = save_onnx([helper.make_node("Relu", ["x"], ["y"])], [("x", "FLOAT", [3])], [("y", "FLOAT", [3])])
    importer = plugins.importer_for(path)
    broken = graph_of(outputs=[Y])
    monkeypatch.setattr(importer, "load", lambda path, dims: broken, raising=False)
    with pytest.raises(VerifyError, match="^after importer onnx: graph g returns y"):
        tallow.load(path)
