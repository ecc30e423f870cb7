"""The command: verbs, exit codes, JSON, what is compared and what is refused."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper
from PIL import Image

import tallow
from tallow import plugins
from tallow.cli import main, reference
from tallow.errors import Unavailable
from tallow.graph import parse


@pytest.fixture
def model(save_onnx):
    node = helper.make_node("Softmax", ["x"], ["y"], name="out", axis=1)
    return str(save_onnx([node], [("x", "FLOAT", ["n", 4])], [("y", "FLOAT", ["n", 4])]))


def call(*words, code=0):
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def told(*words, code=0):
    """The JSON that a verb prints."""
    return json.loads(call(*words, "--json", code=code))


# Looking ------------------------------------------------------------------------------------------


def test_inspect(model):
    facts = told("inspect", model)
    assert facts["inputs"] == ["x: f32[n, 4]"] and facts["operators"] == {"softmax": 1}
    assert told("inspect", model, "--dim", "n=3")["inputs"] == ["x: f32[3, 4]"]
    text = call("inspect", model)
    assert "x: f32[n, 4]" in text and "softmax 1" in text and "opset" in text


def test_check_lists_host_steps_and_all_that_is_unsupported(model, save_onnx):
    assert "every operator is supported; 0 of 1 steps run on the host" in call("check", model)
    nodes = [helper.make_node("NonZero", ["x"], ["y"], name="where")]
    path = save_onnx(nodes, [("x", "FLOAT", ["n", 4])], [("y", "INT64", [2, "k"])], name="host.onnx")
    (step,) = told("check", path)["host"]
    assert (step["op"], step["node"]) == ("nonzero", "where") and step["reason"]
    assert "nonzero" in call("check", path)
    nodes = [helper.make_node("Odd", ["x"], ["a"], name="first"), helper.make_node("Even", ["a"], ["y"])]
    path = save_onnx(nodes, [("x", "FLOAT", [4])], [("y", "FLOAT", [4])], name="odd.onnx")
    for text in (call("check", path, code=1), told("check", path, code=1)["error"]):
        assert "Odd" in text and "Even" in text and '"first"' in text


def test_show_prints_every_stage(model):
    assert "softmax" in call("show", model)
    for stage, word in {
        "graph": "softmax(%x)",
        "prepared": "graph",
        "program": "KernelStep",
        "kernels": "kernel ",
        "source": "define",
        "assembly": "ret",
    }.items():
        assert word in call("show", model, "--stage", stage)
    assert told("show", model, "--stage", "kernels")["stage"] == "kernels"
    call("show", model, "--stage", "nothing", code=2)


def test_a_shown_graph_can_be_parsed_again(save_onnx):
    weights = {"w": np.arange(40, dtype="f4").reshape(4, 10)}
    path = save_onnx(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", "FLOAT", ["n", 4])],
        [("y", "FLOAT", ["n", 10])],
        weights,
    )
    assert "{...}" in call("show", path)
    graph = parse(call("show", path, "--full"))
    x = np.ones((2, 4), "f4")
    np.testing.assert_array_equal(tallow.compile(graph)(x), x @ weights["w"])


# Compiling and running ----------------------------------------------------------------------------


def test_compile_run_and_expect(model, tmp_path):
    artifact = tmp_path / "m.tallow"
    assert told("compile", model, "-o", artifact)["steps"] == 1
    assert "exists already" in call("compile", model, "-o", artifact, code=1)
    assert "m.tallow: cpu:" in call("compile", model, "-o", artifact, "--force")
    x = np.array([[1, 2, 3, 4]], "f4")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.exp(x) / np.exp(x).sum())
    np.save(tmp_path / "z.npy", x)
    for target in (model, artifact):
        assert "agrees" in call("run", target, f"x=@{tmp_path}/x.npy", "--expect", f"y=@{tmp_path}/y.npy")
        failed = call("run", target, f"x=@{tmp_path}/x.npy", "--expect", f"y=@{tmp_path}/z.npy", code=1)
        assert "y differs from what was expected: 4 of 4 elements differ, largest difference 3.36" in failed
        (check,) = told("run", target, f"x=@{tmp_path}/x.npy", "--expect", f"y=@{tmp_path}/z.npy", code=1)[
            "expect"
        ]
        assert check["agrees"] is False and check["difference"] == pytest.approx(3.3561, abs=1e-3)
        call("run", target, f"x=@{tmp_path}/x.npy", "--expect", f"y=@{tmp_path}/z.npy", "--atol", 4)
    assert told("run", artifact, "--dim", "n=3")["y"]["shape"] == [3, 4]
    np.save(tmp_path / "wide.npy", np.ones((1, 5)))
    assert "shape [1, 4], expected [1, 5]" in call(
        "run", model, "--expect", f"y=@{tmp_path}/wide.npy", code=1
    )
    call("run", model, "--expect", "z=@z.npy", code=2)


def test_sizes_can_be_bounded(model):
    assert told("run", model, "--dim", "n=2..3")["y"]["shape"] == [2, 4]
    assert "size n = 1 is outside 2..3" in call("run", model, "--dim", "n=2..3", "x=[1,2,3,4]", code=1)
    assert told("run", model, "--dim", "n=2..")["y"]["shape"] == [2, 4]
    for bad in ("n", "n=", "n=x", "n=1..x", "=2", "n=-1"):
        assert "expected NAME=SIZE or NAME=LEAST..GREATEST" in call("run", model, "--dim", bad, code=2)
    assert "no size named 'm'" in call("run", model, "--dim", "m=2", code=1)


def test_results_are_saved_once(model, tmp_path):
    call("run", model, "x=[1,2,3,4]", "--save", tmp_path / "r.npz")
    assert np.load(tmp_path / "r.npz")["y"].shape == (1, 4)
    assert "exists already" in call("run", model, "--save", tmp_path / "r.npz", code=1)
    call("run", model, "--save", tmp_path / "r.npz", "--force")


@pytest.mark.parametrize(
    "dtype,text,want",
    [
        ("FLOAT", "3", [[3.0]]),
        ("FLOAT", "[[1.5, 2], [3, 4]]", [[1.5, 2], [3, 4]]),
        ("INT64", "[1, 2]", [[1, 2]]),
        ("INT8", "[-128, 127]", [[-128, 127]]),
        ("BOOL", "[true, false]", [[True, False]]),
        ("FLOAT", "[]", np.empty((1, 0))),
    ],
)
def test_literals(save_onnx, dtype, text, want, tmp_path):
    path = save_onnx(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", dtype, ["a", "b"])], [("y", dtype, ["a", "b"])]
    )
    call("run", path, f"x={text}", "--save", tmp_path / "r.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "r.npz")["y"], want)


def test_inputs_that_cannot_be_are_refused(model, save_onnx, tmp_path):
    (tmp_path / "text.npy").write_text("text")
    np.savez(tmp_path / "many.npz", a=1)
    np.save(tmp_path / "double.npy", np.ones((1, 4)))
    for word, message in [
        ("q=1", "expected NAME=VALUE with NAME one of x"),
        ("x", "expected NAME=VALUE"),
        ("x=nonsense", "expected @file.npy, @picture.png, random, a number or a list"),
        ("x=[[1], [2, 3]]", "expected @file.npy"),
        ("x=@none.npy", "input file none.npy does not exist"),
        (f"x=@{tmp_path}/text.npy", "is no numpy file"),
        (f"x=@{tmp_path}/many.npz", "holds several arrays"),
        (f"x=@{tmp_path}/double.npy", "got dtype f64"),
        ("x=@none.png", "a picture needs a model input of rank 4"),
    ]:
        assert message in call("run", model, word, code=1)
    path = save_onnx([helper.make_node("Identity", ["x"], ["y"])], [("x", "INT8", [2])], [("y", "INT8", [2])])
    for text in ("[1.5, 2]", "[300, 1]"):
        assert "expected values of i8" in call("run", path, f"x={text}", code=1)


# Pictures and labels ------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path):
    """A 2x2 picture: red, green / blue, white."""
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], "u1")
    Image.fromarray(pixels).save(tmp_path / "p.png")
    return tmp_path / "p.png", pixels


def identity(save_onnx, shape, dtype="FLOAT"):
    return save_onnx(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", dtype, shape)], [("y", dtype, shape)]
    )


def result_of(tmp_path, *words):
    call("run", *words, "--save", tmp_path / "r.npz", "--force")
    return np.load(tmp_path / "r.npz")["y"]


def test_pictures_are_prepared_as_the_model_wants(save_onnx, picture, tmp_path):
    path, pixels = picture
    unit = pixels.astype("f4") / 255
    first = identity(save_onnx, [1, 3, 2, 2])
    np.testing.assert_allclose(result_of(tmp_path, first, f"x=@{path}"), unit.transpose(2, 0, 1)[None])
    mean, std = np.array([0.5, 0.4, 0.3], "f4"), np.array([0.2, 0.3, 0.4], "f4")
    flags = ["--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.4"]
    want = ((unit - mean) / std).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(result_of(tmp_path, first, f"x=@{path}", *flags), want, rtol=1e-5)
    want = unit[:, :, ::-1].transpose(2, 0, 1)[None]
    np.testing.assert_allclose(result_of(tmp_path, first, f"x=@{path}", "--channels", "bgr"), want)
    np.testing.assert_allclose(
        result_of(tmp_path, first, f"x=@{path}", "--scale", 1), 255 * unit.transpose(2, 0, 1)[None]
    )
    last = identity(save_onnx, ["n", "h", "w", 3])
    np.testing.assert_allclose(result_of(tmp_path, last, f"x=@{path}"), unit[None])
    free = identity(save_onnx, ["n", "a", "b", "c"])
    np.testing.assert_allclose(result_of(tmp_path, free, f"x=@{path}", "--layout", "nhwc"), unit[None])
    whole = identity(save_onnx, [1, 2, 2, 3], "UINT8")
    np.testing.assert_array_equal(result_of(tmp_path, whole, f"x=@{path}", "--scale", 1), pixels[None])
    grey = identity(save_onnx, [1, 1, 4, 4])
    assert result_of(tmp_path, grey, f"x=@{path}").shape == (1, 1, 4, 4)


def test_pictures_that_do_not_fit_are_refused(save_onnx, picture, tmp_path):
    path, _ = picture
    first = identity(save_onnx, [1, 3, 2, 2])
    assert "3 channels do not fit" in call("run", first, f"x=@{path}", "--mean", "1,2", code=1)
    assert "expected numbers with commas" in call("run", first, f"x=@{path}", "--std", "a", code=2)
    (tmp_path / "bad.png").write_bytes(b"bad")
    assert "is no picture" in call("run", first, f"x=@{tmp_path}/bad.png", code=1)
    assert "4 channels do not fit" in call(
        "run", identity(save_onnx, [1, 4, 2, 2]), f"x=@{path}", "--layout", "nchw", code=1
    )


def test_labels_name_the_best_scores(model, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\n")
    text = call("run", model, "x=[[1,2,3,4],[9,3,2,1]]", "--labels", labels, "--top", 2)
    assert text.index("dog") < text.index("cat") < text.index("ant") < text.index("bee")
    rows = told("run", model, "x=[1,4,3,2]", "--labels", labels, "--top", 1)["labels"]
    assert [r["label"] for r in rows] == ["bee"] and rows[0]["score"] == pytest.approx(0.6439, abs=1e-4)
    named = tmp_path / "labels.json"
    named.write_text(json.dumps({"0": "a", "1": "b", "2": "c", "3": "d"}))
    assert told("run", model, "x=[1,4,3,2]", "--labels", named)["labels"][0]["label"] == "b"
    labels.write_text("one\ntwo")
    assert "2 labels do not fit a result of shape [1, 4]" in call("run", model, "--labels", labels, code=1)
    named.write_text("{")
    assert "bad JSON" in call("run", model, "--labels", named, code=1)
    named.write_text("[1]")
    assert "expected a JSON list of texts" in call("run", model, "--labels", named, code=1)


# Time ---------------------------------------------------------------------------------------------


def test_bench(model):
    facts = told("bench", model, "--runs", 3, "--threads", 1)
    assert 0 < facts["min_ms"] <= facts["median_ms"] <= facts["max_ms"] and facts["threads"] == 1
    assert "over 4 runs" in call("bench", model, "--runs", 4)
    call("bench", model, "--runs", 0, code=2)
    call("bench", model, "--threads", 0, code=2)


def test_profile(model, tmp_path):
    text = call("profile", model, "--trace", tmp_path / "t.json")
    assert "GFLOP/s" in text and "roofline: " in text and "softmax" in text
    (event,) = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert event["ph"] == "X" and event["dur"] > 0
    assert "exists already" in call("profile", model, "--trace", tmp_path / "t.json", code=1)
    facts = told("profile", model, "--no-roofline")
    assert facts["roofline"] is None and len(facts["steps"]) == 1
    assert told("profile", model)["steps"][0]["share"] > 0


# Comparing ----------------------------------------------------------------------------------------


@pytest.fixture
def deep(save_onnx, rng):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="dense"),
        helper.make_node("Erf", ["a"], ["b"], name="squash"),
        helper.make_node("ReduceSum", ["b"], ["y"], name="total"),
    ]
    weights = {"w": rng.standard_normal((4, 6)).astype("f4")}
    return save_onnx(nodes, [("x", "FLOAT", ["n", 4])], [("y", "FLOAT", [1, 1])], weights)


@pytest.mark.parametrize("against", ["evaluate", "onnxruntime"])
def test_compare_agrees(deep, against):
    facts = told("compare", deep, "--against", against, "--dim", "n=3")
    assert facts["agrees"] and facts["compared"] >= 4 and facts["first"] is None
    assert f"results agree with {against}" in call("compare", deep, "--against", against)


@pytest.mark.parametrize("against", ["evaluate", "onnxruntime"])
def test_the_first_node_that_differs_is_named(deep, against, monkeypatch):
    """The device gets another erf; both the oracle and the nodes before keep theirs."""
    backend = plugins.backend("cpu")
    compile_kernels = backend.compile

    def wrong(kernels, target):
        from dataclasses import replace

        from tallow.kernel.grammar import Call

        def changed(part):
            if isinstance(part, Call) and part.function == "erf":
                return replace(part, function="tanh")
            if isinstance(part, tuple):
                return tuple(map(changed, part))
            if hasattr(part, "__dataclass_fields__") and type(part).__module__ == "tallow.kernel.grammar":
                return replace(part, **{k: changed(getattr(part, k)) for k in part.__dataclass_fields__})
            return part

        return compile_kernels([changed(k) for k in kernels], target)

    monkeypatch.setattr(backend, "compile", wrong, raising=False)
    facts = told("compare", deep, "--against", against, code=1)
    assert 'Erf node "squash"' in facts["first"]["node"] and "largest difference" in facts["first"]["why"]
    assert f"first difference from {against} at Erf node" in call(
        "compare", deep, "--against", against, code=1
    )


def test_a_missing_onnxruntime_is_said(deep, monkeypatch):
    real = builtins.__import__

    def none(name, *rest):
        if name == "onnxruntime":
            raise ImportError("none", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", none)
    said = call("compare", deep, "--against", "onnxruntime", code=1)
    assert "needs onnxruntime: pip install onnx onnxruntime" in said


def test_what_onnxruntime_cannot_run_is_said(save_onnx, tmp_path):
    opsets = [helper.make_opsetid("", 17)]
    body = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        opsets,
    )
    path = save_onnx(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")], [("x", "FLOAT", [3])], [("y", "FLOAT", [3])]
    )
    model = onnx.load(path)
    model.functions.append(body)
    onnx.save(model, path)  # names no opset for the domain
    assert "onnxruntime cannot run this model" in call("compare", path, "--against", "onnxruntime", code=1)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(tallow.InputError, match=r"reads \.onnx files, got config.json"):
        with reference.exposed(tmp_path / "config.json"):
            pass


# Listings and misuse ------------------------------------------------------------------------------


def test_listings():
    assert "cpu" in call("devices")
    assert "a_driver_that_is_not_installed" in json.dumps(told("plugins"))
    rows = {row["device"]: row for row in told("devices")}
    assert rows["cpu"]["memory"].endswith("GiB") and "not usable" in rows["broken"]["what"]
    assert "test" not in rows["cpu"]
    assert rows["cpu"]["from"] == "tallow-cpu 0.1.0" and rows["broken"]["from"] == "tallow-broken 0.1.0"
    assert rows["broken"]["what"].endswith("pip install tallow-broken adds what it requires")


class Driverless:
    """A backend whose driver says what the test wants."""

    def __init__(self, answer):
        self.answer = answer

    def devices(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_backends_that_are_not_usable_are_listed_with_the_reason_on_one_line(monkeypatch):
    host = plugins.PluginHost([])
    answers = {
        "first": OSError("no driver\nat all"),
        "second": Unavailable("no driver\nhere: pip install x"),
        "third": [],
    }
    for name, answer in answers.items():
        host.register("backend", name, lambda answer=answer: Driverless(answer))
    host.register("backend", "twice", object, "one")
    host.register("backend", "twice", object, "other")
    monkeypatch.setattr(plugins, "host", lambda: host)
    assert {row["device"]: row["what"] for row in told("devices")} == {
        "first": "not usable: OSError: no driver at all",
        "second": "not usable: no driver here: pip install x",
        "third": "not usable: it finds no device here",
        "twice": "not usable: backend 'twice' comes from both one and other: uninstall one of them",
    }


def test_a_device_that_breaks_is_told(monkeypatch):
    def broken(*words):
        raise OSError("lost")

    monkeypatch.setattr(tallow, "compile", broken)
    rows = {row["device"]: row["test"] for row in told("devices", "--test", code=1)}
    assert rows["cpu"] == "failed: OSError: lost"


def test_devices_are_tried(monkeypatch):
    rows = {row["device"]: row["test"] for row in told("devices", "--test")}
    assert rows.pop("opencl:0", "ok") == "ok" and rows.pop("opencl", "not run") == "not run"
    assert rows.pop("cuda", "not run") == "not run"
    assert rows == {"cpu": "ok", "example": "ok", "fake": "ok", "fake:apart": "ok", "broken": "not run"}
    real = tallow.evaluate
    monkeypatch.setattr(
        tallow, "evaluate", lambda graph, inputs: {n: a + 1 for n, a in real(graph, inputs).items()}
    )
    rows = {row["device"]: row["test"] for row in told("devices", "--test", code=1)}
    assert rows["cpu"] == "failed: wrong results for rows, total"


def test_nothing_installed_is_said(monkeypatch):
    monkeypatch.setattr(plugins, "host", lambda: plugins.PluginHost([]))
    assert "no backend is installed: pip install tallow-cpu" in call("devices")
    assert "no plugin is installed" in call("plugins")
    assert told("plugins") == []


def test_misuse_and_failure(model, tmp_path):
    call("nothing", code=2)
    call("run", "no-such-file.onnx", code=2)
    assert "there is no backend 'vulkan'" in call("run", model, "--device", "vulkan", code=1)
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    assert "bad.onnx" in call("inspect", tmp_path / "bad.onnx", code=1)
    (tmp_path / "bad.tallow").write_bytes(b"bad")
    assert "bad.tallow" in call("run", tmp_path / "bad.tallow", code=1)
    assert "tallow: " in call("compile", model, "-o", tmp_path / "none" / "m.tallow", code=1)


def test_the_command_says_what_it_needs():
    program = "import sys; sys.modules['click'] = None; import tallow.cli"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'tallow[cli]'" in done.stderr


def test_the_demo_knows_its_own_files(tmp_path):
    printed = call("demo")
    assert "python" in printed and "json" in printed and "onnx" in printed and "steps on cpu" in printed
    (tmp_path / "page.html").write_text("<html><head><title>t</title></head><body><p>text</p></body></html>")
    (row,) = told("demo", tmp_path / "page.html")["files"]
    assert row["file"] == "page.html" and row["kinds"][0][0] == "html"
