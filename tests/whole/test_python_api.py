"""The Python API as its users hold it: what goes in, what comes out, what is refused, and what is copied."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

import tallow
from tallow.builder import Builder
from tallow.errors import GraphError, InputError, Unavailable
from tallow.roofline import Roofline, measure_roofline
from tallow.runtime import dlpack
from tallow_cpu.runtime.module import Prepared


def doubling(dtype="f32", shape=("n", 3), **dims):
    b = Builder("doubling")
    x = b.input("x", dtype, shape)
    return tallow.compile(b.finish({"y": b.add(x, x)}), **dims)


@pytest.fixture
def model_path(save_onnx):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    weights = {"w": np.arange(6, dtype="f4").reshape(3, 2)}
    return save_onnx(nodes, [("x", "FLOAT", ["batch", 3])], [("y", "FLOAT", ["batch", 2])], weights)


# Inputs -------------------------------------------------------------------------------------------


class Foreign:
    """An array of another library: all that is known of it is dlpack."""

    def __init__(self, array, device=(1, 0), refuses=None):
        self.array, self.device, self.refuses = array, device, refuses

    def __dlpack__(self, **options):
        if self.refuses:
            raise self.refuses
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_arrays_of_any_layout_are_taken():
    exe, x = doubling(), np.arange(12, dtype="f4").reshape(4, 3)
    fixed = x.copy()
    fixed.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, "u1")
    unaligned = raw[1:].view("f4").reshape(4, 3)
    unaligned[...] = x
    cases = {
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(x, 2, 0)[::2],
        "reversed": x[::-1].copy()[::-1],
        "broadcast": np.broadcast_to(x[:1], (4, 3)),
        "read-only": fixed,
        "big-endian": x.astype(">f4"),
        "unaligned": unaligned,
        "dlpack": Foreign(x),
        "subclass": np.ma.masked_array(x),
    }
    for name, given in cases.items():
        want = 2 * np.asarray(given.array if isinstance(given, Foreign) else given)
        np.testing.assert_array_equal(exe(given), want, name)


class Lent:
    """An array of a dtype that numpy's own dlpack lacks, lent as torch lends one."""

    def __init__(self, array, code, lanes=1, strides=True):
        tensor = dlpack._Tensor(data=address(array), device_type=1, ndim=array.ndim, code=code, lanes=lanes)
        tensor.bits = 8 * array.itemsize
        axes = [ctypes.c_int64 * array.ndim] * 2
        self.shape = axes[0](*array.shape)
        self.strides = axes[1](*(s // array.itemsize for s in array.strides))
        tensor.shape = self.shape
        tensor.strides = self.strides if strides else None
        self.array, self.tensor = array, tensor

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **options):
        if options:
            raise BufferError("unsupported")
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (), (2, 3, 4)])
def test_bfloat16_comes_through_dlpack(shape, addresses):
    x = np.arange(np.prod(shape)).reshape(shape).astype(ml_dtypes.bfloat16)
    exe = doubling("bf16", shape)
    for lent in (Lent(x, 4), Lent(x, 4, strides=False)):
        addresses.clear()
        np.testing.assert_array_equal(exe(lent).astype("f4"), 2 * x.astype("f4"))
        assert x.size == 0 or address(x) in addresses
    turned = Lent(x.T, 4)
    np.testing.assert_array_equal(dlpack.view(turned).astype("f4"), x.T.astype("f4"))
    for other in (Lent(x, 99), Lent(x, 4, lanes=2)):
        with pytest.raises(InputError, match="numpy cannot take it through dlpack"):
            exe(other)


def test_zero_sizes_and_scalars():
    exe = doubling()
    assert exe(np.ones((0, 3), "f4")).shape == (0, 3)
    result = doubling(shape=())(np.float32(2))
    assert result.shape == () and result == 4


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16, np.int8, np.uint64, np.float64])
def test_other_dtypes_come_and_go_unchanged(kind):
    x = np.arange(6).reshape(2, 3).astype(kind)
    result = doubling(np.dtype(kind))(x)
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result.astype("f8"), 2 * x.astype("f8"))


