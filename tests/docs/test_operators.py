"""docs/operators.md is what its generator writes, and the generator tells kernels from host steps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "operators.py"


@pytest.fixture(scope="module")
def operators():
    spec = importlib.util.spec_from_file_location("operators", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_up_to_date(operators):
    assert operators.DOCUMENT.read_text() == operators.text(), "run python tools/operators.py"


def test_rows_say_how_operators_run(operators):
    table = {name: how for name, _, how in operators.rows("")}
    assert table["Add"] == table["Gemm"] == table["Conv"] == "kernels"
    assert table["NonZero"] == "host: nonzero" and "sequence_at" in table["SequenceAt"]
    assert table["Loop"].startswith("control flow") and table["SoftmaxCrossEntropyLoss"] == "definition"
    training = {name: how for name, _, how in operators.rows("ai.onnx.preview.training")}
    assert training["Gradient"] == "not supported" and training["Adam"] == "kernels"


def test_probes_tell_kernels_from_host_steps_by_dtype_and_backend(operators):
    compiled, host = operators.described(operators.probe("", "Cast"))
    assert compiled == "floats integers bool" and "f8" in host and "string" in host
    assert operators.described(operators.probe("", "NonZero"))[0] == ""
    assert operators.described(operators.probe("", "Conv")) == ("floats", "")
    assert operators.described(operators.probe("", "Gradient")) == ("", "")


def test_backends_are_named_where_they_differ(operators):
    import operator_probes

    found = operator_probes.Found()
    found.compiled |= {"cpu": ["f32"], "opencl": ["f32", "i8"], "cuda": ["i8", "f32"]}
    assert operators.described(found)[0] == "cpu: f32; opencl: f32 i8; cuda: f32 i8"
