"""The thread pool and the step walker: correct whatever runs beside them, equal for any thread count."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from cpu_support import BACKEND, INDEX, Native, grid

from tallow.backend import BoundStep
from tallow.dtype import f32, i64
from tallow.errors import CompileError
from tallow.kernel.build import add, call, const, mul, var
from tallow.kernel.grammar import Buffer, For, Kernel, Load, Store, Update
from tallow_cpu.runtime import module
from tallow_cpu.runtime.module import Pool, aligned
from tallow_cpu.runtime.threads import quota, usable_cores

ROW = 61
G, N = var("g"), var("n")


def add_one() -> Kernel:
    """out[g] += 1 over the grid."""
    out = Buffer("out", i64, writable=True)
    return Kernel("add_one", (out,), (N,), (grid([Store(out, G, add(Load(out, G), const(1)))], N),))


def row_sums() -> Kernel:
    """out[g] = sum of exp(x[g, :])."""
    x, out = Buffer("x", f32), Buffer("out", f32, writable=True)
    inner = For(
        INDEX,
        const(ROW),
        (Update(out, G, "add", call("exp", Load(x, add(mul(G, const(ROW)), INDEX)))),),
        "vector",
    )
    return Kernel("row_sums", (x, out), (N,), (grid([Store(out, G, const(0.0, f32)), inner], N),))


@pytest.fixture(scope="module")
def native():
    return Native([add_one(), row_sums()])


def increments(native, array, repeats, grain=1, threads=4):
    steps = [BoundStep("add_one", ((0, 0),), (len(array),), len(array), grain)] * repeats
    return native.module.prepare(steps, threads)


def test_results_are_bitwise_equal_for_any_thread_count(native):
    rows = 1003
    x = np.random.default_rng(0).standard_normal((rows, ROW)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 4):
        for grain in (1, 7, 2000):
            out = np.zeros(rows, np.float32)
            step = BoundStep("row_sums", ((0, 0), (1, 0)), (rows,), rows, grain)
            native.module.prepare([step], threads).run([x.ctypes.data, out.ctypes.data])
            results.append(out.tobytes())
    assert len(set(results)) == 1
    np.testing.assert_allclose(
        np.frombuffer(results[0], np.float32), np.exp(x.astype(np.float64)).sum(1), rtol=1e-5
    )


def test_many_small_parallel_steps(native):
    array = np.zeros(37, np.int64)
    increments(native, array, 20000).run([array.ctypes.data])
    assert (array == 20000).all()


@pytest.mark.parametrize("workers", [1, 5, 70])
def test_each_item_is_computed_once_however_it_is_dealt_out(native, monkeypatch, workers):
    monkeypatch.setattr(module, "usable_cores", lambda: workers + 1)
    pool = Pool(native.code.support["runtime"])
    monkeypatch.setattr(native.module, "pool", pool)
    for length, grain in ((2, 1), (workers, 1), (workers + 2, 1), (997, 1), (997, 13), (5000, 1)):
        out = np.zeros(length, np.int64)
        increments(native, out, 20, grain, workers + 1).run([out.ctypes.data])
        assert (out == 20).all()
    assert pool.workers == workers


def test_steps_after_a_pause_wake_sleeping_workers(native):
    array = np.zeros(4000, np.int64)
    prepared = increments(native, array, 1)
    for _ in range(20):
        time.sleep(0.002)
        prepared.run([array.ctypes.data])
    assert (array == 20).all()


def test_byte_offsets_sizes_and_zero_grids(native):
    array = np.zeros(16, np.int64)
    steps = [
        BoundStep("add_one", ((1, 8 * 4),), (3,), 3, 1),
        BoundStep("add_one", ((1, 0),), (0,), 0, 1),
        BoundStep("add_one", ((1, 8 * 5),), (1,), 1, 1),
    ]
    native.module.prepare(steps, 2).run([0, array.ctypes.data])
    np.testing.assert_array_equal(np.flatnonzero(array), [4, 5, 6])
    assert array[5] == 2
    native.module.prepare([], 2).run([])


def test_python_threads_run_at_once(native):
    """One takes the pool, the others work alone; each sees only its own memory."""
    arrays = [np.zeros(301, np.int64) for _ in range(4)]
    prepared = increments(native, arrays[0], 50)

    def work(array):
        for _ in range(40):
            prepared.run([array.ctypes.data])

    threads = [threading.Thread(target=work, args=(a,)) for a in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((a == 2000).all() for a in arrays)


def test_runs_release_the_interpreter(native):
    array = np.zeros(3000, np.int64)
    prepared = increments(native, array, 20000, threads=1)
    seen = []
    thread = threading.Thread(target=prepared.run, args=([array.ctypes.data],))
    thread.start()
    while thread.is_alive():
        seen.append(time.perf_counter())
        time.sleep(0.0005)
    thread.join()
    assert len(seen) > 3 and (array == 20000).all()


def test_profiles_give_seconds_for_each_step(native):
    array = np.zeros(200000, np.int64)
    steps = [BoundStep("add_one", ((0, 0),), (n,), n, 1) for n in (1, 200000)]
    for threads in (1, 2):
        prepared = native.module.prepare(steps, threads)
        prepared.run([array.ctypes.data])
        seconds = prepared.profile([array.ctypes.data])
        assert len(seconds) == 2 and 0 <= seconds[0] < seconds[1] < 1
    assert array[0] == 8 and array[-1] == 4


def test_forked_children_have_a_pool_of_their_own(native):
    array = np.zeros(500, np.int64)
    prepared = increments(native, array, 100)
    prepared.run([array.ctypes.data])
    for _ in range(3):
        child = os.fork()
        if child == 0:
            prepared.run([array.ctypes.data])
            os._exit(0 if (array == 200).all() else 1)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.002)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked child hangs")
        assert os.waitstatus_to_exitcode(status) == 0
    prepared.run([array.ctypes.data])
    assert (array == 200).all()


def test_too_many_buffers_are_refused(native):
    step = BoundStep("add_one", ((0, 0),) * 300, (1,), 1, 1)
    with pytest.raises(CompileError, match="300 buffers: expected at most 256"):
        native.module.prepare([step], 1)


def test_workers_take_no_signals(native):
    """A handler runs in the waiting Python thread, although workers are there."""
    array = np.zeros(5000, np.int64)
    increments(native, array, 10).run([array.ctypes.data])
    hits = []
    before = signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        time.sleep(0.05)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert hits == [1]
    status = [(t, open(f"/proc/self/task/{t}/status").read()) for t in os.listdir("/proc/self/task")]
    blocked = [int(text.split("SigBlk:")[1].split()[0], 16) for _, text in status]
    assert usable_cores() == 1 or any(mask >> (signal.SIGALRM - 1) & 1 for mask in blocked)


EXIT = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from cpu_support import Native
from test_cpu_threads import add_one, increments
native = Native([add_one()])
array = np.zeros(1000, np.int64)
prepared = increments(native, array, 200)
prepared.run([array.ctypes.data])
if sys.argv[2] == "busy":
    def forever():
        while True:
            prepared.run([array.ctypes.data])
    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.05)
"""


