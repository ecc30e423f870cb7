"""The benchmarks' own parts, without timing anything: building models, the workers' protocol, arithmetic, tables."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import tallow
from benchmarks import catalogue, measure, models_torch, results, worker
from benchmarks.__main__ import main
from benchmarks.catalogue import MODELS, Model, Unbuildable
from benchmarks.engines import ENGINES, Job
from benchmarks.measure import Failed, Settings, Worker
from benchmarks.report import latency_table, markdown, plot
from benchmarks.results import Latency, ModelResult, Run, Start


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return catalogue.build(MODELS["squeezenet"], folder)


@pytest.fixture
def small(save_onnx, rng):
    """y = relu(x w), with an open size."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    ports = [("x", "FLOAT", ["batch", 4])], [("y", "FLOAT", ["batch", 3])]
    return save_onnx(nodes, *ports, {"w": rng.standard_normal((4, 3)).astype("f4")}, ir_version=8)


def job(small, tmp_path, engine="tallow", way="cold", name="engine"):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    return Job(engine, way, str(small), 1, str(folder), ["y"])


def inputs_for(small, tmp_path):
    model = catalogue.find(f"{small},batch=2")
    path = tmp_path / "inputs.npz"
    np.savez(path, **catalogue.signature(model, small).inputs)
    return path


def test_a_light_model_has_weights_that_make_its_result_depend_on_its_input(light):
    session = onnxruntime.InferenceSession(light, providers=["CPUExecutionProvider"])
    assert not any(node.op_type == "ConstantOfShape" for node in onnx.load(light).graph.node)
    described = catalogue.signature(MODELS["squeezenet"], light)
    (name,) = described.inputs
    first, second = (
        session.run(None, {name: scale * described.inputs[name]})[0]
        for scale in (np.float32(1), np.float32(-1))
    )
    assert first.shape == (1, 1000, 1, 1)
    np.testing.assert_allclose(first.sum(), 1, rtol=1e-5)
    assert first.std() > 1e-4  # a flat softmax would be 1/1000 everywhere
    assert np.abs(first - second).max() > 0.01 * first.max()


def test_building_again_gives_the_same_bytes_and_a_built_model_is_kept(light, tmp_path):
    again = catalogue.build(MODELS["squeezenet"], tmp_path)
    assert again.read_bytes() == light.read_bytes()
    again.write_bytes(b"kept")
    assert catalogue.build(MODELS["squeezenet"], tmp_path).read_bytes() == b"kept"
    assert catalogue.build(MODELS["squeezenet"], tmp_path, force=True).read_bytes() == light.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["squeezenet.onnx"]


def test_every_model_has_a_recipe():
    torch = {name for name, model in MODELS.items() if model.recipe == "torch"}
    assert torch == set(models_torch.RECIPES)
    assert {model.recipe for model in MODELS.values()} == {"light", "torch"}


