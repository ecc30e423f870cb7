"""What users do with an executable: call it, save it, open it elsewhere, share it, and misuse it."""

from __future__ import annotations

import os
import pickle
import threading

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.errors import GraphError, InputError


@pytest.fixture
def graph(rng):
    b = Builder("small")
    x, y = b.input("x", "f32", ["batch", 6]), b.input("y", "f32", ["batch", 4])
    hidden = b.relu(b.matmul(x, b.constant(rng.standard_normal((6, 4)).astype("f4"))))
    return b.finish({"sum": b.add(hidden, y), "best": b.argmax(hidden, axis=1, keepdims=False, last=False)})


@pytest.fixture
def data(rng):
    return {"x": rng.standard_normal((3, 6)).astype("f4"), "y": rng.standard_normal((3, 4)).astype("f4")}


def test_by_order_and_by_name_agree_with_evaluate(graph, data):
    exe = tallow.compile(graph)
    want = tallow.evaluate(graph, data)
    for results in (exe.run(data), dict(zip(("sum", "best"), exe(data["x"], data["y"]), strict=True))):
        np.testing.assert_allclose(results["sum"], want["sum"], rtol=1e-5)
        np.testing.assert_array_equal(results["best"], want["best"])
    assert [str(p) for p in exe.inputs] == ["x: f32[batch, 6]", "y: f32[batch, 4]"]


def test_results_go_where_out_says(graph, data):
    exe = tallow.compile(graph)
    out = np.empty((3, 4), "f4")
    assert exe.run(data, out={"sum": out})["sum"] is out
    np.testing.assert_allclose(out, exe.run(data)["sum"])
    with pytest.raises(
        InputError, match='out "sum": expected a writable C-contiguous float32 array of shape'
    ):
        exe.run(data, out={"sum": np.empty((3, 5), "f4")})
    with pytest.raises(InputError, match="out: unknown output 'nothing'"):
        exe.run(data, out={"nothing": out})


@pytest.mark.parametrize("names", [("column", "plain", "row"), ("plain", "row", "column")], ids=str)
def test_results_that_share_their_elements_keep_their_shapes(names):
    b = Builder("shared")
    plain = b.neg(b.input("x", "f32", ["n"]))
    n = plain.shape[0]
    values = {"plain": plain, "row": b.reshape(plain, shape=(1, n)), "column": b.reshape(plain, shape=(n, 1))}
    exe = tallow.compile(b.finish({name: values[name] for name in names}))
    x = np.arange(3, dtype="f4")
    for out in ({}, {"plain": np.empty(3, "f4"), "column": np.empty((3, 1), "f4")}, {}):
        results = exe.run({"x": x}, out=out or None)
        assert {name: y.shape for name, y in results.items()} == {
            "plain": (3,),
            "row": (1, 3),
            "column": (3, 1),
        }
        assert all((y.ravel() == -x).all() for y in results.values())
        results["row"] += 1
        assert (results["plain"] == -x).all()


def test_strided_and_foreign_arrays_are_taken(graph, data):
    exe = tallow.compile(graph)
    wide = np.repeat(data["x"], 2, axis=1)
    np.testing.assert_array_equal(exe.run({**data, "x": wide[:, ::2]})["sum"], exe.run(data)["sum"])


def test_wrong_inputs_are_refused_in_words(graph, data):
    exe = tallow.compile(graph)
    cases = [
        ({"x": data["x"]}, "missing y"),
        ({**data, "z": data["x"]}, "unknown z"),
        ({**data, "x": data["x"].astype("f8")}, r'input "x": expected f32\[batch, 6\], got dtype f64'),
        ({**data, "x": data["x"][0]}, "rank 2"),
        ({**data, "x": data["x"][:, :5]}, "axis 1 must be 6"),
        ({**data, "y": data["y"][:2]}, "axis 0 is batch, which is 3 in another input, got 2"),
    ]
    for inputs, message in cases:
        with pytest.raises(InputError, match=message):
            exe.run(inputs)
    with pytest.raises(InputError, match="expected 2 inputs"):
        exe(data["x"])


def test_sizes_can_be_fixed_and_bounded(graph, data):
    fixed = tallow.compile(graph, dims={"batch": 3})
    assert fixed.plan.arena is not None and fixed.inputs[0].shape == (3, 6)
    bounded = tallow.compile(graph, dims={"batch": (1, 2)})
    with pytest.raises(InputError, match=r"size batch = 3 is outside 1\.\.2"):
        bounded.run(data)
    with pytest.raises(GraphError, match="no size named 'batsh'.*did you mean 'batch'"):
        tallow.compile(graph, dims={"batsh": 3})


def test_threads_may_share_an_executable(graph):
    exe = tallow.compile(graph, threads=2)
    rng = np.random.default_rng(1)
    sets = [
        {"x": rng.standard_normal((n, 6)).astype("f4"), "y": rng.standard_normal((n, 4)).astype("f4")}
        for n in range(1, 9)
    ]
    wanted = [exe.run(s)["sum"] for s in sets]
    wrong = []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(exe.run(sets[number])["sum"], wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_pickling(graph, data):
    exe = tallow.compile(graph)
    again = pickle.loads(pickle.dumps(exe))
    np.testing.assert_array_equal(again.run(data)["sum"], exe.run(data)["sum"])


def test_the_profile_covers_every_step(graph, data, tmp_path):
    exe = tallow.compile(graph)
    profile = exe.profile(data, runs=3)
    assert len(profile.steps) == len(exe.plan.steps) and profile.total > 0
    profile.write_trace(tmp_path / "trace.json")
    assert "traceEvents" in (tmp_path / "trace.json").read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_can_run(data, rng):
    b = Builder()
    x = b.input("x", "f32", [256, 256])
    exe = tallow.compile(
        b.finish({"y": b.matmul(x, b.constant(rng.standard_normal((256, 256)).astype("f4")))}), threads=2
    )
    x = rng.standard_normal((256, 256)).astype("f4")
    want = exe(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(exe(x), want) else 1)
    assert os.waitpid(child, 0)[1] == 0
