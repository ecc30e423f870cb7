"""The command: verbs, exit codes, JSON, and the demo."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper

from tallow.cli import main


@pytest.fixture
def model(save_onnx):
    node = helper.make_node("Softmax", ["x"], ["y"], name="out", axis=1)
    return str(save_onnx([node], [("x", "FLOAT", ["n", 4])], [("y", "FLOAT", ["n", 4])]))


def call(*words, code=0):
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == code, result.output
    return result.output


def test_inspect_check_and_show(model):
    facts = json.loads(call("inspect", model, "--json"))
    assert facts["inputs"] == ["x: f32[n, 4]"] and facts["operators"] == {"softmax": 1}
    assert "every operator is supported" in call("check", model)
    assert "softmax" in call("show", model)
    assert "kernel " in call("show", model, "--stage", "kernels")
    assert "define" in call("show", model, "--stage", "source")
    assert "vmovups" in call("show", model, "--stage", "assembly") or "mov" in call(
        "show", model, "--stage", "assembly"
    )


def test_compile_run_and_expect(model, tmp_path):
    artifact = tmp_path / "m.tallow"
    call("compile", model, "-o", artifact)
    assert "exists already" in call("compile", model, "-o", artifact, code=1)
    call("compile", model, "-o", artifact, "--force")
    x = np.array([[1, 2, 3, 4]], "f4")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.exp(x) / np.exp(x).sum())
    np.save(tmp_path / "z.npy", x)
    for target in (model, artifact):
        assert "agrees" in call("run", target, f"x=@{tmp_path}/x.npy", "--expect", f"y=@{tmp_path}/y.npy")
        assert "differs" in call(
            "run", target, f"x=@{tmp_path}/x.npy", "--expect", f"y=@{tmp_path}/z.npy", code=1
        )
    assert json.loads(call("run", artifact, "--json", "--dim", "n=3"))["y"]["shape"] == [3, 4]


def test_bench_profile_compare(model):
    assert json.loads(call("bench", model, "--runs", 3, "--json"))["median_ms"] > 0
    assert "GFLOP/s" in call("profile", model)
    assert "every result agrees" in call("compare", model, "--dim", "n=2")


def test_listings():
    assert "cpu" in call("devices")
    assert "a_driver_that_is_not_installed" in json.dumps(json.loads(call("plugins", "--json")))


def test_misuse_and_failure(model, tmp_path):
    call("nothing", code=2)
    call("run", "no-such-file.onnx", code=2)
    call("run", model, "--dim", "n", code=2)
    assert "there is no backend 'cuda'" in call("run", model, "--device", "cuda", code=1)
    assert "expected NAME=VALUE with NAME one of x" in call("run", model, "q=1", code=1)
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    assert "bad.onnx" in call("inspect", tmp_path / "bad.onnx", code=1)


def test_the_demo_knows_its_own_files():
    printed = call("demo")
    assert "python" in printed and "json" in printed and "onnx" in printed and "steps on cpu" in printed
