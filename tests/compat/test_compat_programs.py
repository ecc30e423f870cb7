"""Programs that import onnxruntime, run unmodified on Tallow."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from compat_support import model, port, sums

PROGRAM = """
import json, sys
import numpy as np
import onnxruntime
import onnxruntime as ort
from importlib.metadata import version
from importlib.util import find_spec
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from onnxruntime.capi import _pybind_state as C
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession

path, = sys.argv[1:]
session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
try:
    session.run(None, {"x": np.zeros(3, np.float32)})
except InvalidArgument as error:
    words = str(error)
print(json.dumps({
    "y": session.run(["y"], {"x": np.ones((1, 1, 3), np.float32)})[0].tolist(),
    "words": words,
    "same": InferenceSession is ort.InferenceSession and C.InvalidArgument is InvalidArgument,
    "version": version("onnxruntime") == ort.__version__,
    "found": find_spec("onnxruntime") is not None,
    "main": __name__,
    "argv": len(sys.argv),
    "first": sys.path[0],
}))
print(getattr(ort, "install", None) is not None, file=sys.stderr)
"""


@pytest.fixture
def program(tmp_path):
    onnx.save(sums(), tmp_path / "m.onnx")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def run(*words, folder: Path | None = None, check=True):
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=check)


def test_a_program_prints_the_same(program):
    model = program.with_name("m.onnx")
    theirs = run(program, model)
    mine = run("-m", "tallow.compat.onnxruntime", program, model)
    assert json.loads(mine.stdout) == json.loads(theirs.stdout)
    assert (theirs.stderr.split()[-1], mine.stderr.split()[-1]) == ("False", "True")


def test_a_module_by_name(program):
    mine = run("-m", "tallow.compat.onnxruntime", "-m", "program", "m.onnx", folder=program.parent)
    assert json.loads(mine.stdout)["y"] == [[[2, 2, 2]]] and "True" in mine.stderr


def test_a_program_without_onnxruntime_installed(program):
    """Its files are hidden from the program; only the module of Tallow is there."""
    hide = f"""
import importlib.metadata, importlib.machinery, runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
original = importlib.metadata.MetadataPathFinder.find_distributions
def without(context=importlib.metadata.DistributionFinder.Context()):
    return (d for d in original(context) if d.metadata["Name"] != "onnxruntime")
importlib.metadata.MetadataPathFinder.find_distributions = without
sys.argv = ["x", {str(program)!r}, {str(program.with_name("m.onnx"))!r}]
try:
    import onnxruntime
except ModuleNotFoundError:
    runpy.run_module("tallow.compat.onnxruntime", run_name="__main__", alter_sys=True)
"""
    told = json.loads(run("-c", hide).stdout)
    assert told["y"] == [[[2, 2, 2]]] and told["version"] and told["found"]


@pytest.mark.parametrize("words", [[], ["--what"], ["no_such_program.py"], ["-m"]])
def test_misuse(words):
    result = run("-m", "tallow.compat.onnxruntime", *words, check=False)
    assert result.returncode == 2 and "usage: python -m tallow.compat.onnxruntime" in result.stderr


def test_exit_codes_of_programs_pass_through(tmp_path):
    (tmp_path / "p.py").write_text("import sys; sys.exit(7)")
    assert run("-m", "tallow.compat.onnxruntime", tmp_path / "p.py", check=False).returncode == 7


NOTEBOOK = """
import importlib, sys
import tallow.compat.onnxruntime
tallow.compat.onnxruntime.install()
tallow.compat.onnxruntime.install()
import onnxruntime
assert onnxruntime is tallow.compat.onnxruntime
import onnxruntime.capi.onnxruntime_pybind11_state as state
assert state.Fail is tallow.compat.onnxruntime.errors.Fail
import onnxruntime.transformers.io_binding_helper as helper
assert helper.TypeHelper.ort_type_to_onnx_type("tensor(float)") == 1
for name in ("nothing_of_the_kind", "capi.training", "quantization"):
    try:
        importlib.import_module(f"onnxruntime.{name}")
    except ModuleNotFoundError as error:
        print(error.name)
"""
ALONE = """
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = (
    lambda name, path=None, target=None: None if name == "onnxruntime" else find(name, path, target)
)
"""


def test_installing_in_a_running_python():
    result = run("-c", NOTEBOOK)
    assert result.stdout.split() == ["onnxruntime.nothing_of_the_kind", "onnxruntime.capi.training"]
    assert "cannot honour import of onnxruntime.capi.training: Tallow has no such module" in result.stderr
    result = run("-c", ALONE + NOTEBOOK)
    assert result.stdout.split()[-1] == "onnxruntime.quantization"
    assert (
        "onnxruntime.quantization: it is a tool" in result.stderr
        and "install onnxruntime beside" in result.stderr
    )
    result = run("-c", "import onnxruntime" + NOTEBOOK)
    assert "onnxruntime was imported before" in result.stderr


def test_only_the_named_distribution_is_ours(tmp_path):
    (tmp_path / "p.py").write_text(
        "import importlib.metadata as m\n"
        "print(m.version('numpy'), m.metadata('onnxruntime')['Summary'])\n"
        "print(m.version('onnx_runtime') if False else sorted(n for n in ('ONNXRuntime',) if m.version(n)))\n"
        "print(m.distribution('onnxruntime').files)\n"
    )
    out = run("-m", "tallow.compat.onnxruntime", tmp_path / "p.py").stdout.splitlines()
    assert out[0].startswith(importlib.metadata.version("numpy") + " Tallow") and out[1:] == [
        "['ONNXRuntime']",
        "None",
    ]


TOOLS = """
import sys
import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers import onnx_model
import onnx, onnxruntime.backend

class Reader(CalibrationDataReader):
    feeds = iter([{"x": np.linspace(-1, seed, 32, dtype=np.float32).reshape(2, 16)} for seed in (1, 2)])
    def get_next(self):
        return next(self.feeds, None)

source, folder = sys.argv[1:]
quantize_dynamic(source, f"{folder}/dynamic.onnx", weight_type=QuantType.QInt8)
quantize_static(source, f"{folder}/static.onnx", Reader())
x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
for name in ("dynamic", "static"):
    session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx", providers=["CPUExecutionProvider"])
    print(session.run(None, {"x": x})[0].round(4).tolist())
print(onnx_model.OnnxModel(onnx.load(source)).input_name_to_nodes())
print(onnxruntime.backend.prepare(onnx.load(source)).run([x])[0].round(4).tolist())
"""


def test_tools_of_an_installed_onnxruntime(tmp_path):
    """They run on Tallow what they run, and write the same models."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((16, 8)).astype("f4"), "b": rng.standard_normal(8).astype("f4")}
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["m"]),
        onnx.helper.make_node("Add", ["m", "b"], ["a"]),
        onnx.helper.make_node("Relu", ["a"], ["y"]),
    ]
    proto = model(nodes, [port("x", "FLOAT", ["n", 16])], [port("y", "FLOAT", ["n", 8])], constants)
    onnx.save(proto, tmp_path / "m.onnx")
    (tmp_path / "p.py").write_text(TOOLS)
    told = []
    for prefix, folder in (((), "theirs"), (("-m", "tallow.compat.onnxruntime"), "mine")):
        (tmp_path / folder).mkdir()
        told.append(run(*prefix, tmp_path / "p.py", tmp_path / "m.onnx", tmp_path / folder).stdout)
    assert told[0] == told[1]
    for name in ("dynamic.onnx", "static.onnx"):
        assert (tmp_path / "mine" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