def test_without_the_exporter_a_model_is_refused_by_name(tmp_path, monkeypatch):
    def missing(name, path):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setitem(catalogue.RECIPES, "torch", missing)
    with pytest.raises(Unbuildable, match="bilstm needs torch to be built: pip install torch transformers"):
        catalogue.build(MODELS["bilstm"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_models_are_found_by_name_and_by_file(small):
    assert catalogue.find("resnet50") is MODELS["resnet50"]
    found = catalogue.find(f"{small},batch=2")
    assert (found.name, found.dims, found.path) == ("model", {"batch": 2}, small.resolve())


@pytest.mark.parametrize(
    "word, message",
    [
        (
            "resnet5",
            "unknown model 'resnet5': did you mean resnet50.* or one of resnet50, mobilenetv2, .*mlp",
        ),
        ("there/is/none.onnx", "model file there/is/none.onnx does not exist"),
        ("{small},batch", "expected FILE.onnx,NAME=SIZE"),
        ("{small},batch=two", "expected FILE.onnx,NAME=SIZE"),
    ],
)
def test_models_that_are_not_found_are_refused(word, message, small):
    with pytest.raises(Unbuildable, match=message):
        catalogue.find(word.format(small=small))


def test_inputs_have_the_sizes_and_ranges_that_the_model_says(small, save_onnx):
    with pytest.raises(Unbuildable, match='input "x" has the open size batch: give it as FILE.onnx,batch=1'):
        catalogue.signature(catalogue.find(str(small)), small)
    x = catalogue.signature(catalogue.find(f"{small},batch=5"), small).inputs["x"]
    assert x.shape == (5, 4) and x.dtype == np.float32 and x.std() > 0.3

    node = helper.make_node("Identity", ["ids"], ["y"])
    tokens = save_onnx([node], [("ids", "INT64", [1, 500])], [("y", "INT64", [1, 500])], name="tokens.onnx")
    ids = catalogue.signature(Model("t", "T", integers={"ids": (10, 12)}), tokens).inputs["ids"]
    assert ids.dtype == np.int64 and set(ids.ravel()) == {10, 11}
    text = save_onnx([node], [("ids", "STRING", [1])], [("y", "STRING", [1])], name="text.onnx")
    with pytest.raises(Unbuildable, match='no noise of dtype .* for input "ids"'):
        catalogue.signature(Model("t", "T"), text)


def test_a_worker_answers_a_job_then_runs_and_says_what_is_wrong(small, tmp_path):
    first = {
        "job": asdict(job(small, tmp_path, "onnxruntime")),
        "inputs": str(inputs_for(small, tmp_path)),
        "results": str(tmp_path / "results.npz"),
    }
    answers = []
    worker.serve(map(json.dumps, [first, {"runs": 3}]), answers.append)
    start, turn = answers
    assert start["first_s"] >= start["import_s"] + start["load_s"] > 0
    assert start["peak_mb"] > 10 and start["kept_bytes"] > 0
    assert 0 < turn["least"] <= turn["median"]
    with np.load(tmp_path / "results.npz") as stored, np.load(tmp_path / "inputs.npz") as inputs:
        want = tallow.evaluate(tallow.load(small).graph, dict(inputs))["y"]
        np.testing.assert_allclose(stored["y"], want, rtol=1e-5, atol=1e-6)

    answers.clear()
    first["job"]["model"] = str(tmp_path / "none.onnx")
    worker.serve([json.dumps(first)], answers.append)
    assert "none.onnx" in answers[0]["error"]


@pytest.mark.parametrize(
    "engine, ways", [("tallow", ("cold", "warm", "saved")), ("onnxruntime", ("cold", "saved"))]
)
def test_every_way_of_loading_gives_the_same_results(engine, ways, small, tmp_path):
    assert ENGINES[engine].ways == ways
    inputs = inputs_for(small, tmp_path)
    found = []
    for way in ways:
        with Worker(job(small, tmp_path, engine, way), inputs) as process:
            found.append(process.results()["y"])
            assert process.ask(runs=2)["least"] > 0
    assert found[0].shape == (2, 3)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_worker_that_cannot_load_gives_the_reason(small, tmp_path):
    inputs = inputs_for(small, tmp_path)
    with pytest.raises(Failed, match="ArtifactError"):
        Worker(job(small, tmp_path, "tallow", "saved"), inputs)
    small.write_bytes(b"no model")
    with pytest.raises(Failed, match="NotAModel"):
        Worker(job(small, tmp_path), inputs)


def test_a_worker_that_dies_is_named_by_its_signal(small, tmp_path):
    with Worker(job(small, tmp_path), inputs_for(small, tmp_path)) as process:
        process._process.kill()
        with pytest.raises(Failed, match="ended by SIGKILL"):
            process.ask(runs=1)


def test_one_model_is_measured_from_start_to_table(small, tmp_path):
    settings = Settings(threads=[1], rounds=2, seconds=1e-4, starts=1)
    model = catalogue.find(f"{small},batch=2")
    found = measure.measure(model, small, ["tallow", "onnxruntime"], settings, tell=lambda _: None)
    assert not found.left_out
    assert {(s.engine, s.way) for s in found.starts} >= {("tallow", "saved"), ("onnxruntime", "cold")}
    assert [(x.engine, len(x.rounds)) for x in found.latencies] == [("tallow", 2), ("onnxruntime", 2)]
    assert all(x.difference <= 1e-6 for x in found.latencies)


def test_turns_are_taken_in_order():
    log = []

    class Fake:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def ask(self, runs):
            log.append((self.name, runs))
            return {"median": self.seconds, "least": self.seconds}

    rounds = measure.take_turns(
        {"a": Fake("a", 0.1), "b": Fake("b", 9.0)}, Settings(rounds=2, seconds=1.0, threads=[1])
    )
    assert log[2:] == [("a", 10), ("b", 1)] * 2
    assert [len(turns) for turns in rounds.values()] == [2, 2]


def test_other_results_leave_an_engine_out():
    y = np.array([1.0, -4.0])
    left_out: dict[str, str] = {}
    given = {"tallow": {"y": y + 0.1}, "onnxruntime": {"y": y}, "mnn": {"y": y + 4e-4}}
    assert measure.check(given, left_out) == {"onnxruntime": 0.0, "mnn": pytest.approx(1e-4)}
    assert left_out == {"tallow": "results differ from onnxruntime's by 0.025 of their largest value"}
    assert measure.check({"tallow": {"y": y}}, {}) == {"tallow": None}


@pytest.mark.parametrize("other", [{}, {"y": np.ones(3)}, {"y": np.array([1.0, np.nan])}])
def test_results_that_cannot_be_compared_differ_without_bound(other):
    assert measure.difference(other, {"y": np.ones(2)}) == np.inf


def test_empty_and_whole_results_are_compared():
    assert measure.difference({"y": np.zeros((0, 3))}, {"y": np.zeros((0, 3))}) == 0
    assert measure.difference({"y": np.array([3, 4])}, {"y": np.array([3, 5])}) == pytest.approx(0.2)


def sample_run() -> Run:
    """Tallow twice as fast as onnxruntime on A; half as fast as MNN there; MNN is missing on B."""

    def latency(engine, *rounds, least=None):
        return Latency(engine, 1, rounds, least or min(rounds), 0.0)

    a = ModelResult("a", "A", 4_000_000, {"tallow": 5_000_000}, [Start("tallow", "cold", 1.0, 1.5, 100.0)])
    a.latencies = [
        latency("tallow", 1.0, 2.0, 4.0),
        latency("onnxruntime", 2.0, 4.0, 40.0, least=1.0),
        latency("mnn", 0.5, 1.0, 2.0),
    ]
    b = ModelResult("b", "B", 100, left_out={"mnn": "ended by SIGSEGV: boom"})
    b.latencies = [latency("tallow", 1.0), latency("onnxruntime", 8.0)]
    versions = {"tallow": "1", "onnxruntime": "2", "mnn": "3"}
    return Run("a machine", versions, [a, b], {"OpenVINO": "not installed: pip install openvino"})


def test_ratios_are_medians_over_rounds_and_of_least_times():
    a, b = sample_run().models
    assert results.ratio(a, "onnxruntime", 1) == results.Ratio("onnxruntime", 2.0, 1.0)
    assert results.best_ratio(a, 1) == results.Ratio("mnn", 0.5, 0.5)
    assert results.best_ratio(b, 1).peer == "onnxruntime"
    assert results.ratio(b, "mnn", 1) is None and results.best_ratio(a, 2) is None
    assert results.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert results.geometric_mean([]) is None


def test_tables_name_everything():
    run = sample_run()
    lines = latency_table(run).splitlines()
    assert lines[2] == "| A | 1 | 1000 | 1000 | 500 | 2.00x (1.00x) | 0.50x (0.50x), MNN |"
    assert "| B | 1 | 1000 | 8000 | - | 8.00x (8.00x) | 8.00x (8.00x), onnxruntime |" in lines
    assert lines[-1].startswith("| **geometric mean of 2** | 1 |")
    assert lines[-1].endswith("| **4.00x** (2.83x) | **2.00x** (2.00x) |")
    text = markdown(run)
    assert "- OpenVINO: not installed: pip install openvino" in text
    assert "- MNN on B: ended by SIGSEGV: boom" in text
    assert "| A | 1.5 (1) |" in text and "| A | 100 | 4 | 5 |" in text


def test_runs_are_kept_as_json_and_merged(tmp_path):
    run = sample_run()
    results.save(run, tmp_path / "run.json")
    again = results.load(tmp_path / "run.json")
    assert markdown(again) == markdown(run)
    newer = Run(run.machine, run.versions, [ModelResult("b", "B anew", 1)])
    assert [m.title for m in results.merge([again, newer]).models] == ["A", "B anew"]
    with pytest.raises(ValueError, match="different machines or versions"):
        results.merge([run, Run("another machine", run.versions)])
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="expected the JSON of a benchmark run"):
        results.load(tmp_path / "other.json")


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot(sample_run(), tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_builds_reports_and_refuses(tmp_path, capsys):
    assert main(["build", "squeezenet", "--models", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'squeezenet.onnx'}\n"
    results.save(sample_run(), tmp_path / "run.json")
    assert main(["report", str(tmp_path / "run.json"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/benchmarks.md").read_text() + "\n" == capsys.readouterr().out
    for words in (["nothing"], ["report", "none.json"], ["squeezenet", "--threads", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
    assert "expected 1 or more" in capsys.readouterr().err


def test_a_request_that_is_no_job_is_answered_as_an_error():
    answers: list[dict] = []
    worker.serve(['{"no": "job"}'], answers.append)
    assert answers == [{"error": "KeyError: 'job'"}]


def test_workers_keep_bytecode(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("TALLOW_THREADS", "3")
    kept = measure._environment()
    assert "PYTHONDONTWRITEBYTECODE" not in kept and kept["TALLOW_THREADS"] == "3"
