"""Lists of devices outside the compiler: files, the cache, pickles, profiles, threads, the command, and real devices."""

from __future__ import annotations

import json
import pickle
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper
from placement_support import branching, host_steps, looping, memory_of, placed_steps, places, register

import tallow
from tallow import artifact, plugins
from tallow.builder import Builder
from tallow.cli import main
from tallow.dtype import dtype
from tallow.errors import ArtifactError, CompileError, Unavailable
from tallow.graph import Location, parse, print_graph
from tallow.placement import Site, Survey, place
from tallow.verify import verify


def waves():
    """Weights on either side of an operator that the first device of the tests lacks."""
    b = Builder("waves")
    x = b.input("x", "f32", ["n", 4])
    y = b.mul(x, b.constant(np.arange(1, 5, dtype="f4")))
    b.location = Location("wave", "Sin", "made up")
    z = b.sin(y)
    b.location = Location("after")
    z = b.add(z, b.constant(np.arange(4, dtype="f4")))
    b.location = Location("last")
    return b.finish({"z": b.cos(z)})


X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
Z = tallow.evaluate(waves(), {"x": X})["z"]


def pair(kind: str = "host") -> list[str]:
    return [register("one", ["sin", "add"]), register("two", ["mul", "cos"], kind)]


@pytest.fixture
def model(save_onnx):
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], name="minus"),
        helper.make_node("Sin", ["a"], ["y"], name="wave"),
    ]
    return save_onnx(nodes, [("x", "FLOAT", ["n", 4])], [("y", "FLOAT", ["n", 4])])


# Plans and profiles ------------------------------------------------------------------------------


def test_a_plan_says_where_each_step_runs_and_why():
    run = tallow.compile(waves(), pair())
    steps = [(s.label, s.place) for s in run.plan.steps]
    assert steps == [
        ("upload", "copy"),
        ("mul", "one"),
        ("download", "copy"),
        ("sin+add", "two"),
        ("upload", "copy"),
        ("cos", "one"),
        ("download", "copy"),
    ]
    why = next(s.reason for s in run.plan.steps if s.place == "two")
    assert why == "one: one knows no sin; one: one knows no add"
    assert [s.reason for s in run.plan.steps if s.place == "copy"] == ["f32[n, 4], one"] * 4
    assert "one:any, two:any, " in str(run.plan) and repr(run).startswith(
        "<Executable waves for one:any, two:any"
    )
    assert sorted(w.type for w in run.plan.weights) == ["float32[4]", "float32[4]"]
    assert run.plan_for({"n": 5}).arena == 64 * 2  # mul's result, padded, and none on the second device


def test_copies_between_two_devices_of_their_own_memory_go_by_the_host():
    run = tallow.compile(waves(), pair("processor"))
    copies = [(s.label, s.reason.rpartition(", ")[2]) for s in run.plan.steps if s.place == "copy"]
    pairs = [("download", "one"), ("upload", "two"), ("download", "two"), ("upload", "one")]
    assert copies == [("upload", "one"), *pairs, ("download", "one")]


@pytest.mark.parametrize("kind", ["host", "processor"])
def test_what_the_plan_says_is_copied_is_what_is_copied(kind):
    run = tallow.compile(waves(), pair(kind))
    said = {"one": {"up": 0, "down": 0}, "two": {"up": 0, "down": 0}}
    for step in run.plan_for({"n": 3}).steps:
        if step.place == "copy":
            said[step.reason.rpartition(", ")[2]][{"upload": "up", "download": "down"}[step.label]] += (
                X.nbytes
            )
    for name in said:
        memory_of(name).moved.update(up=0, down=0)
    run(X)
    assert said == {name: memory_of(name).moved for name in said}


def test_a_profile_has_the_steps_of_every_device():
    run = tallow.compile(waves(), pair())
    profile = run.profile({"x": X}, runs=2)
    assert [(s.label, s.place) for s in profile.steps] == [
        ("mul", "one"),
        ("copies for two", "copy"),
        ("sin+add", "two"),
        ("cos", "one"),
    ]
    assert all(s.seconds > 0 for s in profile.steps) and profile.steps[2].nodes == ("wave", "after")
    results, observed = run.run_observed({"x": X})
    np.testing.assert_array_equal(results["z"], run(X))
    assert sorted(s.label for s in observed.steps) == sorted(s.label for s in profile.steps)