@pytest.mark.parametrize("how", ["idle", "busy"])
def test_the_interpreter_exits_with_workers_alive(how):
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", EXIT, here, how],
            env=environment,
            timeout=60,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_a_pool_uses_no_more_threads_than_asked(native):
    pool = native.module.pool
    assert pool.ensure(1) == 1
    assert pool.ensure(64) == pool.workers + 1 <= usable_cores()
    assert isinstance(pool, Pool) and aligned(100).ctypes.data % 64 == 0


def test_quotas_of_control_groups(tmp_path):
    member = tmp_path / "member"
    member.write_text("0::/user/job\n")
    assert quota(tmp_path, member) is None
    for folder, text in (("user/job", "max 100000"), ("user", "250000 100000"), ("", "800000 100000")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "cpu.max").write_text(text)
    assert quota(tmp_path, member) == 3
    old = tmp_path / "old"
    (old / "cpu" / "box").mkdir(parents=True)
    for folder, limit in (("cpu/box", 150000), ("cpu", -1)):
        (old / folder / "cpu.cfs_quota_us").write_text(str(limit))
        (old / folder / "cpu.cfs_period_us").write_text("100000")
    member.write_text("4:memory:/box\n3:cpu,cpuacct:/box\n")
    assert quota(old, member) == 2
    assert quota(tmp_path / "nowhere", tmp_path / "no file") is None


def test_devices_are_described():
    device = BACKEND.open("cpu")
    assert device.is_host and str(usable_cores()) in device.info.description and device.info.memory > 0
    memory = device.allocate(1000)
    assert memory.nbytes == 1000 and device.address(memory) % 64 == 0
