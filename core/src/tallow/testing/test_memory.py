"""Memory: what the plan says is what a run takes, nothing grows, nothing is written beyond what is given."""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import tallow
from tallow.executable import Executable
from tallow.testing.guard import AROUND, PATTERN, Guarded
from tallow.testing.small_models import MODELS

TRANSFORMER = next(m for m in MODELS if m.name == "transformer")
RUNS = 200


class Recorder:
    """A device that notes what is allocated, and on the host keeps a guard behind each piece."""

    def __init__(self, device):
        self._device, self.sizes, self.guards = device, [], []

    def __getattr__(self, name: str):
        return getattr(self._device, name)

    def allocate(self, size: int):
        self.sizes.append(size)
        if not self.is_host:
            return self._device.allocate(size)
        memory = self._device.allocate(size + AROUND)
        end = self._device.address(memory) + size
        ctypes.memset(end, PATTERN, AROUND)
        self.guards.append((memory, end))
        return memory

    def broken(self) -> list[int]:
        """Sizes of pieces behind which something was written."""
        intact = bytes([PATTERN]) * AROUND
        pieces = zip(self.sizes, self.guards, strict=True) if self.guards else ()
        return [size for size, (_, end) in pieces if ctypes.string_at(end, AROUND) != intact]


def opened(model, device: str) -> Executable:
    run = tallow.compile(model.graph(), device)
    return Executable(run.compiled, Recorder(run.device), run.threads)


def test_the_arena_is_what_the_plan_says(device):
    for sizes in TRANSFORMER.sizes:
        run = opened(TRANSFORMER, device)
        run.run(TRANSFORMER.inputs(sizes))
        planned, taken = run.plan_for(sizes).arena, run.device.sizes
        assert planned in ([sum(taken)] if run.device.is_host else [*taken, sum(taken)]), (planned, taken)
        assert not run.device.broken()


def test_later_runs_allocate_nothing(device):
    run = opened(TRANSFORMER, device)
    inputs = TRANSFORMER.inputs(TRANSFORMER.sizes[0])
    for _ in range(3):
        run.run(inputs)
    before = len(run.device.sizes)
    for _ in range(10):
        run.run(inputs)
    if not run.device.is_host:
        pytest.skip("the device's memory is not the host's: pieces for inputs and results may come and go")
    assert len(run.device.sizes) == before


def test_results_stay_within_the_arrays_that_are_given(model, device):
    graph = model.graph()
    run = tallow.compile(graph, device)
    for sizes in model.sizes:
        inputs = model.inputs(sizes)
        guarded = {n: Guarded(np.asarray(a)) for n, a in tallow.evaluate(graph, inputs).items()}
        run.run(inputs, out={name: place.array for name, place in guarded.items()})
        for name, place in guarded.items():
            assert not place.broken(), f"{model.name} writes beyond {name} with {dict(sizes)}"
        again = run.run(inputs)
        assert all(place.array.tobytes() == again[name].tobytes() for name, place in guarded.items())


def resident() -> int:
    """Bytes of this process that are in memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        pytest.skip("this system does not tell how much memory a process has")


def test_runs_leave_nothing_behind(device):
    run = tallow.compile(TRANSFORMER.graph(), device)
    inputs = TRANSFORMER.inputs({"batch": 4, "tokens": 33})
    for _ in range(20):
        run.run(inputs)
    gc.collect()
    before = resident()
    tracemalloc.start()
    try:
        for _ in range(5):
            run.run(inputs)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        for _ in range(RUNS):
            run.run(inputs)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()
    assert grown < 100 * RUNS, f"{RUNS} runs leave {grown} bytes of Python's memory behind"
    assert resident() - before < 16 << 20, f"{RUNS} runs leave {(resident() - before) >> 20} MB behind"


def test_too_much_memory_is_refused(backend, device):
    opened = tallow.compile(TRANSFORMER.graph(), device).device
    with pytest.raises((MemoryError, tallow.TallowError)):
        opened.allocate(1 << 60)