# What is kept ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["host", "processor"])
def test_files(tmp_path, kind):
    run = tallow.compile(waves(), pair(kind))
    path = run.save(tmp_path / "m.tallow")
    for opened in (tallow.open(path, thorough=True), tallow.open(path, device=["one", "two"])):
        np.testing.assert_array_equal(opened(X), run(X))
        assert places(opened) == places(run) == ["one", "two", "one"]
    again = pickle.loads(pickle.dumps(run))
    np.testing.assert_array_equal(again(X), run(X))


@pytest.mark.parametrize("device", ["one", ["two", "one"], ["one", "two", "one:b"]])
def test_a_file_of_a_list_opens_on_such_a_list(tmp_path, device):
    path = tallow.compile(waves(), pair()).save(tmp_path / "m.tallow")
    with pytest.raises(Unavailable, match="code for one:any and two:any cannot run on .*then one of two"):
        tallow.open(path, device=device)


def test_a_file_needs_the_backends_that_it_uses(tmp_path):
    path = tallow.compile(waves(), pair()).save(tmp_path / "m.tallow")
    del plugins.installed().tables["backend"]["two"]
    with pytest.raises(Unavailable, match="there is no backend 'two'"):
        tallow.open(path)
    register("one")
    small = tallow.compile(waves(), ["one", "fake"]).save(tmp_path / "n.tallow")
    np.testing.assert_allclose(tallow.open(small)(X), Z, rtol=1e-5, atol=1e-6)


def test_damage_to_the_code_of_any_device_is_found(tmp_path):
    run = tallow.compile(waves(), pair())
    path = run.save(tmp_path / "m.tallow")
    data = path.read_bytes()
    blob = run.compiled.others[0].code.blob
    at = data.index(blob) + len(blob) // 2
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(ArtifactError, match="machine code is damaged"):
        tallow.open(path)


def test_a_file_whose_steps_need_a_device_that_it_has_nothing_for(tmp_path):
    from dataclasses import replace

    run = tallow.compile(waves(), pair())
    path = tmp_path / "m.tallow"
    artifact.write(replace(run.compiled, others=()), path)
    with pytest.raises(ArtifactError, match="steps for a device that it holds no code for"):
        tallow.open(path)


def test_the_cache_tells_lists_apart(model, tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path / "cache"))
    one, two = register("one", ["sin"]), register("two", kind="host")
    calls = []
    monkeypatch.setattr("tallow.compiler.compile_graph", _counted(calls))
    for devices in ([one, two], [one, two], [two, one], one, [one]):
        tallow.compile(model, devices)(X)
    assert len(calls) == 3
    with pytest.raises(CompileError, match="1 node would leave it"):
        tallow.compile(model, [one, two], strict=True)
    assert len(calls) == 3, "strict is the first device alone, which is in the cache"
    np.testing.assert_allclose(tallow.compile(model, [two, one], strict=True)(X), np.sin(-X), rtol=1e-6)


def _counted(calls):
    from tallow.compiler import compile_graph

    return lambda *arguments: calls.append(arguments) or compile_graph(*arguments)


# Running -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["host", "processor"])
def test_threads_at_once(kind):
    run = tallow.compile(waves(), pair(kind))
    wanted = {n: tallow.evaluate(waves(), {"x": np.resize(X, (n, 4))})["z"] for n in range(6)}
    wrong = []

    def work(n):
        for _ in range(5):
            if not np.allclose(run(np.resize(X, (n, 4))), wanted[n], rtol=1e-5, atol=1e-6):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n % 6,)) for n in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_errors_of_a_segment_name_the_node():
    b = Builder()
    x, y = b.input("x", "f32", ["n"]), b.input("y", "f32", ["m"])
    b.location = Location("both")
    graph = b.finish({"z": b.sin(b.add(b.neg(x), y))})
    run = tallow.compile(graph, [register("one", ["add", "sin"]), register("two", kind="host")])
    np.testing.assert_allclose(run(np.ones(2, "f4"), np.ones(1, "f4")), np.zeros(2), atol=1e-6)
    with pytest.raises(tallow.InputError, match='sizes do not fit.*"both"'):
        run(np.ones(2, np.float32), np.ones(3, np.float32))


# The graph with regions for other devices --------------------------------------------------------


def placed_graph():
    sites = [Site(n, plugins.backend(n), plugins.backend(n).target()) for n in pair()]
    return place(waves(), [Survey(site) for site in sites])