@pytest.mark.parametrize(
    "given,message",
    [
        (np.ones((2, 3)), r"expected f32\[n, 3\], got dtype f64: convert it with \.astype\('float32'\)"),
        (np.ones((2, 3), "i4"), "got dtype i32"),
        (np.ones((2, 3), bool), "got dtype bool"),
        (np.ones((2, 3), ml_dtypes.bfloat16), "got dtype bf16"),
        (np.ones((2, 3), np.longdouble), "got dtype float128"),
        (np.zeros((2, 3), [("a", "f4")]), "got dtype"),
        ([[1.0, 2.0, 3.0]], r"got a list of f64: convert it with numpy\.asarray\(x, 'float32'\)"),
        ([[1.0], [2.0, 3.0]], "expected an array, got list"),
        (None, "got NoneType"),
        ("text", "got a str of string"),
        (Foreign(np.ones((2, 3))), "got a Foreign of f64"),
        (Foreign(None, (2, 0)), r"on another device \(dlpack 2\): move it to the CPU first"),
        (
            Foreign(None, refuses=BufferError("needs gradient")),
            "through dlpack .needs gradient.: give a numpy array",
        ),
        (Foreign(None, None), "through dlpack"),
        (np.ones(3, "f4"), r"\(rank 2\), got shape \(3,\)"),
        (np.ones((2, 4), "f4"), r"got shape \(2, 4\) \(axis 1 must be 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(InputError, match=f'input "x": .*{message}'):
        doubling()(given)


def test_inputs_go_by_name_or_in_order():
    exe, x = doubling(), np.ones((2, 3), "f4")
    with pytest.raises(InputError, match=r"expected inputs by name, got ndarray: say run\(\{name: array\}\)"):
        exe.run(x)
    with pytest.raises(InputError, match=r"missing x; unknown X. This model takes x: f32\[n, 3\]"):
        exe.run({"X": x})
    with pytest.raises(InputError, match="expected 1 inputs"):
        exe(x, x)


# Sizes --------------------------------------------------------------------------------------------


def test_models_say_what_they_take_and_give(model_path):
    model = tallow.load(model_path)
    (x,), (y,) = model.inputs, model.outputs
    assert (x.name, str(x.dtype), x.shape, y.name, y.shape) == ("x", "f32", ("batch", 3), "y", ("batch", 2))
    assert tallow.load(model_path, {"batch": 4}).inputs[0].shape == (4, 3)


def test_fixed_and_bounded_sizes_are_kept(model_path):
    x = np.ones((9, 3), "f4")
    for model in (model_path, tallow.load(model_path)):
        with pytest.raises(InputError, match=r"size batch = 9 is outside 1\.\.8: compile with other dims"):
            tallow.compile(model, dims={"batch": (1, 8)})(x)
        with pytest.raises(InputError, match=r"size batch = 9 is outside 10\.\.:"):
            tallow.compile(model, dims={"batch": (10, None)})(x)
        with pytest.raises(InputError, match="axis 0 must be 8"):
            tallow.compile(model, dims={"batch": np.int64(8)})(x)
    bounded = tallow.compile(tallow.load(model_path, {"batch": (1, 8)}))
    with pytest.raises(InputError, match=r"size batch = 9 is outside 1\.\.8"):
        bounded(x)


@pytest.mark.parametrize("size", [-1, True, 2.5, "8", (3, 1), (-1, 2), (1, 2, 3), (1.0, 2), (False, 2), None])
def test_sizes_that_are_none_are_refused(size, model_path):
    for model in (model_path, tallow.load(model_path)):
        with pytest.raises(GraphError, match="dims: batch = .*expected a size of 0 or more, or bounds"):
            tallow.compile(model, dims={"batch": size})


def test_sizes_that_a_model_does_not_have_are_refused(model_path):
    model = tallow.load(model_path, {"batch": 2})
    with pytest.raises(GraphError, match="no size named 'batch': the inputs have none"):
        tallow.compile(model, dims={"batch": 2})
    with pytest.raises(GraphError, match="did you mean 'batch'"):
        tallow.compile(tallow.load(model_path), dims={"bacth": 2})


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_are_a_number(threads, monkeypatch):
    with pytest.raises(InputError, match="threads = .*expected 1 or more"):
        doubling(threads=threads)


def test_threads_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("TALLOW_THREADS", "3")
    assert doubling().threads == 3 and doubling(threads=2).threads == 2
    monkeypatch.setenv("TALLOW_THREADS", "many")
    with pytest.raises(InputError, match="TALLOW_THREADS = 'many': expected a number of 1 or more"):
        doubling()


@pytest.mark.parametrize(
    "plugins,message",
    [
        ("onnx", "there is no backend 'cpu' (no backend is installed). To add it: pip install tallow-cpu"),
        ("cpu", "no importer is installed: pip install tallow-importers"),
    ],
)
def test_what_is_not_installed_is_named(model_path, plugins, message):
    program = f"import tallow; tallow.compile({str(model_path)!r})"
    environment = {**os.environ, "TALLOW_PLUGINS": plugins}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert message in done.stderr


# Results and copies -------------------------------------------------------------------------------


@pytest.fixture
def addresses(monkeypatch):
    """The addresses that native code was given."""
    seen: list[int] = []
    call = Prepared._call

    def spy(self, bases, times):
        seen.extend(bases)
        return call(self, bases, times)

    monkeypatch.setattr(Prepared, "_call", spy)
    return seen


def address(array) -> int:
    return array.__array_interface__["data"][0]


def test_arrays_that_fit_are_not_copied(addresses):
    exe, x, out = doubling(), np.ones((2, 3), "f4"), np.empty((2, 3), "f4")
    result = exe(x)
    assert {address(x), address(result)} <= set(addresses)
    addresses.clear()
    assert exe(Foreign(x), out=out) is out
    assert {address(x), address(out)} <= set(addresses)
    addresses.clear()
    exe(np.asfortranarray(np.ones((2, 3), "f4")))
    assert address(x) not in addresses


def test_out_takes_one_array_many_or_names():
    b = Builder()
    x = b.input("x", "f32", [3])
    exe = tallow.compile(b.finish({"a": b.neg(x), "b": b.exp(x)}))
    x, a, c = np.ones(3, "f4"), np.empty(3, "f4"), np.empty(3, "f4")
    assert exe(x, out=(a, c))[1] is c
    assert exe(x, out={"b": c})[1] is c
    np.testing.assert_array_equal(a, -x)
    frozen = np.empty(3, "f4")
    frozen.flags.writeable = False
    for out, message in [
        (a, "expected 2 arrays .a, b., got 1"),
        ({"c": a}, "unknown output 'c'"),
        ({"a": [1.0]}, 'out "a": expected a numpy array, got list'),
        ({"a": np.empty(3)}, "expected a writable C-contiguous float32 array of shape .3,., got float64"),
        ({"a": np.empty(6, "f4")[::2]}, "strided"),
        ({"a": frozen}, "read-only"),
        ({"a": x}, 'out "a": it overlaps an input or another output'),
        ((a, a), "overlaps"),
    ]:
        with pytest.raises(InputError, match=message):
            exe(x, out=out)


def test_results_are_the_callers_own():
    b = Builder()
    x = b.input("x", "f32", [2, 3])
    graph = b.finish(
        {"same": x, "view": b.reshape(x, shape=(6,)), "constant": b.constant(np.ones(9, "f4")), "again": x}
    )
    exe, x = tallow.compile(graph), np.ones((2, 3), "f4")
    first = exe.run({"x": x})
    for array in first.values():
        assert not np.shares_memory(array, x)
        array[...] = 7
    for array in exe.run({"x": x}).values():
        np.testing.assert_array_equal(array, np.ones_like(array))


# Processes and threads ----------------------------------------------------------------------------


def test_many_threads_share_one_executable(rng):
    b = Builder()
    x = b.input("x", "f32", ["n", 64])
    h = b.softmax(b.matmul(x, b.constant(rng.standard_normal((64, 64)).astype("f4"))), axis=1)
    exe = tallow.compile(
        b.finish({"y": b.matmul(h, b.constant(rng.standard_normal((64, 9)).astype("f4")))}), threads=2
    )
    inputs = [rng.standard_normal((n, 64)).astype("f4") for n in (1, 3, 40, 64, 65, 200)]
    wanted = [exe(x) for x in inputs]
    wrong: list = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        try:
            for _ in range(60):
                n = int(order.integers(len(inputs)))
                out = np.empty_like(wanted[n])
                if not np.array_equal(exe(inputs[n], out=out), wanted[n]):
                    wrong.append(n)
        except Exception as error:  # a thread's error would be lost
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_models_and_executables_pickle(model_path):
    x = np.ones((2, 3), "f4")
    model = tallow.load(model_path)
    again = pickle.loads(pickle.dumps(model))
    assert again.inputs == model.inputs and again.path == model.path
    exe = tallow.compile(again, dims={"batch": (1, 2)}, threads=2)
    twin = pickle.loads(pickle.dumps(exe))
    assert (twin.inputs, twin.threads) == (exe.inputs, 2)
    np.testing.assert_array_equal(twin(x), exe(x))
    with pytest.raises(InputError, match="outside 1..2"):
        twin(np.ones((3, 3), "f4"))


def test_another_process_can_unpickle(tmp_path):
    exe, x = doubling(), np.ones((2, 3), "f4")
    (tmp_path / "exe").write_bytes(pickle.dumps(exe))
    program = f"import pickle, numpy; print(pickle.load(open({str(tmp_path / 'exe')!r}, 'rb'))(numpy.ones((2, 3), 'f4')).sum())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) == exe(x).sum()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_children_forked_while_threads_run_can_run(rng):
    b = Builder()
    x = b.input("x", "f32", ["n", 96])
    exe = tallow.compile(
        b.finish({"y": b.matmul(x, b.constant(rng.standard_normal((96, 96)).astype("f4")))}), threads=2
    )
    x = rng.standard_normal((96, 96)).astype("f4")
    want, stop = exe(x), threading.Event()

    def work() -> None:
        while not stop.is_set():
            exe(x)

    runner = threading.Thread(target=work)
    runner.start()
    try:
        codes = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                os._exit(0 if np.array_equal(exe(x), want) else 1)
            codes.append(os.waitpid(child, 0)[1])
    finally:
        stop.set()
        runner.join()
    assert codes == [0] * 10


# Plans and profiles -------------------------------------------------------------------------------


def test_the_plan_says_what_will_happen(model_path, tmp_path):
    exe = tallow.compile(model_path)
    (step,) = exe.plan.steps
    assert step.place == "cpu" and step.reason == "" and "dense" in step.nodes
    assert exe.plan.arena is None and "arena depends on sizes" in str(exe.plan)
    assert step.flops == "12*batch" or "batch" in step.flops
    eight = exe.plan_for({"batch": 8})
    assert isinstance(eight.arena, int) and int(eight.steps[0].flops) >= 2 * 8 * 3 * 2
    with pytest.raises(GraphError, match="no size named 'bach'"):
        exe.plan_for({"bach": 8})
    assert exe.plan.constants == sum(w.bytes for w in exe.plan.weights) > 0
    opened = tallow.open(exe.save(tmp_path / "m.tallow"))
    assert {w.state for w in opened.plan.weights} == {
        "mapped"
    } and opened.plan.mapped == opened.plan.constants


def test_the_arena_is_known_before_the_run(monkeypatch):
    b = Builder()
    x = b.input("x", "f32", ["n", 64])
    y = b.matmul(b.matmul(x, b.transpose(x, permutation=(1, 0))), x)
    exe = tallow.compile(b.finish({"y": y}))
    taken: list[int] = []
    take = type(exe._machine)._take_arena

    def spy(machine, phase, size):
        taken.append(size)
        return take(machine, phase, size)

    monkeypatch.setattr(type(exe._machine), "_take_arena", spy)
    for n in (1, 33, 100):
        taken.clear()
        exe(np.ones((n, 64), "f4"))
        assert sum(taken) == exe.plan_for({"n": n}).arena > 0


def test_weights_in_a_mapped_file_are_used_where_they_lie(save_onnx, tmp_path):
    import onnx

    path = save_onnx(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", "FLOAT", [4096])],
        [("y", "FLOAT", [4096])],
        {"w": np.arange(4096, dtype="f4")},
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (weight,) = tallow.compile(tallow.load(path)).plan.weights
    assert (weight.name, weight.state, weight.bytes) == ("w", "mapped", 16384)
    b = Builder()
    x = b.input("x", "f32", [2, 64])
    exe = tallow.compile(b.finish({"y": b.matmul(x, b.constant(np.ones((64, 64), "f4"), "w"))}))
    assert {w.state for w in exe.plan.weights} == {"copied"}


def test_profiles_measure_against_a_stated_roofline(rng):
    b = Builder()
    x = b.input("x", "f32", [256, 256])
    y = b.matmul(x, b.constant(rng.standard_normal((256, 256)).astype("f4")))
    exe = tallow.compile(b.finish({"y": y, "found": b.nonzero(x, defines=("k",))}), threads=1)
    inputs = {"x": rng.standard_normal((256, 256)).astype("f4")}
    profile = exe.profile(inputs, runs=3)
    product = next(s for s in profile.steps if s.flops >= 2 * 256**3)
    limits = profile.roofline
    assert limits.threads == 1 and limits.flops > 1e8 and limits.bandwidth > 1e8
    assert product.limit == "compute"
    assert product.share == pytest.approx(product.flops / limits.flops / product.seconds)
    assert product.gflops == pytest.approx(product.flops / product.seconds / 1e9)
    host = next(s for s in profile.steps if s.place == "host")
    assert host.share is None and host.label == "nonzero"
    assert "numpy's f32 product" in str(profile) and "1 threads" in str(profile)
    bare = exe.profile(inputs, runs=1, roofline=False)
    assert bare.roofline is None and bare.steps[0].share is None and "numpy's" not in str(bare)
    with pytest.raises(InputError, match="runs = 0"):
        exe.profile(inputs, runs=0)
    with pytest.raises(InputError, match="missing x"):
        exe.profile({})


def test_a_roofline_bounds_steps_by_the_slower_of_two():
    roof = Roofline(flops=100.0, bandwidth=10.0, threads=1)
    assert roof.least_seconds(200, 10) == 2 and roof.limit(200, 10) == "compute"
    assert roof.least_seconds(100, 30) == 3 and roof.limit(100, 30) == "memory"


def test_a_roofline_that_cannot_be_measured_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "no-such-python")
    with pytest.raises(Unavailable, match="profile with roofline=False"):
        measure_roofline.__wrapped__(1)
