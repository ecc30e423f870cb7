"""Tuning: what is measured is kept, applied to equal questions on the same processor, and changes speed alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import tallow
import tallow_cpu.backend
from tallow import plugins, records, tuning
from tallow.builder import Builder
from tallow.choices import Candidate, Choices, described
from tallow.cli.main import main
from tallow.compile import open_compiled
from tallow.compiler import compile_graph
from tallow.graph import Graph
from tallow.kernel.grammar import Kernel
from tallow.workbench import Workbench

CONV = "algorithm of conv(f32[1, 24, 14, 14], f32[32, 24, 3, 3])"


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ran(monkeypatch):
    """Questions that were really measured."""
    questions = []
    plain = tuning.measure
    monkeypatch.setattr(tuning, "measure", lambda q, *a: questions.append(q.text) or plain(q, *a))
    return questions


def prefer(monkeypatch, wanted: dict[str, object]) -> None:
    """Measurements in which the wanted answers take a second and all others two."""

    def measure(question, bench, record):
        return next((v for text, v in wanted.items() if question.text.startswith(text)), question.best.value)

    monkeypatch.setattr(tuning, "measure", measure)


def network(name: str = "net", batch: int | str = 1, tail: str = "relu") -> Graph:
    """A 3x3 convolution, a depthwise one, a product with weights and one without."""
    rng = np.random.default_rng(5)
    b = Builder(name)

    def weights(*shape):
        return b.constant(rng.standard_normal(shape, np.float32) / 8)

    spec = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}
    x = b.input("x", "f32", (batch, 24, 14, 14))
    y = b.emit(tail, b.conv(x, weights(32, 24, 3, 3), groups=1, **spec))
    y = b.conv(y, weights(32, 1, 3, 3), groups=32, **spec)
    flat = b.reshape(y, shape=(*y.shape[:2], 196))
    z = b.matmul(b.matmul(flat, weights(196, 72)), b.input("w", "f32", (72, 40)))
    return b.finish({"z": z})


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    return {
        "x": rng.standard_normal((1, 24, 14, 14), np.float32),
        "w": rng.standard_normal((72, 40), np.float32),
    }


def answers(run: tallow.Executable) -> dict[str, tuple]:
    return {c.question: (c.value, c.measured) for c in run.plan.tuning.choices}


def algorithm(run: tallow.Executable) -> tuple:
    return next(a for question, a in answers(run).items() if question.startswith(CONV))


def test_every_question_is_measured_once(ran):
    run = tallow.compile(network(), threads=2, tune=True)
    assert {text.split()[0] for text in ran} == {"algorithm", "panel", "blocking", "strip", "tile"} | (
        {"block"} if algorithm(run)[0] else set()
    )
    assert len(ran) == len(set(ran))
    assert all(measured for _, measured in answers(run).values()) and set(answers(run)) <= set(ran)
    assert f"measured: {len(answers(run))} on" in str(run.plan)
    del ran[:]
    again = tallow.compile(network("another", tail="tanh"), threads=2, tune=True)
    assert not ran and answers(again) == answers(run)


def test_a_record_is_applied_without_tuning(monkeypatch):
    usual = algorithm(tallow.compile(network(), threads=2))
    other = 2 if usual[0] == 0 else 0
    assert not usual[1]
    prefer(monkeypatch, {CONV: other})
    want = tallow.evaluate(network(), inputs())["z"]
    for run in (
        tallow.compile(network(), threads=2, tune=True),
        tallow.compile(network("another"), threads=2),
    ):
        assert algorithm(run) == (other, True)
        assert ("cpu.winograd" in str(run.plan)) == bool(other)
        np.testing.assert_allclose(run.run(inputs())["z"], want, rtol=1e-4, atol=1e-3)
    assert algorithm(tallow.compile(network(), threads=1)) == usual  # measured with two threads
    assert algorithm(tallow.compile(network(), "cpu:x86-64-v2", threads=2)) == usual


def test_measurements_on_another_processor_are_not_applied(monkeypatch):
    usual = algorithm(tallow.compile(network(), threads=2))
    prefer(monkeypatch, {CONV: 2 if usual[0] == 0 else 0})
    monkeypatch.setattr(tallow_cpu.backend, "host_model", lambda: "Other 9000")
    tallow.compile(network(), threads=2, tune=True)
    monkeypatch.setattr(tallow_cpu.backend, "host_model", lambda: "This one")
    run = tallow.compile(network(), threads=2)
    assert run.plan.tuning.ignored == ("Other 9000",) and algorithm(run) == usual
    assert "measurements on Other 9000 are not applied to this processor" in str(run.plan)
    assert tallow.compile(network(), threads=2, tune=True).plan.tuning.ignored == ()


def test_choices_survive_in_the_artifact(tmp_path, monkeypatch):
    prefer(monkeypatch, {})
    run = tallow.compile(network(), threads=2, tune=True)
    opened = tallow.open(run.save(tmp_path / "net.tallow"))
    assert opened.plan.tuning == run.plan.tuning and opened.plan.tuning.measured
    assert opened.plan.tuning.machine == plugins.backend("cpu").machine(run.compiled.target)


def each_answer() -> list[tuple[str, object]]:
    """The first, second and last candidates of every question that compiling the network may ask."""
    backend = plugins.backend("cpu")
    bench = Workbench.of(backend, backend.target(), 2)
    found: dict[str, list] = {}
    waiting: list[dict] = [{}]
    while waiting:
        record = waiting.pop()
        choices = Choices(record)
        tuning.build(bench, network(), choices)
        for text, question in choices.asked.items():
            if text not in found:
                values = [c.value for c in question.candidates]
                found[text] = list(dict.fromkeys([*values[:2], values[-1]]))
                waiting += [record | {text: value} for value in found[text]]
    return [(text, value) for text, values in found.items() for value in values]


def test_all_candidates_agree_and_no_number_of_threads_matters():
    backend = plugins.backend("cpu")
    bench = Workbench.of(backend, backend.target(), 2)
    want = tallow.evaluate(network(), inputs())["z"].astype(np.float64)
    pairs = each_answer()
    assert len(pairs) > 20
    for text, value in pairs:
        records.add(bench.machine, bench.scope, {text: value})
        compiled = compile_graph(network(), "cpu", 2)
        one, two = (open_compiled(compiled, threads).run(inputs())["z"] for threads in (1, 2))
        np.testing.assert_array_equal(one, two, err_msg=f"{text}: {value}")
        assert np.abs(one - want).max() < 2e-5 * np.abs(want).max(), (text, value)


def test_what_is_no_longer_offered_is_not_applied():
    backend = plugins.backend("cpu")
    bench = Workbench.of(backend, backend.target(), 2)
    compiled = compile_graph(network(), "cpu", 2)
    question = next(c.question for c in compiled.tuning.choices if c.question.startswith(CONV))
    records.add(bench.machine, bench.scope, {question: 6})
    run = tallow.compile(network(), threads=2)
    assert algorithm(run)[1] is False and run.plan.tuning.measured == 0
    assert not bench.agrees(compiled.tuning, False) and bench.agrees(run.compiled.tuning, False)


def test_sizes_known_at_the_run_leave_nothing_to_measure(ran):
    run = tallow.compile(network(batch="n"), tune=True)
    assert not ran and run.plan.tuning.choices == ()


def test_the_usual_stays_unless_another_is_clearly_faster(monkeypatch):
    bench, question = _asked()
    first, second = (c.value for c in question.candidates)
    for seconds, want in (({second: 0.99}, first), ({second: 0.5}, second)):
        monkeypatch.setattr(tuning._Trial, "run", lambda trial, s=seconds: s.get(trial.value, 1.0))
        assert tuning.measure(question, bench, {}) == want


def test_a_lucky_run_does_not_win(monkeypatch):
    bench, question = _asked()
    first, second = (c.value for c in question.candidates)
    times = {second: iter([0.1])}
    contest = tuning.contest

    def spy(trials):
        contest(trials)
        times[second] = iter([])

    monkeypatch.setattr(tuning, "contest", spy)
    monkeypatch.setattr(tuning._Trial, "run", lambda t: next(times.get(t.value, iter([])), 1.0))
    assert tuning.measure(question, bench, {}) == first


def _asked() -> tuple[Workbench, object]:
    """A question of two candidates."""
    backend = plugins.backend("cpu")
    bench = Workbench.of(backend, backend.target("x86-64-v2"), 1)
    b = Builder("g")
    y = b.matmul(b.input("x", "f32", (40, 40)), b.input("w", "f32", (40, 24)))
    choices = Choices()
    tuning.build(bench, b.finish({"y": y}), choices)
    (question,) = choices.open
    assert len(question.candidates) == 2
    return bench, question


def test_far_candidates_are_not_measured():
    _, question = _asked()
    far = replace(question, candidates=tuple(Candidate(n, float(n)) for n in (9, 4, 2, 3)))
    assert [c.value for c in tuning._worth_measuring(far)] == [2, 3, 4]
    many = replace(question, candidates=tuple(Candidate(n, 1 + n / 1000) for n in range(50)))
    assert len(tuning._worth_measuring(many)) == tuning.CANDIDATES


def test_a_key_has_all_that_speed_depends_on():
    _, question = _asked()
    assert described(question.node) == "matmul(f32[40, 40], f32[40, 24])"
    node = next(n for n in network().nodes if n.op == "conv")
    assert described(node).endswith("dilations=(1, 1) groups=1 pads=((1, 1), (1, 1)) strides=(1, 1)")


@pytest.mark.parametrize(
    "device, why",
    [
        ("cpu:aarch64-linux-gnu", "cpu:aarch64-linux-gnu is for aarch64"),
        ("fake", "the fake backend leaves nothing to choose"),
    ],
)
def test_tuning_needs_a_device(device, why):
    if why.endswith(tallow_cpu.backend.platform.machine()):
        pytest.skip("this machine is the other one")
    with pytest.raises(tallow.CompileError, match=f"{why}.*Compile without tuning"):
        tallow.compile(network(), device, tune=True)
    assert compile_graph(network(), device).tuning.machine == ""


def test_tuning_needs_the_instructions(monkeypatch):
    monkeypatch.setattr(tallow_cpu.backend, "missing_features", lambda features: ["avx9"])
    with pytest.raises(tallow.CompileError, match="needs avx9, which this machine lacks"):
        compile_graph(network(), "cpu", 2, True)


def test_progress_is_reported(monkeypatch):
    prefer(monkeypatch, {})
    seen = []
    tallow.compile(network(), threads=1, tune=lambda done, total, what: seen.append((done, total, what)))
    assert [done for done, _, _ in seen] == list(range(len(seen)))
    assert all(done < total for done, total, _ in seen) and seen[-1][0] + 1 == seen[-1][1]


def test_steps_that_candidates_share_do_not_count():
    kernel = Kernel("a", (), (), ())
    assert tuning._nameless(kernel) == tuning._nameless(replace(kernel, name="b"))
    bench, question = _asked()
    small = tuning.alone(question)
    programs = [tuning.build(bench, small, Choices({question.text: c.value})) for c in question.candidates]
    for trial in tuning._trials(question.candidates, programs, bench):
        assert trial.own == {0}
    same = tuning._trials(question.candidates, [programs[0]] * 2, bench)
    assert [t.own for t in same] == [set(), set()]


def test_the_command(tmp_path):
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper, save_model

    w = numpy_helper.from_array(np.ones((40, 70), np.float32), "w")
    port = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [port("x", TensorProto.FLOAT, [30, 40])],
        [port("y", TensorProto.FLOAT, [30, 70])],
        [w],
    )
    path, out = tmp_path / "m.onnx", tmp_path / "m.tallow"
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)

    def run(*words):
        return CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)

    before = json.loads(run("run", path, "--json", "--threads", 2).stdout)
    done = run("compile", path, "-o", out, "--tune", "--threads", 2)
    assert done.exit_code == 0 and "measured: 2 on" in done.stdout
    shown = json.loads(run("inspect", out, "--json").stdout)
    assert [c["measured"] for c in shown["choices"]] == [True, True] and shown["measured_on"]["threads"] == 2
    assert "panel of matmul(f32[30, 40], f32[40, 70])" in run("inspect", out).stdout
    assert json.loads(run("run", path, "--json", "--threads", 2, "--tune").stdout) == before
    assert tallow.compile(path, threads=2).plan.tuning.measured == 2  # the entry without tuning is stale
    refused = run("run", out, "--tune")
    assert refused.exit_code == 1 and "m.tallow is compiled already" in refused.stderr
    refused = run("compile", path, "-o", out, "--force", "--tune", "--device", "cpu:aarch64-linux-gnu")
    assert refused.exit_code == 1 and "Compile without tuning" in refused.stderr
