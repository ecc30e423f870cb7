"""Programs on OpenCL devices: kept as files, in other processes, in the cache, and refused by drivers."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.errors import ArtifactError, CompileError, TallowError, Unavailable
from tallow_opencl import program
from tallow_opencl.device import OpenclDevice
from tallow_opencl.targets import make_target

WEIGHTS = np.random.default_rng(0).normal(size=(8, 5)).astype("f4")


@pytest.fixture
def device(usable) -> str:
    return usable("opencl")


def model():
    b = Builder()
    x = b.input("x", "f32", ["n", 8])
    return b.finish({"y": b.softmax(b.matmul(x, b.constant(WEIGHTS)), axis=1)})


@pytest.fixture
def inputs():
    return {"x": np.random.default_rng(1).normal(size=(7, 8)).astype("f4")}


@pytest.fixture
def wanted(inputs):
    return tallow.evaluate(model(), inputs)["y"]


OPENED = """
import sys
import numpy as np
import tallow
executable = tallow.open(sys.argv[1])
y = executable.run({"x": np.load(sys.argv[2])})["y"]
np.save(sys.argv[3], y)
print(executable.device.info.name)
"""


def test_an_artifact_runs_in_a_process_of_its_own(device, inputs, wanted, tmp_path):
    executable = tallow.compile(model(), device)
    path = executable.save(tmp_path / "m.tallow")
    np.save(tmp_path / "x.npy", inputs["x"])
    words = [path, tmp_path / "x.npy", tmp_path / "y.npy"]
    done = subprocess.run([sys.executable, "-c", OPENED, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == device
    got = np.load(tmp_path / "y.npy")
    np.testing.assert_array_equal(got, executable.run(inputs)["y"])
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)


def test_executables_pickle(device, inputs, wanted):
    copy = pickle.loads(pickle.dumps(tallow.compile(model(), device)))
    assert copy.device.info.name == device
    np.testing.assert_allclose(copy.run(inputs)["y"], wanted, rtol=1e-5, atol=1e-7)


def test_code_for_any_device_runs_on_this_one(device, inputs, wanted):
    compiled = tallow.compile(model(), "opencl:generic")
    assert compiled.device.info.name == device
    np.testing.assert_allclose(compiled.run(inputs)["y"], wanted, rtol=1e-5, atol=1e-7)


def opened(device: str) -> OpenclDevice:
    return tallow.plugins.backend("opencl").open(device)


def code_of(device: str):
    return tallow.compile(model(), device).compiled.code


def test_code_that_needs_more_than_the_device_has_is_refused(device):
    code = code_of(device)
    greedy = code._replace(notes={**code.notes, "target": "gpu+fp16+group4096"})
    with pytest.raises(ArtifactError, match=f"{device} lacks fp16, group of 4096 .*: compile for it"):
        opened(device).load(greedy)


def test_code_of_another_interface_is_refused(device):
    code = code_of(device)
    with pytest.raises(ArtifactError, match="with interface 0, and this one has .*: compile again"):
        opened(device).load(code._replace(notes={**code.notes, "interface": "0"}))


def test_source_that_the_driver_refuses_is_shown_around_the_fault(device):
    code = code_of(device)
    lines = code.blob.decode().splitlines()
    middle = len(lines) // 2
    lines.insert(middle, "wrong wrong wrong;")
    with pytest.raises(CompileError) as caught:
        opened(device).load(code._replace(blob="\n".join(lines).encode()))
    text = str(caught.value)
    assert text.startswith(f"{device} (") and "does not compile the kernels" in text
    assert f">{middle + 1:5} wrong wrong wrong;" in text
    shown = [line for line in text.splitlines() if line[:6].strip(" >").isdecimal()]
    assert 1 < len(shown) <= 2 * program.AROUND + 1


@pytest.mark.parametrize(
    "log,line",
    [
        ("<kernel>:3:7: error: use of undeclared identifier", 3),
        ("a.cl:1:1: warning: w\na.cl:9:2: error: e\na.cl:10:2: error: f", 9),
        ("input.cl(4): error: expected a ';'", 4),
        ("error: /tmp/a.cl:7:1: use of undeclared identifier", 7),
        ("x.cl:2:1: fatal error: too many", 2),
    ],
)
def test_lines_that_logs_name(log, line):
    source = "\n".join(f"line {n}" for n in range(1, 13))
    shown = program.numbered_source(source, log).splitlines()
    (marked,) = [text for text in shown if text.startswith(">")]
    assert marked == f">{line:5} line {line}"
    assert len(shown) == min(12, line + program.AROUND) - max(1, line - program.AROUND) + 1


@pytest.mark.parametrize(
    "log", ["", "internal compiler error", "a.cl:99:1: error: beyond", "a.cl:0:1: error: x"]
)
def test_logs_that_name_no_line(log):
    assert program.numbered_source("one\ntwo", log) == ""


def test_a_program_is_kept_by_drivers_that_do_not_keep_it_themselves(device, inputs, wanted, monkeypatch):
    kept = {}
    monkeypatch.setattr(program, "_KEEPS_ITS_OWN", "nobody")
    monkeypatch.setattr(program.cache, "store", lambda kind, key, data: kept.update({key: data}))
    monkeypatch.setattr(program.cache, "load", lambda kind, key: kept.get(key))
    np.testing.assert_allclose(tallow.compile(model(), device).run(inputs)["y"], wanted, rtol=1e-5)
    ((key, binary),) = kept.items()
    assert binary and isinstance(binary, bytes)
    monkeypatch.setattr(program.cache, "store", lambda kind, key, data: pytest.fail("built again"))
    np.testing.assert_allclose(tallow.compile(model(), device).run(inputs)["y"], wanted, rtol=1e-5)
    kept[key] = b"of another driver"
    monkeypatch.setattr(program.cache, "store", lambda kind, key, data: kept.update({key: data}))
    np.testing.assert_allclose(tallow.compile(model(), device).run(inputs)["y"], wanted, rtol=1e-5)
    assert kept[key] != b"of another driver"


def test_a_launch_that_the_driver_refuses_names_the_step(device, inputs):
    executable = tallow.compile(model(), device)
    executable.run(inputs)
    cl = executable.device.cl

    def refuse(*_):
        raise cl.RuntimeError("clEnqueueNDRangeKernel failed: OUT_OF_RESOURCES")

    def full(*_):
        raise cl.MemoryError("clEnqueueNDRangeKernel failed: MEM_OBJECT_ALLOCATION_FAILURE")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cl, "enqueue_nd_range_kernel", refuse)
        with pytest.raises(
            TallowError, match=f"matmul.*: the driver of {device} refuses the kernel: .*OUT_OF"
        ):
            executable.run(inputs)
        patch.setattr(cl, "enqueue_nd_range_kernel", full)
        with pytest.raises(TallowError, match=r"not enough memory to run with n = 7: .*ALLOCATION_FAILURE"):
            executable.run(inputs)
    assert executable.run(inputs)["y"].shape == (7, 5)


def test_memory_that_is_not_there_is_said(device):
    here = opened(device)
    with pytest.raises(MemoryError, match=f"{device} has no memory for {1 << 60} bytes"):
        here.allocate(1 << 60)
    executable = tallow.compile(model(), device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here, "largest", 100)
        with pytest.raises(MemoryError, match="for 400 bytes in one piece, but for 100"):
            here.upload(np.zeros(100, "f4"))
        with pytest.raises(TallowError, match="not enough memory to run with n = 7: .*in one piece"):
            executable.run({"x": np.zeros((7, 8), "f4")})
        with pytest.raises(Unavailable, match=f"constants do not fit: .*Expected a device .* than {device}"):
            tallow.compile(model(), device)


def test_the_device_is_opened_once(device):
    assert opened(device) is opened("opencl:0") is opened("opencl:generic")


def test_groups_fill_the_device_in_whole_steps(device):
    """As on a device of 40 units that run 32 threads in step, where a kernel may have 128 of them."""

    class Kernel:
        def get_work_group_info(self, what, _):
            return {"most": 128, "step": 32}[what]

    here = object.__new__(OpenclDevice)
    info = type("Info", (), {"WORK_GROUP_SIZE": "most", "PREFERRED_WORK_GROUP_SIZE_MULTIPLE": "step"})
    here.cl = type("Cl", (), {"kernel_work_group_info": info})
    here.device = type("Device", (), {"max_compute_units": 40})
    here.target = make_target("gpu+group64")
    assert [here.work_group(here.groups(Kernel()), grid) for grid in (1, 1280, 4000, 1 << 20)] == [
        32,
        32,
        96,
        128,
    ]
    here.target = make_target("cpu+vector32")
    assert here.work_group(here.groups(Kernel()), 1 << 20) == 1
