"""Starting: what is imported when a compiled model runs, and that everything else is there when it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

import tallow
from tallow.builder import Builder

COMPILER = (
    *("tallow.ops", "tallow.kernel", "tallow.lower", "tallow.passes", "tallow.graph", "tallow.scalar"),
    *("tallow.compiler", "tallow.stages", "tallow.verify", "tallow.builder", "tallow.interpret", "tallow.cstyle"),
    *("tallow.schedule.schedule", "tallow.schedule.fuse", "tallow.plan", "tallow.profile", "tallow.roofline"),
    *("tallow_cpu.compile", "tallow_cpu.llvm", "tallow_cpu.lowerings", "tallow_cpu.passes", "tallow_cpu.ops"),
    *("tallow_importers.onnx.importer", "onnx", "google.protobuf", "llvmlite", "ml_dtypes", "click"),
    *("importlib.metadata", "pluggy", "tallow.hooks"),
)


def fresh(code: str, *words: str) -> dict:
    """What a process of its own prints as JSON."""
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, env=os.environ
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


RUN = """
import json, sys
import numpy as np
import tallow
run = tallow.open(sys.argv[1]) if sys.argv[1].endswith(".tallow") else tallow.compile(sys.argv[1])
modules = sorted(sys.modules)
result = np.asarray(run(np.arange(12, dtype=np.float32).reshape(2, 6)))
print(json.dumps({"modules": modules, "after": sorted(sys.modules), "result": result.tolist()}))
"""


def compilers_in(modules: list[str]) -> list[str]:
    return [m for m in modules if any(m == name or m.startswith(f"{name}.") for name in COMPILER)]


@pytest.fixture
def model(save_onnx):
    weights = {"w": np.eye(6, 4, dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Relu", ["t"], ["y"])]
    return save_onnx(nodes, [("x", "FLOAT", ["n", 6])], [("y", "FLOAT", ["n", 4])], weights)


def test_a_model_in_the_cache_runs_without_the_compiler(model, tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path / "cache"))
    first = fresh(RUN, model)
    assert "tallow.compiler" in first["modules"] and "llvmlite" in first["modules"]
    again = fresh(RUN, model)
    assert compilers_in(again["modules"]) == [] and compilers_in(again["after"]) == []
    assert again["result"] == first["result"]


def test_a_saved_model_runs_without_the_compiler(model, tmp_path):
    path = tallow.compile(model).save(tmp_path / "m.tallow")
    found = fresh(RUN, path)
    assert compilers_in(found["modules"]) == [] and compilers_in(found["after"]) == []
    assert found["result"] == [[0, 1, 2, 3], [6, 7, 8, 9]]


def test_steps_on_the_host_bring_the_operators_they_need(tmp_path):
    b = Builder()
    x = b.input("x", "f32", ["n", 6])
    found = b.nonzero(x, defines=("k",))
    graph = b.finish({"y": b.cast(found, dtype=tallow.dtype.f32)})
    path = tallow.compile(graph).save(tmp_path / "m.tallow")
    got = fresh(RUN, path)
    want = np.array(np.nonzero(np.arange(12).reshape(2, 6)))
    np.testing.assert_array_equal(got["result"], want)


def test_sizes_that_must_agree_are_checked_in_a_saved_model(tmp_path):
    b = Builder()
    graph = b.finish({"y": b.matmul(b.input("x", "f32", ["n", "k"]), b.input("w", "f32", ["m", 2]))})
    path = tallow.compile(graph).save(tmp_path / "m.tallow")
    code = """
import json, sys, numpy as np, tallow
run = tallow.open(sys.argv[1])
try:
    run(np.ones((2, 3), "f4"), np.ones((4, 2), "f4"))
except tallow.InputError as error:
    print(json.dumps({"error": str(error)}))
"""
    assert "sizes do not fit" in fresh(code, path)["error"]


def test_every_name_is_there_when_it_is_asked_for():
    code = """
import json, sys, tallow
before = "tallow.compiler" in sys.modules
missing = [name for name in tallow.__all__ if name not in dir(tallow) or not hasattr(tallow, name)]
unlike = [n for n in ("compile", "load", "open", "evaluate") if not callable(getattr(tallow, n))]
from tallow import Model
import tallow.compiler, tallow.evaluate
kinds = [type(getattr(tallow, n)).__name__ for n in ("compile", "evaluate")]
print(json.dumps([before, missing, unlike, Model.__module__, tallow.builder.__name__, kinds]))
"""
    assert fresh(code) == [False, [], [], "tallow.compiler", "tallow.builder", ["function", "function"]]
    with pytest.raises(AttributeError, match="module 'tallow' has no attribute 'compil'"):
        tallow.compil  # noqa: B018


def test_a_saved_model_of_a_dtype_of_ml_dtypes(tmp_path, save_onnx):
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16)]
    nodes.append(helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT))
    path = save_onnx(nodes, [("x", "FLOAT", [2, 6])], [("y", "FLOAT", [2, 6])])
    saved = tallow.compile(path).save(tmp_path / "m.tallow")
    assert fresh(RUN, saved)["result"] == np.arange(12.0).reshape(2, 6).tolist()
