"""Documents keep their word: their blocks run, and verbs, options and environment variables are those there are."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import tallow
from tallow.cli import main
from tallow.ops import OPS
from tallow.registered import OPERATORS

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
ILLUSTRATION = "<!-- not run"  # a comment before a block says why it is not
_BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<kind>\w*)\n(?P<text>.*?)\n```", re.S)


def blocks(kind: str):
    for path in DOCUMENTS:
        for number, found in enumerate(_BLOCK.finditer(path.read_text())):
            if found["kind"] == kind and not found["before"].startswith(ILLUSTRATION):
                name = f"{path.relative_to(ROOT).as_posix()}:{number}"
                yield pytest.param(found["text"], id=name)


@pytest.fixture(autouse=True)
def only_known_operators():
    """What blocks register is gone after them."""
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)
    OPERATORS.clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of blocks, with the files that they speak of: a classifier of pictures and its data."""
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype("f4")
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["output"], transB=1),
    ]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("input", ["batch", 3, 8, 8]), ("output", ["batch", 4]))
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name in ("model.onnx", "mobilenet.onnx"):
        onnx.save(model, tmp_path / name)
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x.mean((2, 3)) @ weights.T)
    Image.fromarray(np.full((5, 7, 3), 100, "u1")).save(tmp_path / "cat.png")
    (tmp_path / "imagenet.txt").write_text("ant\nbee\ncat\ndog\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", blocks("python"))
def test_python_blocks_run(text, folder):
    exec(compile(text, "block", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("text", blocks("sh"))
def test_shell_blocks_run(text, folder):
    """Lines of `tallow`, with the exit code that they promise; other commands belong into marked blocks."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "tallow", f"{line!r} is not run: mark its block with {ILLUSTRATION}: why -->"
            result = CliRunner().invoke(main, words[1:])
            assert result.exit_code == 0, (line, result.output, result.exception)


def test_the_readme_has_blocks_that_run():
    names = [p.id for kind in ("python", "sh") for p in blocks(kind)]
    assert any(n.startswith("README.md") for n in names) and any(
        n.startswith("docs/command.md") for n in names
    )


def test_few_blocks_are_not_run():
    marked = [
        f["before"]
        for p in DOCUMENTS
        for f in _BLOCK.finditer(p.read_text())
        if f["before"].startswith(ILLUSTRATION)
    ]
    assert len(marked) <= 8 and all(re.fullmatch(r"<!-- not run: \w.*\w -->", m) for m in marked)


def test_the_readmes_first_program_prints_a_plan(folder, capsys):
    text = next(p.values[0] for p in blocks("python") if p.id.startswith("README.md"))
    exec(compile(text, "block", "exec"), {})
    assert "steps" in capsys.readouterr().out


def test_the_example_of_custom_operators_runs():
    command = [sys.executable, ROOT / "examples" / "custom_operator.py"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "cpu  cpu.matmul+mine.hard_swish" in [line.strip() for line in lines]
    assert float(lines[-1].rpartition(" ")[2]) < 1e-5


# Names --------------------------------------------------------------------------------------------


def test_every_verb_is_documented_and_every_documented_verb_exists():
    text = (ROOT / "docs/command.md").read_text()
    said = set(re.findall(r"`tallow (\w+)", text))
    assert said == set(main.commands)


def test_every_option_of_the_command_is_documented():
    """And the other way round: an option that a document names exists."""
    text = (ROOT / "docs/command.md").read_text()
    real = {
        o
        for verb in main.commands.values()
        for p in verb.params
        for o in (*p.opts, *p.secondary_opts)
        if o.startswith("--")
    } | {"--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", text))
    assert named <= real, named - real
    assert named == real, real - named


def test_environment_variables_are_documented():
    sources = [
        *ROOT.glob("core/src/**/*.py"),
        *ROOT.glob("plugins/*/src/**/*.py"),
        *ROOT.glob("importers/src/**/*.py"),
    ]
    used = {name for path in sources for name in re.findall(r"\bTALLOW_[A-Z]+\b", path.read_text())} - {
        "TALLOW_API"
    }
    listed = set(re.findall(r"`(TALLOW_[A-Z]+)`", (ROOT / "docs/command.md").read_text()))
    assert used == listed and len(listed) <= 6


def test_errors_are_documented_where_they_are_exported():
    for name in tallow.__all__:
        assert getattr(tallow, name).__doc__, name
