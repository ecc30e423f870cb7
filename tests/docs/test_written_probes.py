"""Nodes that are written by hand for the table of operators: their notation, and their dtypes against the schemas of
onnxruntime, all of which the importer takes."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import onnx
import operators
import pytest
import written_probes as written

from tallow.errors import TallowError
from tallow_importers.onnx.importer import load_model_proto

state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
SCHEMAS = {(schema.domain, schema.name): schema for schema in state.get_all_operator_schema()}
MICROSOFT = sorted(name for domain, name in written.ROWS if domain == written.MS)
# One constraint covers the picture and the grid, whose places are no whole numbers: the dtypes without a meaning.
# Texts are hashed by onnxruntime alone; an attribute says whether weights of experts are integers or floats.
REFUSED = {
    ("GridSample", "T1"): set(written.EVERY.split()) - {"f64", "f32", "f16"},
    ("MurmurHash3", "T1"): {"string"},
    ("QMoE", "T1"): {"f8e4m3"},
}


def schema_of(name: str):
    """onnxruntime has some operators in ONNX's domain."""
    return SCHEMAS.get((written.MS, name)) or SCHEMAS["", name]


def constraints(name: str) -> dict[str, set[str]]:
    return {
        each.type_param_str: {written.element(kind) for kind in each.allowed_type_strs} - {None}
        for each in schema_of(name).type_constraints
    }


def constraint_of(name: str, at: int) -> str:
    inputs = schema_of(name).inputs
    return inputs[min(at, len(inputs) - 1)].typeStr


@pytest.mark.parametrize("name", MICROSOFT)
def test_dtypes_are_those_of_onnxruntime(name):
    for row in written.ROWS[written.MS, name]:
        words = row.operands.split()
        kinds = {constraint_of(name, at) for at, word in enumerate(words) if re.match(r"T\b", word)}
        assert set(row.dtypes) in [constraints(name)[kind] for kind in kinds]


@pytest.mark.parametrize("name", MICROSOFT)
def test_the_importer_takes_every_dtype_of_every_operand(name):
    (row,) = written.ROWS[written.MS, name]
    words = row.operands.split()
    for kind, allowed in constraints(name).items():
        refused = set()
        for dtype in allowed if kind in map(lambda at: constraint_of(name, at), range(len(words))) else ():
            changed = [
                re.sub(r"^\w+", dtype, word) if word != "-" and constraint_of(name, at) == kind else word
                for at, word in enumerate(words)
            ]
            try:
                load_model_proto(written.model(replace(row, operands=" ".join(changed)), row.dtypes[0]))
            except TallowError:
                refused.add(dtype)
        assert refused == REFUSED.get((name, kind), set()), kind


def test_notation():
    text = "f32[2,3] - T=0 i32(1,2) T[2]=4 seq(T) optional(T) map(i64,T)"
    proto = written.model(written.Row(written.MS, "It", text, (), {"to": "T", "axis": 1}), "f16")
    node, constants = (
        proto.graph.node[0],
        {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer},
    )
    assert list(node.input) == ["x0", "", "x2", "x3", "x4", "x5", "x6", "x7"]
    assert {a.name: a.i for a in node.attribute} == {"to": onnx.TensorProto.FLOAT16, "axis": 1}
    assert [(p.name, p.type.WhichOneof("value")) for p in proto.graph.input] == [
        *(("x0", "tensor_type"), ("x5", "sequence_type"), ("x6", "optional_type"), ("x7", "map_type")),
    ]
    assert constants["x2"].shape == () and constants["x2"].dtype == np.float16
    np.testing.assert_array_equal(constants["x3"], np.array([1, 2], np.int32))
    np.testing.assert_array_equal(constants["x4"], np.array([4, 4], np.float16))


@pytest.mark.parametrize("word", ["f32[2", "f32{2}", "f32[2]=(1)", "list(f32)"])
def test_a_word_that_is_no_operand(word):
    with pytest.raises(ValueError, match="expected a dtype with sizes, a value or values"):
        written.model(written.Row(written.MS, "It", word, (), {}), "f32")


def test_an_operator_without_a_node_is_named(monkeypatch, capsys):
    monkeypatch.setattr(operators, "DOMAINS", (written.MS,))
    monkeypatch.setattr(sys, "argv", ["operators.py", "--check"])
    rows = {key: value for key, value in written.ROWS.items() if key == (written.MS, "Gelu")}
    wrong = written.Row(written.MS, "Inverse", "T[2,2]", ("i32",), {})
    monkeypatch.setattr(
        operators, "rows", lambda _: [(n, "-", "kernels") for n in ("Gelu", "CDist", "Inverse")]
    )
    for name, value in [("Inverse", [wrong]), ("Nothing", [wrong])]:
        rows[written.MS, name] = value
    monkeypatch.setattr(written, "ROWS", rows)
    monkeypatch.setattr(operators, "ROWS", rows)
    assert operators.main() == 1
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "com.microsoft CDist: no node to try",
        "com.microsoft Inverse: the node is refused with i32",
        "com.microsoft Nothing: no such operator",
        "see the rows of tools/written_probes.py",
    ]