def test_the_placed_graph_means_the_same_and_is_text():
    graph = placed_graph()
    verify(graph)
    (node,) = (node for node in graph.nodes if node.op == "on")
    assert node["device"] == 1 and [n.op for n in node["body"].nodes] == ["constant", "sin", "add"]
    np.testing.assert_array_equal(tallow.evaluate(graph, {"x": X})["z"], Z)
    text = print_graph(graph, "hex")
    again = parse(text)
    assert print_graph(again, "hex") == text
    np.testing.assert_array_equal(tallow.evaluate(verify(again), {"x": X})["z"], Z)


def test_operands_of_a_region_are_those_that_its_body_takes():
    text = print_graph(placed_graph(), "hex").replace("on(%mul)", "on(%mul, %mul)")
    with pytest.raises(tallow.VerifyError, match="on: operands are"):
        verify(parse(text))


# The command -------------------------------------------------------------------------------------


def call(*words, code=0):
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_check_shows_where_nodes_run_and_why(model):
    register("one", ["sin"])
    register("two", kind="host")
    facts = json.loads(call("check", model, "--device", "one,two", "--json"))
    assert facts["host"] == []
    assert {"op": "sin", "node": "wave", "on": "two", "reason": "one: one knows no sin"} in facts["moved"]
    text = call("check", model, "--device", "one,two")
    assert "0 of 1 steps run on the host, 2 nodes on two" in text and "one knows no sin" in text
    assert "1 nodes are where others are: moving there and back" in text
    assert "one knows no sin" in call("check", model, "--device", "one,two", "--strict", code=1)
    call("check", model, "--device", "two,one", "--strict")


def test_every_verb_takes_a_list(model, tmp_path):
    register("one", ["sin"])
    register("two", ["neg"], kind="host")
    words = ("--device", "one,two")
    assert "y: f32" in call("run", model, *words)
    assert json.loads(call("bench", model, *words, "--runs", 2, "--json"))["runs"] == 2
    profile = json.loads(call("profile", model, *words, "--runs", 1, "--no-roofline", "--json"))
    assert [s["place"] for s in profile["steps"]] == ["one", "copy", "two"]
    assert json.loads(call("compare", model, *words, "--json"))["agrees"]
    file = tmp_path / "m.tallow"
    assert json.loads(call("compile", model, "-o", file, *words, "--json"))["target"] == "one:any, two:any"
    assert [s["place"] for s in json.loads(call("inspect", file, "--json"))["steps"]].count("two") == 1
    assert "y: f32" in call("run", file)
    for stage, word in {
        "prepared": "on(",
        "program": "PlacedStep",
        "kernels": "kernel ",
        "source": "kernel ",
    }.items():
        assert word in call("show", model, *words, "--stage", stage)
    for verb in ("run", "bench", "profile", "compile"):
        output = ("-o", tmp_path / "n.tallow") if verb == "compile" else ()
        assert 'sin "wave": one knows no sin' in call(verb, model, *output, *words, "--strict", code=1)
    assert "compiled already: be strict when" in call("run", file, "--strict", code=1)


# Real devices ------------------------------------------------------------------------------------


def doubles():
    """Layers with one in f64, which not every OpenCL device computes, and a complex one, which none does."""
    rng = np.random.default_rng(0)
    b = Builder("doubles")
    x = b.input("x", "f32", ["n", 64])
    for number in range(3):
        b.location = Location(f"layer{number}")
        weights = b.constant(rng.standard_normal((64, 64)).astype("f4") / 8)
        y = b.relu(b.matmul(x, weights))
        if number == 1:
            b.location = Location("wide")
            wide = b.cast(y, dtype=dtype("f64"))
            y = b.cast(
                b.div(wide, b.add(b.reduce(wide, function="max", axes=(1,), keepdims=True), 1.0)),
                dtype=dtype("f32"),
            )
        x = y
    return b.finish({"y": x})


def test_control_flow_on_the_processor_is_native_there():
    """A loop that goes there whole is decided there, as it would be without a list."""
    graph = looping(4)
    run = tallow.compile(graph, [register("one", ["sin"]), "cpu"])
    (step,) = placed_steps(run)
    assert not any(hasattr(inner, "regions") for inner in step.program.steps)
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    for _ in range(2):
        got, wanted = run.run({"x": x}), tallow.evaluate(graph, {"x": x})
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)


