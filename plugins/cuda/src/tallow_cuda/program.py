"""Kernels on a GPU: launched one by one, and as one CUDA graph when the same addresses come again."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tallow.backend import BoundStep, Code
from tallow.errors import TallowError
from tallow_cuda.cublaslt import Product
from tallow_cuda.source import function_of

GRAPHS = 8  # kept for one sequence of steps, one for each set of addresses
THREADS = 256  # of a block, for kernels that take any number
LARGEST_GRID = 2**31 - 1  # blocks


class Module:
    """The kernels of one executable on a device."""

    def __init__(self, device, code: Code):
        self.device = device
        self.groups = json.loads(code.notes["groups"])
        self.calls = json.loads(code.notes["calls"])
        self.functions: dict[str, object] = {}
        if code.blob:
            with device.errors("loading kernels"), device.current():
                module = device.cupy.cuda.Module()
                module.load(code.blob)
                self.functions = {e: module.get_function(function_of(e)) for e in self.groups}

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> Prepared:
        """The launches of bound steps; the host's threads have no part in them."""
        return Prepared(self, steps)


@dataclass(frozen=True, slots=True)
class _Launch:
    """A kernel with its arguments in `values`, which `pointers` are the places of, as CUDA reads them."""

    function: object
    blocks: int
    threads: int
    arguments: tuple[tuple[int, int], ...]
    values: np.ndarray
    pointers: np.ndarray
    label: str

    def bind(self, bases: Sequence[int]) -> None:
        for n, (base, offset) in enumerate(self.arguments):
            self.values[n] = bases[base] + offset

    def start(self, device, stream: int) -> None:
        pointers, driver = self.pointers.ctypes.data, device.cupy.cuda.driver
        try:
            driver.launchKernel(
                self.function.ptr, self.blocks, 1, 1, self.threads, 1, 1, 0, stream, pointers, 0
            )
        except driver.CUDADriverError as error:
            raise TallowError(f"{self.label}: {device.info.name} refuses the kernel: {error}") from None


class Prepared:
    """Bound steps. Addresses that come for the second time are captured as a graph, and from then on a run
    with them is one launch; memory pools give the same addresses to runs that come one after another."""

    def __init__(self, module: Module, steps: Sequence[BoundStep]):
        self.device = module.device
        self.launches = [_launch(module, step) for step in steps]
        self.bases = sorted({base for step in steps for base, _ in step.arguments})
        self.graphs: OrderedDict[tuple[int, ...], object | None] = OrderedDict()
        self.lock = threading.Lock()

    def run(self, bases: Sequence[int]) -> None:
        """Launch all steps; the device runs them in order after what was asked of it before."""
        device = self.device
        key = tuple([bases[base] for base in self.bases])
        with self.lock, device.current():
            known = key in self.graphs
            graph = self.graphs.pop(key, None)
            if known and graph is None:
                graph = self._capture(bases)
            self.graphs[key] = graph
            if len(self.graphs) > GRAPHS:
                self._forget()
            if graph is None:
                self._launch(bases, device.stream)
            else:
                with device.errors("launching a graph of kernels"):
                    graph.launch(device.stream)

    def profile(self, bases: Sequence[int]) -> list[float]:
        """Run all steps; the seconds that each took on the device."""
        device, cuda = self.device, self.device.cupy.cuda
        with self.lock, device.current(), device.errors("profiling"):
            events = [cuda.Event() for _ in range(len(self.launches) + 1)]
            events[0].record(device.stream)
            for launch, event in zip(self.launches, events[1:], strict=True):
                launch.bind(bases)
                launch.start(device, device.stream.ptr)
                event.record(device.stream)
            device.stream.synchronize()
            pairs = zip(events, events[1:], strict=False)
            return [cuda.get_elapsed_time(start, stop) * 1e-3 for start, stop in pairs]

    def _launch(self, bases: Sequence[int], stream) -> None:
        for launch in self.launches:
            launch.bind(bases)
            launch.start(self.device, stream.ptr)

    def _capture(self, bases: Sequence[int]):
        """The launches as a graph. They are captured from a stream of its own, so that other threads may go
        on using the device's."""
        stream = self.device.cupy.cuda.Stream(non_blocking=True)
        mode = self.device.cupy.cuda.runtime.streamCaptureModeThreadLocal
        with self.device.errors("capturing a graph of kernels"), stream:
            stream.begin_capture(mode)
            try:
                self._launch(bases, stream)
            finally:
                graph = stream.end_capture()
        return graph

    def _forget(self) -> None:
        """Drop the graph used longest ago, when it has run."""
        _, graph = self.graphs.popitem(last=False)
        if graph is not None:
            self.device.keep(graph)


def _launch(module: Module, step: BoundStep) -> _Launch | Product:
    if step.entry in module.calls:
        return Product(module.device, module.calls[step.entry], step)
    group = module.groups[step.entry]
    threads = group or THREADS
    blocks = step.grid if group else -(-step.grid // threads)
    if blocks > LARGEST_GRID:
        raise TallowError(f"{step.label}: expected at most {LARGEST_GRID} blocks, got {blocks}")
    values = np.zeros(len(step.arguments) + len(step.sizes), np.int64)
    values[len(step.arguments) :] = step.sizes
    pointers = values.ctypes.data + 8 * np.arange(len(values), dtype=np.int64)
    return _Launch(
        module.functions[step.entry], blocks, threads, step.arguments, values, pointers, step.label
    )
