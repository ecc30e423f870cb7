"""The kit finds what is wrong with a backend: one that has each fault in turn, beside the same without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tallow.testing.accuracy import EXACT, Accuracy, difference, of_scalar, sum_of
from tallow.testing.case import strided
from tallow.testing.cases import CASES

MODULE = '''
"""The example backend with the fault that the environment names."""

import ctypes
import os
import time

import tallow_example
from tallow.backend import Code, Target
from tallow.errors import TallowError
from tallow.hookspecs import hook

TALLOW_API = 1
FAULT = os.environ.get("FAULT", "")
C_FAULTS = {
    "function": ("sqrt(a)", "sqrt(a) * 1.001f"),
    "tail": ("number < grid", "number < grid - (grid > 1)"),
}
print_c, kept, started = tallow_example.print_c, [], os.getpid()


def faulty_c(kernel):
    return print_c(kernel).replace(*C_FAULTS[FAULT])


if FAULT in C_FAULTS:
    tallow_example.print_c = faulty_c


class FaultyBackend(tallow_example.ExampleBackend):
    name = "faulty"

    def devices(self):
        return [tallow_example.DeviceInfo("faulty", "a faulty device", 0)]

    def target(self, arch=None):
        arch = None if FAULT == "swallow" else arch
        return Target("faulty", super().target(arch).arch)

    def compile(self, kernels, target):
        try:
            code = super().compile(kernels, target)
        except TallowError:
            if FAULT == "swallow":
                return Code(b"", {})
            raise
        if FAULT == "memory of the process":
            kept.append(code.blob)
            return Code(str(len(kept) - 1).encode(), code.entries, notes=code.notes)
        return code

    def open(self, device):
        return FaultyDevice(self.target(device.partition(":")[2] or None))


class FaultyDevice(tallow_example.ExampleDevice):
    def __init__(self, target):
        self.info = tallow_example.DeviceInfo("faulty", "a faulty device", 0)

    def load(self, code):
        if FAULT == "memory of the process":
            code = Code(kept[int(code.blob)], code.entries, notes=code.notes)
        return FaultyModule(super().load(code).library)

    def allocate(self, size):
        return super().allocate(min(size, 1 << 30) if FAULT == "swallow" else size)


class FaultyModule(tallow_example.ExampleModule):
    def prepare(self, steps, threads):
        return FaultyPrepared(super().prepare(steps, threads).calls, threads)


class FaultyPrepared(tallow_example.ExamplePrepared):
    def __init__(self, calls, threads):
        super().__init__(calls)
        self.threads = threads

    def run(self, bases):
        if FAULT == "leak":
            kept.append(bytes(5000))
        if FAULT == "native leak":
            ctypes.memset(ctypes.pythonapi.PyMem_RawMalloc(1 << 20), 1, 1 << 20)
        if FAULT == "fork" and os.getpid() != started:
            raise RuntimeError("the driver has no context")
        self.bases = list(bases)
        for call in self.calls if FAULT == "shared state" else ():
            time.sleep(0.002)  # so that other callers surely come in between
            tallow_example.ExamplePrepared([call]).run(self.bases)
        if FAULT != "shared state":
            super().run(bases)
        if FAULT == "overrun":  # the last base is where the last result lies
            ctypes.c_uint8.from_address(bases[-1] - 1).value ^= 1
        if FAULT == "threads" and self.threads == 3:
            function, step = self.calls[-1]
            base, offset = step.arguments[-1]
            ctypes.c_uint8.from_address(bases[base] + offset).value ^= 1


ctypes.pythonapi.PyMem_RawMalloc.restype = ctypes.c_void_p
ctypes.pythonapi.PyMem_RawMalloc.argtypes = [ctypes.c_size_t]


@hook
def register_backends(register):
    register("faulty", FaultyBackend)
'''
# fault -> the tests that must fail, and others that must not
FAULTS = {
    "function": ("operator and (sqrt or floor) and f32 and not rsqrt", {"test_operator[sqrt, f32]"}),
    "tail": ("operator and (neg or isnan) and f32", {"test_operator[neg, f32]", "test_operator[isnan, f32]"}),
    "overrun": (
        "transformer and given",
        {"test_results_stay_within_the_arrays_that_are_given[transformer]"},
    ),
    "leak": ("leave_nothing or later_runs", {"test_runs_leave_nothing_behind"}),
    "native leak": ("leave_nothing", {"test_runs_leave_nothing_behind"}),
    "swallow": (
        "errors or too_much",
        {
            "test_an_architecture_that_is_not_there_is_refused",
            "test_a_device_that_is_not_there_is_refused",
            "test_a_compilers_complaint_is_passed_on",
            "test_too_much_memory_is_refused",
        },
    ),
    "fork": ("forked or pickled", {"test_a_forked_child_goes_on_or_is_refused_in_words"}),
    "shared state": ("transformer and callers", {"test_callers_at_once_get_what_each_would_get_alone[transformer]"}),
    "threads": ("found and (same_bits or callers)", {"test_any_number_of_threads_gives_the_same_bits[found_at_run_time]"}),
    "memory of the process": (
        "found and fresh",
        {"test_an_artifact_runs_in_a_fresh_process[found_at_run_time]"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder for the module search path with the faulty backend as an installed distribution."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "tallow_faulty.py").write_text(MODULE)
    information = folder / "tallow_faulty-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tallow-faulty\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[tallow]\nfaulty = tallow_faulty\n")
    return folder


def run_kit(*words: str, site: Path | None = None, fault: str = "", backend: str = "faulty"):
    """Exit code, names of failed tests and the output of the kit."""
    environment = os.environ | {"FAULT": fault, "PYTHONPATH": str(site or ""), "TALLOW_VERIFY": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--tb=line"]
    command += ["--pyargs", "tallow.testing", *(["--backend", backend] if backend else []), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=site)
    failed = set(re.findall(r"^FAILED \S*::(.*?)(?: - .*)?$", done.stdout, re.M))
    return done.returncode, failed, done.stdout + done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault, site):
    words, expected = FAULTS[fault]
    code, failed, output = run_kit("-k", words, site=site, fault=fault)
    assert code == 1 and failed == expected, output


def test_the_same_backend_without_a_fault_passes(site):
    quick = ("function", "tail", "overrun", "swallow", "fork")
    words = " or ".join(["(test_model and transformer)", *(f"({FAULTS[fault][0]})" for fault in quick)])
    code, failed, output = run_kit("-k", words, site=site)
    assert code == 0 and not failed, output
    assert re.search(r"not done by the device.*\d+  partly: no kernel for matmul", output, re.S), output


def test_a_backend_must_be_named_and_usable(site):
    code, _, output = run_kit("--collect-only", backend="")
    assert code == 4 and "say which backend is tried: --backend NAME" in output
    code, _, output = run_kit("--collect-only", backend="nothing")
    assert code == 4 and "there is no backend 'nothing'" in output


def test_other_runs_of_pytest_do_not_see_its_options(tmp_path):
    (tmp_path / "test_x.py").write_text("def test_x(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "--backend", "example", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 4 and "unrecognized arguments" in done.stderr


# Its parts ----------------------------------------------------------------------------------------


def test_every_scalar_function_has_a_case_and_quick_dtypes_are_dtypes():
    from tallow.scalar import SCALAR

    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) and set(SCALAR) <= set(names)
    for case in CASES:
        assert case.quick and set(case.quick) <= set(case.dtypes), case.name


def test_differences():
    want = np.array([1.0, 2.0, np.nan, np.inf], "f4")
    near = want.copy()
    near[1] = np.nextafter(near[1], np.float32(9))
    assert difference(want.copy(), want, EXACT) is None
    assert "1 of 4 elements are wrong, the first at [1]" in difference(
        np.array([1.0, 2.5, np.nan, np.inf], "f4"), want, Accuracy(4)
    )
    assert difference(near, want, Accuracy(1)) is None and difference(near, want, EXACT)
    assert difference(np.array([1.0, 2.0, 3.0, np.inf], "f4"), want, Accuracy(100))
    assert difference(-want, want, Accuracy(100)) and difference(want[:3], want, EXACT)
    assert "expected float32[4], got float64[4]" in difference(want.astype("f8"), want, EXACT)
    assert difference(np.array(3), np.array(3), EXACT) is None
    assert "at []: expected 3, got 4" in difference(np.array(4), np.array(3), EXACT)
    assert difference(np.array([1e-3], "f4"), np.array([0.0], "f4"), Accuracy(2, 0, 1.0))
    assert difference(np.array([1e-7], "f4"), np.array([0.0], "f4"), Accuracy(2, 0, 1.0)) is None
    sums = np.array([1e4], "f4")
    assert difference(np.array([1e-3], "f4"), np.array([0.0], "f4"), sum_of(3), sums) is None
    assert difference(np.array([1.0], "f4"), np.array([0.0], "f4"), sum_of(3), sums)
    half = np.array([1.0], "f2")
    assert difference(half + np.float16(2**-10), half, of_scalar("exp")) is None
    assert difference(half + np.float16(2**-9), half, of_scalar("exp"))


def test_strided_arrays_hold_the_same_elements():
    for shape in ((), (1,), (3, 0), (0, 3), (2, 3, 5)):
        array = np.arange(int(np.prod(shape)), dtype="i4").reshape(shape)
        view = strided(array)
        np.testing.assert_array_equal(view, array)
        assert not array.size > 1 or not view.flags.c_contiguous