def test_a_branch_with_work_for_another_device_is_decided_on_the_host(monkeypatch):
    cpu = plugins.backend("cpu")
    supports = cpu.supports

    def picky(node, target):
        return "no sines" if node.op == "sin" else supports(node, target)

    monkeypatch.setattr(cpu, "supports", picky)
    graph = branching()
    run = tallow.compile(graph, ["cpu", register("two", ["exp"])])
    assert len(placed_steps(run)) == 1 and not host_steps(run)
    why = next(step.reason for step in run.plan.steps if step.label == "if")
    assert "work for device 1 of the list in it is no kernel of this device" in why
    for flag in (True, False, True):
        inputs = {"flag": np.asarray(flag), "x": np.linspace(-1, 1, 5, dtype=np.float32)}
        np.testing.assert_allclose(run.run(inputs)["y"], tallow.evaluate(graph, inputs)["y"], rtol=1e-5)


def test_opencl_and_the_processor(usable, tmp_path):
    first = usable("opencl")
    arch = plugins.backend("opencl").target(None).arch.replace("+fp64", "")
    graph = doubles()
    alone = tallow.compile(graph, f"opencl:{arch}")
    assert any("no f64" in step.reason for step in host_steps(alone))
    run = tallow.compile(graph, [f"opencl:{arch}", "cpu"])
    assert not host_steps(run) and placed_steps(run)
    opened = tallow.open(run.save(tmp_path / "m.tallow"), device=[first, "cpu"])
    for n in (0, 1, 7):
        x = np.random.default_rng(n).standard_normal((n, 64)).astype(np.float32)
        wanted = tallow.evaluate(graph, {"x": x})["y"]
        for each in (run, opened, alone):
            np.testing.assert_allclose(each(x), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(CompileError, match='div "wide": no f64 on this device'):
        tallow.compile(graph, [f"opencl:{arch}", "cpu"], strict=True)


def test_what_a_processor_lacks_is_no_reason_to_leave_numpy(usable):
    """Complex numbers have kernels nowhere: they stay where they are without a list."""
    b = Builder()
    x = b.input("x", "c64", ["n"])
    graph = b.finish({"y": b.add(x, x)})
    run = tallow.compile(graph, [usable("opencl"), "cpu"])
    (step,) = host_steps(run)
    assert step.reason == "opencl: no kernels for c64; cpu: no kernels for c64"
    assert run(np.array([1j], np.complex64)).tolist() == [2j]


@pytest.mark.parametrize("first", ["cpu", "opencl"])
def test_a_list_changes_nothing_where_the_first_runs_all(usable, first):
    graph = waves()
    device = usable(first)
    run = tallow.compile(graph, [device, "fake:apart"])
    np.testing.assert_array_equal(run(X), tallow.compile(graph, device)(X))
    assert set(places(run)) == {first} and run.compiled.used == {0}
    np.testing.assert_allclose(run(X), Z, rtol=1e-5, atol=1e-6)


# Choices and operators of one's own --------------------------------------------------------------


def test_tuning_measures_on_every_device_that_has_something_to_choose(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path))
    b = Builder()
    x = b.input("x", "f32", [1, 64])
    weights = b.constant(np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32))
    graph = b.finish({"y": b.exp(b.mul(b.matmul(x, weights), 0.01))})
    asked = []
    one = register("one", ["matmul"])
    run = tallow.compile(graph, [one, "cpu"], tune=lambda done, total, what: asked.append(what))
    assert (
        asked
        and run.compiled.tuning.choices == ()
        and run.plan.tuning.measured == len(run.plan.tuning.choices) > 0
    )
    x = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(run(x), tallow.evaluate(graph, {"x": x})["y"], rtol=1e-4)
    with pytest.raises(CompileError, match="leaves nothing to choose"):
        tallow.compile(graph, [one, register("two", kind="host")], tune=True)


def test_an_operator_of_ones_own_runs_where_it_has_a_kernel(usable):
    usable("example")
    doubling = {"example": "y0[item] = x0[item] * 2.0f;"}
    kinds = {"infer": lambda types, a: types[0], "evaluate": lambda arrays, a: (arrays[0] * 2).astype("f4")}
    tallow.register_op("mine.twice", source=doubling, **kinds)
    try:
        b = Builder()
        x = b.input("x", "f32", ["n"])
        graph = b.finish({"y": b.neg(b.emit("mine.twice", x))})
        run = tallow.compile(graph, [register("one"), "example"])
        (step,) = placed_steps(run)
        assert any(m.op == "mine.twice" and m.reason.startswith("one: ") for m in step.moved)
        assert not host_steps(run) and run(np.array([1, 2], np.float32)).tolist() == [-2, -4]
    finally:
        tallow.unregister_op("mine.twice")
