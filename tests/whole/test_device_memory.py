"""Devices with memory of their own: what moves, what stays, and that results do not depend on it.

The fake backend's second device interprets kernels in memory that only it can read; OpenCL's is real.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.errors import InputError, TallowError


@pytest.fixture(scope="module", params=["fake", "opencl"])
def apart(request, usable) -> str:
    """The name of a device with memory of its own."""
    return "fake:apart" if request.param == "fake" else usable(request.param)


def picking():
    """Kernels, a host step that says how many results there are, and kernels again."""
    b = Builder()
    x = b.input("x", "f32", ["n", 4])
    positive = b.gt(b.reduce(x, function="add", axes=(1,), keepdims=False), 0)
    where = b.nonzero(positive, defines=("found",))
    picked = b.gather(x, b.reshape(where, shape=(where.shape[1],)), axis=0)
    y = b.mul(picked, b.constant(np.arange(4, dtype="f4")))
    return b.finish({"y": y, "top": b.reduce(y, function="max", axes=(0,), keepdims=False)})


def branching():
    b = Builder()
    flag, x = b.input("flag", "bool", []), b.input("x", "f32", ["n"])
    regions = {}
    for name, factor in {"then": 2.0, "otherwise": -3.0}.items():
        inner = Builder(name, b)
        regions[name] = inner.finish({"z": inner.mul(inner.exp(x), factor)})
    y = b.emit("if", flag, **regions, types=(x.type,))
    return b.finish({"y": b.add(y, x), "chosen": y})


def looping():
    """x doubles in each trip and is seen before it does."""
    b = Builder()
    trips, x = b.input("trips", "i64", []), b.input("x", "f32", ["n"])
    inner = Builder("body", b)
    inner.input("trip", "i64", [])
    go, state = inner.input("go", "bool", []), inner.input("state", "f32", x.shape)
    body = inner.finish(
        {
            "go": go,
            "state": inner.add(state, state),
            "seen": inner.exp(inner.neg(state)),
        }
    )
    seen = tallow.graph.TensorType(x.dtype, (tallow.dim.symbol("t"), *x.shape))
    final, stacked = b.emit(
        "loop", trips, b.constant(np.asarray(True)), x, body=body, types=(x.type, seen), defines=("t",)
    )
    return b.finish({"final": b.neg(final), "stacked": stacked})


def passing():
    """Results that are inputs, constants and views, and one value twice."""
    b = Builder()
    x = b.input("x", "f32", ["n", 2])
    y = b.exp(x)
    return b.finish(
        {
            "input": x,
            "view": b.reshape(x, shape=(x.shape[0] * 2,)),
            "constant": b.constant(np.arange(3)),
            "made": y,
            "again": y,
            "seen": b.reshape(y, shape=(x.shape[0] * 2,)),
        }
    )


def emptied():
    """A sum over nothing of a value that needs no memory."""
    b = Builder()
    x = b.input("x", "f32", [2, 0, "n"])
    y = b.exp(x)
    return b.finish({"y": b.reduce(y, function="add", axes=(1,), keepdims=False), "z": b.neg(y)})


def words():
    b = Builder()
    x, s = b.input("x", "f32", ["n"]), b.input("s", "string", ["m"])
    return b.finish({"y": b.exp(x), "s": b.emit("string_concat", s, s)})


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


CASES = {
    "picking": (
        picking,
        [{"x": numbers(5, 4)}, {"x": numbers(9, 4)}, {"x": -np.ones((2, 4), "f4")}, {"x": numbers(0, 4)}],
    ),
    "branching": (
        branching,
        [{"flag": np.asarray(f), "x": numbers(n)} for f in (True, False) for n in (3, 0)],
    ),
    "looping": (
        looping,
        [{"trips": np.asarray(t), "x": numbers(n)} for t, n in ((3, 5), (0, 5), (2, 0), (1, 1))],
    ),
    "emptied": (emptied, [{"x": np.empty((2, 0, n), "f4")} for n in (4, 0)]),
    "passing": (passing, [{"x": numbers(n, 2)} for n in (3, 0, 4)]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("keep", [None, "device"])
@pytest.mark.parametrize("uploaded", [False, True])
def test_results_do_not_depend_on_where_values_lie(apart, name, keep, uploaded):
    make, cases = CASES[name]
    graph = make()
    executable = tallow.compile(graph, apart)
    for inputs in [*cases, *cases]:
        given = {n: executable.upload(a) for n, a in inputs.items()} if uploaded else inputs
        results = executable.run(given, keep=keep)
        for result, want in tallow.evaluate(graph, inputs).items():
            got = results[result]
            assert isinstance(got, tallow.DeviceArray) == (keep == "device")
            assert got.shape == want.shape and got.dtype == want.dtype
            np.testing.assert_allclose(np.asarray(got), want, rtol=1e-6)


def test_only_what_the_other_side_needs_moves():
    graph = picking()
    executable = tallow.compile(graph, "fake:apart")
    moved, x = executable.device.moved, np.ones((6, 4), "f4")
    executable.run({"x": x})
    before = dict(moved)
    results = executable.run({"x": executable.upload(x)}, keep="device")
    # x once; the flags of 6 rows to the host, and 6 indices back: results and constants stay
    assert moved["up"] - before["up"] == x.nbytes + 6 * 8 and moved["down"] - before["down"] == 6
    assert (
        results["y"].numpy().sum() == 6 * (0 + 1 + 2 + 3) and moved["down"] - before["down"] == 6 + x.nbytes
    )


def test_constants_go_to_the_device_once():
    b = Builder()
    flag, x = b.input("flag", "bool", []), b.input("x", "f32", [1000])
    weights, regions = numbers(1000), {}
    for name in ("then", "otherwise"):
        inner = Builder(name, b)
        regions[name] = inner.finish({"z": inner.mul(x, b.constant(weights))})
    graph = b.finish({"y": b.emit("if", flag, **regions, types=(x.type,))})
    moved = tallow.plugins.backend("fake").open("fake:apart").moved
    before = moved["up"]
    executable = tallow.compile(graph, "fake:apart")
    assert moved["up"] - before == sum(w.bytes for w in executable.plan.weights) > 0
    for chosen in (True, False, True):
        executable.run({"flag": np.asarray(chosen), "x": weights})
    assert moved["up"] - before == 4 * weights.nbytes


def test_the_plan_shows_copies(apart):
    plan = tallow.compile(picking(), apart).plan
    copies = [(step.label, *step.nodes) for step in plan.steps if step.place == "copy"]
    assert [label for label, _ in copies] == ["upload", "download", "upload", "download", "download"]
    assert copies[0] == ("upload", "x") and "download" in str(plan)
    assert not [step for step in tallow.compile(picking()).plan.steps if step.place == "copy"]


@pytest.mark.parametrize("make,downloads", [(branching, 3), (looping, 4)])
def test_the_plan_knows_what_regions_leave_on_the_device(apart, make, downloads):
    """The condition, then results; what a loop stacks is on the host already."""
    steps = tallow.compile(make(), apart).plan.steps
    assert sum(step.label == "download" for step in steps) <= downloads


def test_device_arrays_behave_as_arrays(apart):
    executable, x = tallow.compile(passing(), apart), numbers(3, 2)
    there = executable.upload(x)
    assert (there.shape, there.dtype, there.ndim, there.size, there.nbytes) == ((3, 2), x.dtype, 2, 6, 24)
    np.testing.assert_array_equal(there.numpy(), x)
    np.testing.assert_array_equal(there.reshape((6,)), x.reshape(6))
    assert np.asarray(there, np.float64).dtype == np.float64 and apart in repr(there)
    out = np.empty_like(x)
    assert there.numpy(out) is out and (out == x).all()
    with pytest.raises(ValueError, match="only by a copy"):
        np.asarray(there, copy=False) if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else there.__array__(
            copy=False
        )
    with pytest.raises(InputError, match=r"expected 6 elements, got shape \(4,\)"):
        there.reshape((4,))
    with pytest.raises(BufferError, match="no dlpack form: take numpy"):
        np.from_dlpack(there)


def test_arrays_kept_on_the_host_are_its_own():
    executable, x = tallow.compile(passing(), "cpu"), numbers(3, 2)
    kept = executable.run({"x": executable.upload(x)}, keep="device")
    np.testing.assert_allclose(kept["made"].numpy(), np.exp(x), rtol=1e-6)
    assert np.shares_memory(kept["made"].numpy(), kept["made"].numpy())
    np.testing.assert_array_equal(np.from_dlpack(kept["made"]), kept["made"].numpy())


def test_a_device_array_goes_where_it_lies_or_nowhere(apart):
    there = tallow.compile(passing(), apart).upload(numbers(3, 2))
    with pytest.raises(InputError, match=f'input "x": it lies on {apart}.*: give its numpy'):
        tallow.compile(passing(), "cpu").run({"x": there})
    here = tallow.compile(passing(), "cpu").upload(numbers(3, 2))
    tallow.compile(passing(), apart).run({"x": here})
    executable = tallow.compile(picking(), apart)
    with pytest.raises(InputError, match=r"got shape \(3, 2\)"):
        executable.run({"x": there})
    with pytest.raises(InputError, match="expected f32.*, got .*i64"):
        executable.run({"x": executable.upload(np.zeros((3, 4), np.int64))})


def test_results_in_arrays_of_the_caller(apart):
    executable, x = tallow.compile(passing(), apart), numbers(3, 2)
    out = {"made": np.empty((3, 2), "f4"), "view": np.empty(6, "f4")}
    results = executable.run({"x": x}, out=out)
    assert results["made"] is out["made"] and results["view"] is out["view"]
    np.testing.assert_allclose(out["made"], np.exp(x), rtol=1e-6)
    np.testing.assert_array_equal(out["view"], x.reshape(6))
    with pytest.raises(InputError, match="results can only be in one place"):
        executable.run({"x": x}, out=out, keep="device")
    with pytest.raises(InputError, match="keep = 'gpu': expected"):
        executable.run({"x": x}, keep="gpu")
    with pytest.raises(InputError, match='out "made": expected a writable'):
        executable.run({"x": x}, out={"made": np.empty((2, 3), "f4")})


def test_strings_stay_on_the_host(apart):
    executable = tallow.compile(words(), apart)
    x, s = numbers(3), np.array(["a", "b"], object)
    results = executable.run({"x": x, "s": s}, keep="device")
    assert results["s"].tolist() == ["aa", "bb"] and isinstance(results["y"], tallow.DeviceArray)
    with pytest.raises(InputError, match="upload: expected numbers"):
        executable.upload(s)


def test_runs_from_several_threads_do_not_meet(apart):
    executable, failures = tallow.compile(picking(), apart), []

    def work(seed):
        for size in (3, 7, 20):
            inputs = {"x": numbers(size, 4, seed=seed)}
            results = executable.run(inputs)
            for name, want in tallow.evaluate(picking(), inputs).items():
                if not np.array_equal(results[name], want):
                    failures.append((seed, size, name))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures


def test_a_profile_names_the_steps_of_the_device(apart):
    profile = tallow.compile(picking(), apart).profile({"x": numbers(50, 4)}, runs=2)
    assert {s.place for s in profile.steps} == {"device", "host"} and profile.roofline is None
    assert all(s.seconds > 0 for s in profile.steps)


def test_no_memory_on_the_device_is_said(apart, monkeypatch):
    executable = tallow.compile(picking(), apart)

    def none(size):
        raise MemoryError("it is full")

    monkeypatch.setattr(executable.device, "allocate", none)
    with pytest.raises(InputError, match="not enough memory to run with n = 5.*: it is full"):
        executable.run({"x": numbers(5, 4)})


def test_code_runs_on_devices_of_its_backend_alone(tmp_path):
    path = tallow.compile(passing(), "cpu").save(tmp_path / "m.tallow")
    with pytest.raises(
        TallowError, match="code for cpu:.* cannot run on 'fake:apart': expected a device of cpu"
    ):
        tallow.open(path, device="fake:apart")
    path = tallow.compile(passing(), "fake").save(tmp_path / "n.tallow")
    assert tallow.open(path, device="fake:apart").device.info.name == "fake:apart"
