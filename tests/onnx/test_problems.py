"""`tallow check` of a model with many faults lists every one with its node: each kind alone, and all in one."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import AttributeProto, TensorProto, helper

import tallow
from tallow.cli import main

FLOAT, INT64, STRING, BOOL = (getattr(TensorProto, n) for n in ("FLOAT", "INT64", "STRING", "BOOL"))


def node(op, inputs, name, **attributes):
    """A node whose result has the node's own name."""
    return helper.make_node(op, inputs, [name], name=name, **attributes)


def untyped(name: str):
    made = node("Softmax", ["x"], name, axis=1)
    made.attribute[0].type = AttributeProto.UNDEFINED
    return made


def branch(name: str):
    """An If of which one arm has an operator that is not there."""
    arms = {}
    for arm, op in (("then_branch", "Relu"), ("else_branch", "Missing")):
        inner = helper.make_node(op, ["x"], [f"{name}.{arm}"], name=f"{name}.{arm}")
        arms[arm] = helper.make_graph([inner], arm, [], [onnx.ValueInfoProto(name=f"{name}.{arm}")])
    return node("If", ["flag"], name, **arms)


# kind -> (the node, its domain's operators aside; what is said of it)
KINDS = {
    "operator": (node("Nope", ["x"], "n0"), "no operator Nope in ai.onnx opset 17"),
    "misspelt": (node("Gemmm", ["x"], "n1"), "did you mean Gemm?"),
    "domain": (
        node("Fast", ["x"], "n2", domain="acme"),
        "tallow.register_op adds it under the name acme.Fast",
    ),
    "layout": (node("Conv", ["x"], "n20", domain="com.microsoft.nchwc"), "save it with ORT_ENABLE_EXTENDED"),
    "reader": (node("Nil", ["n0"], "n3"), "no operator Nil"),
    "attribute-type": (
        node("Softmax", ["x"], "n4", axis="one"),
        '"axis" of type STRING: Softmax of opset 17 takes INT',
    ),
    "attribute-untyped": (untyped("n5"), '"axis" of type UNDEFINED'),
    "attribute-absent": (node("Concat", ["x", "x"], "n6"), "no attribute axis: Concat of opset 17 needs it"),
    "attribute-of-reader": (node("Softmax", ["n0"], "n7", axis=[1]), '"axis" of type INTS'),
    "attribute-value": (node("Normalizer", ["x"], "n8", domain="ai.onnx.ml", norm="L7"), "norm 'L7'"),
    "dtype": (node("Relu", ["words"], "n9"), "string"),
    "dtypes": (node("Add", ["x", "whole"], "n10"), "operands of one dtype, got f32, i64"),
    "shapes": (node("MatMul", ["x", "x"], "n11"), "inner sizes 3 and 2 differ"),
    "run-time": (node("Reshape", ["x", "sizes"], "n12"), "whose length is not known while importing"),
    "operands": (
        node("LayerNormalization", ["x"], "n13"),
        "1 operands: LayerNormalization of opset 17 takes at least 2",
    ),
    "operands-empty": (node("Tile", ["x", ""], "n17"), "is malformed: it has 2 operands and attributes none"),
    "unknown-value": (node("Relu", ["ghost"], "n14"), "reads ghost, which nothing makes"),
    "branch": (branch("n15"), "no operator Missing"),
    "function": (node("Own", ["x"], "n16", domain="own"), "no operator Inner"),
}


def model(nodes):
    body = [helper.make_node("Inner", ["a"], ["b"], name="inside")]
    own = helper.make_function("own", "Own", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    ports = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("x", FLOAT, [2, 3]),
            ("whole", INT64, [2, 3]),
            ("words", STRING, [2]),
            ("sizes", INT64, ["k"]),
            ("flag", BOOL, []),
        )
    ]
    results = [onnx.ValueInfoProto(name=n.name) for n in nodes]
    graph = helper.make_graph(nodes, "g", ports, results)
    imports = [helper.make_opsetid(d, v) for d, v in (("", 17), ("ai.onnx.ml", 3), ("own", 1), ("acme", 1))]
    return helper.make_model(graph, opset_imports=imports, functions=[own], ir_version=9)


def checked(proto, tmp_path) -> str:
    """What `tallow check` says; the same text as JSON."""
    path = tmp_path / "flawed.onnx"
    onnx.save(proto, path)
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 1, result.output
    told = json.loads(CliRunner().invoke(main, ["check", str(path), "--json"]).output)
    assert not told["supported"] and told["error"] in result.output.replace("error: ", "")
    return told["error"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind, tmp_path):
    made, said = KINDS[kind]
    nodes = [made] if "n0" not in made.input else [KINDS["operator"][0], made]
    text = checked(model(nodes), tmp_path)
    line = next(each for each in text.splitlines() if said in each)
    assert f'"{made.name}' in line or '"inside"' in line


def test_all_kinds_are_listed_at_once(tmp_path):
    text = checked(model([made for made, _ in KINDS.values()]), tmp_path)
    for kind, (made, said) in KINDS.items():
        line = next((each for each in text.splitlines() if said in each), None)
        assert line is not None, (kind, text)
        assert f'"{made.name}' in line or '"inside"' in line, (kind, line)
    assert "uses what Tallow does not support:" in text and "is damaged or malformed:" in text


def test_inputs_and_results_are_among_them(tmp_path):
    proto = model([KINDS["operator"][0], node("Relu", ["x"], "sound")])
    for name, change in (("odd", 99), ("bare", None)):
        info = proto.graph.input.add(name=name)
        info.type.tensor_type.elem_type = change or FLOAT
        if change:
            info.type.tensor_type.shape.dim.add(dim_value=2)
        proto.graph.node.append(node("Relu", [name], f"of_{name}"))
    proto.graph.output.add(name="nowhere")
    text = checked(proto, tmp_path)
    for said in (
        'input "odd": unknown ONNX data type 99',
        'input "bare" has no shape: give it at least a rank',
        'output "nowhere" is made by no node',
        'Nope node "n0"',
    ):
        assert said in text
    assert "of_odd" not in text and "sound" not in text


def test_one_fault_is_one_line(tmp_path):
    text = checked(model([KINDS["dtypes"][0]]), tmp_path)
    assert "\n" not in text and text.startswith("flawed.onnx: add: expected operands of one dtype")


def test_a_sound_model_has_none(tmp_path):
    onnx.save(model([node("Relu", ["x"], "sound")]), tmp_path / "sound.onnx")
    result = CliRunner().invoke(main, ["check", str(tmp_path / "sound.onnx")])
    assert result.exit_code == 0 and "every operator is supported" in result.output


def test_spare_axes_of_updates(save_onnx):
    """Files of converters have them in branches that never run."""
    nodes = [node("ScatterND", ["x", "places", "updates"], "put")]
    values = {"places": np.array([[1], [0]]), "updates": np.array([[[5.0]], [[6.0]]], "f4")}
    path = save_onnx(nodes, [("x", "FLOAT", [3])], [("put", "FLOAT", [3])], values)
    with pytest.warns(
        UserWarning, match=r'ScatterND node "put".*updates are f32\[2, 1, 1\]: read as of shape \[2\]'
    ):
        run = tallow.compile(tallow.load(path))
    np.testing.assert_array_equal(run(np.zeros(3, "f4")), [6, 5, 0])
