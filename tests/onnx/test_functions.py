"""Functions of a model, called with and without attributes, and sparse initializers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tallow
from tallow.errors import ImportFailed

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]


def function(name, inputs, outputs, nodes, attributes=(), overload="", **more):
    return helper.make_function(
        "own", name, inputs, outputs, nodes, OPSETS, list(attributes), overload=overload, **more
    )


def model(nodes, functions, inputs=("x",), outputs=("y",)):
    ports = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in side]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "g", *ports)
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions, ir_version=10)


def run(proto, tmp_path, **inputs):
    onnx.save(proto, tmp_path / "m.onnx")
    return tallow.compile(tmp_path / "m.onnx").run(inputs)


def refer(kind, name, inner, outer, **attributes):
    """A node one of whose attributes is the function's own."""
    node = helper.make_node(kind, **attributes)
    attribute = node.attribute.add(name=inner, ref_attr_name=outer)
    attribute.type = onnx.AttributeProto.FLOAT
    assert name == inner
    return node


def test_functions_call_functions_with_attributes_and_defaults(rng, tmp_path):
    leaky = [refer("LeakyRelu", "alpha", "alpha", "slope", inputs=["a"], outputs=["b"])]
    inner = function("Inner", ["a"], ["b"], leaky, attribute_protos=[helper.make_attribute("slope", 0.5)])
    call = helper.make_node("Inner", ["p"], ["q"], domain="own")
    attribute = call.attribute.add(name="slope", ref_attr_name="slope")
    attribute.type = onnx.AttributeProto.FLOAT
    outer = function("Outer", ["p", "maybe"], ["q"], [call], ["slope"])
    nodes = [
        helper.make_node("Outer", ["x"], ["s"], domain="own", slope=0.1),
        helper.make_node("Inner", ["s"], ["y"], domain="own"),
    ]
    proto, x = model(nodes, [inner, outer]), rng.standard_normal(9).astype("f4")
    want = np.where(x < 0, x * 0.1 * 0.5, x)
    np.testing.assert_allclose(run(proto, tmp_path, x=x)["y"], want, rtol=1e-6)


def test_overloads_are_told_apart(rng, tmp_path):
    both = [
        function("F", ["a"], ["b"], [helper.make_node(op, ["a"], ["b"])], overload=overload)
        for op, overload in (("Neg", "minus"), ("Exp", "power"))
    ]
    calls = [
        helper.make_node("F", ["x"], ["t"], domain="own", overload="power"),
        helper.make_node("F", ["t"], ["y"], domain="own", overload="minus"),
    ]
    x = rng.standard_normal(5).astype("f4")
    np.testing.assert_allclose(run(model(calls, both), tmp_path, x=x)["y"], -np.exp(x), rtol=1e-6)
    stray = [helper.make_node("F", ["x"], ["y"], domain="own", overload="other")]
    with pytest.raises(ImportFailed, match="no operator F in own"):
        run(model(stray, both), tmp_path, x=x)


def test_a_function_that_calls_itself_is_refused(tmp_path):
    again = function("Again", ["a"], ["b"], [helper.make_node("Again", ["a"], ["b"], domain="own")])
    with pytest.raises(ImportFailed, match="more than 64 levels|nested too deeply"):
        run(model([helper.make_node("Again", ["x"], ["y"], domain="own")], [again]), tmp_path)


@pytest.mark.parametrize("flat", [False, True])
def test_sparse_initializers(flat, rng, tmp_path):
    dense = np.zeros((3, 4), "f4")
    dense[[0, 1, 2], [3, 0, 2]] = [1.5, -2.0, 4.0]
    values = onnx.numpy_helper.from_array(dense[dense != 0], "w")
    places = np.flatnonzero(dense) if flat else np.argwhere(dense)
    sparse = helper.make_sparse_tensor(
        values, onnx.numpy_helper.from_array(places.astype(np.int64), "i"), [3, 4]
    )
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [])
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4]))
    proto.graph.sparse_initializer.append(sparse)
    x = rng.standard_normal((2, 3)).astype("f4")
    np.testing.assert_allclose(run(proto, tmp_path, x=x)["y"], x @ dense, rtol=1e-6)
