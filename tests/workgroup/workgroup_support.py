"""Graphs on devices of both shapes, interpreted or through PoCL: what the tests of work-group lowerings share."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np

import tallow
from tallow.backend import BoundStep, Code, DeviceInfo
from tallow.compile import lower, prepare
from tallow.compiled import Compiled
from tallow.cstyle.dialects import OPENCL
from tallow.cstyle.printer import group_size, print_kernel
from tallow.executable import Executable
from tallow.graph import Graph, TensorType
from tallow.interpret import interpret
from tallow.kernel.expand import expand
from tallow.kernel.grammar import Kernel
from tallow.kernel.math import APPROXIMATIONS
from tallow.kernel.verify import verify
from tallow.lower.workgroup import PASSES, WORKGROUP
from tallow.scalar import SCALAR
from tallow.target import Target

SMALL = Target("groups", "small", (), 0, {"group": 16, "shared": 4096, "units": 1})
LARGE = Target("groups", "large", (), 0, {"group": 256, "shared": 48 << 10, "units": 4})
VECTORS = Target("groups", "vectors", (), 64, {"registers": 32, "l2": 1 << 20})
NARROW_VECTORS = Target("groups", "narrow", (), 32, {"registers": 16})
TARGETS = {"small": SMALL, "large": LARGE, "vectors": VECTORS, "narrow": NARROW_VECTORS}


NOWHERE = np.zeros(64, np.uint8)  # for values without elements


class Groups:
    """A backend of work-groups for one target; `machine` runs a kernel on arrays."""

    name = "groups"
    lowerings = WORKGROUP
    passes = PASSES

    def supports(self, node, target: Target) -> str | None:
        odd = [v for v in (*node.inputs, *node.outputs) if not isinstance(v.type, TensorType)]
        odd += [v for v in (*node.inputs, *node.outputs) if v not in odd and v.dtype.kind == "string"]
        return f"no kernels for {odd[0].type}" if odd else None


def kernels_of(graph: Graph, target: Target) -> dict[str, Kernel]:
    """The kernels that a graph becomes, verified."""
    backend = Groups()
    kernels = lower(prepare(graph, backend, target), backend, target).kernels
    for kernel in kernels.values():
        verify(kernel)
    return dict(kernels)


class Machine:
    """A device on the host's memory; `run` is given a kernel, its arrays, sizes and grid."""

    is_host = True
    info = DeviceInfo("groups", "work-groups", 1 << 30)

    def __init__(self, run):
        self.run = run

    def load(self, code: Code) -> Loaded:
        return Loaded(pickle.loads(code.blob), self.run)

    def allocate(self, size: int) -> np.ndarray:
        return np.zeros(size, np.uint8)

    def address(self, memory: np.ndarray) -> int:
        return memory.ctypes.data

    def part(self, memory: np.ndarray, offset: int, size: int) -> np.ndarray:
        return memory[offset : offset + size]

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array)

    def download(self, memory, out=None):
        return memory


class Loaded:
    def __init__(self, kernels: dict[str, Kernel], run):
        self.kernels, self.run_kernel = kernels, run

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> Loaded:
        return Loaded.Steps(self, steps)

    class Steps:
        def __init__(self, loaded: Loaded, steps: Sequence[BoundStep]):
            self.loaded, self.steps = loaded, steps

        def run(self, bases: Sequence[int]) -> None:
            for step in self.steps:
                kernel = self.loaded.kernels[step.entry]
                places = [bases[base] + offset for base, offset in step.arguments]
                self.loaded.run_kernel(kernel, places, step.sizes, step.grid)

        def profile(self, bases: Sequence[int]) -> list[float]:
            self.run(bases)
            return [0.0] * len(self.steps)


def memory_at(address: int, carrier: np.dtype) -> np.ndarray:
    """Memory from an address on, as far as anyone could index."""
    interface = {
        "data": (address or NOWHERE.ctypes.data, False),
        "shape": (1 << 24,),
        "typestr": f"|V{carrier.itemsize}",
        "version": 3,
    }
    holder = type("Memory", (), {"__array_interface__": interface})()
    return np.asarray(holder).view(carrier)


def interpreted(kernel: Kernel, places: Sequence[int], sizes: Sequence[int], grid: int) -> None:
    kernel = expand(kernel, frozenset(SCALAR) - frozenset(APPROXIMATIONS))
    arrays = {b.name: memory_at(at, b.dtype.numpy) for b, at in zip(kernel.parameters, places, strict=True)}
    named = {v.name: s for v, s in zip(kernel.sizes, sizes, strict=True)}
    interpret(kernel, arrays, named, 0, grid)


class Pocl:
    """Runs the kernels of one program on an OpenCL device that shares the host's memory."""

    def __init__(self, device, target: Target):
        self.device, self.vector_bytes = device, target.vector_bytes
        self.programs: dict[str, object] = {}

    def __call__(self, kernel: Kernel, places: Sequence[int], sizes: Sequence[int], grid: int) -> None:
        cl, group = self.device.cl, group_size(kernel)
        if kernel.name not in self.programs:
            text = print_kernel(kernel, OPENCL, self.vector_bytes)
            built = cl.Program(self.device.context, text).build(["-w"])
            self.programs[kernel.name] = built, built.all_kernels()[0]
        if grid == 0:
            return
        entry = self.programs[kernel.name][1]
        for number, (b, at) in enumerate(zip(kernel.parameters, places, strict=True)):
            entry.set_arg(number, cl.SVM(memory_at(at, b.dtype.numpy).view("u1")))
        for number, size in enumerate(sizes):
            entry.set_arg(len(places) + number, np.int64(size))
        alone = (1,) if self.vector_bytes else None
        threads, local = (grid, alone) if group is None else (grid * group, (group,))
        cl.enqueue_nd_range_kernel(self.device.queue, entry, (threads,), local)
        self.device.queue.finish()


def compiled(graph: Graph, target: Target, run) -> Executable:
    backend = Groups()
    scheduled = lower(prepare(graph, backend, target), backend, target)
    for kernel in scheduled.kernels.values():
        verify(kernel)
    code = Code(pickle.dumps(dict(scheduled.kernels)), {name: 0 for name in scheduled.kernels})
    program = Compiled(scheduled.program, target, code, dict(scheduled.constants), {})
    return Executable(program, Machine(run), 1)


def agree(
    graph: Graph, inputs: dict[str, np.ndarray], tolerance: float, target: Target, run=interpreted
) -> None:
    """The device's results are those of the numpy meaning, within `tolerance` of the largest."""
    want = tallow.evaluate(graph, inputs)
    got = compiled(graph, target, run).run(inputs)
    for name, expected in want.items():
        assert got[name].shape == expected.shape and got[name].dtype == expected.dtype
        near(got[name], expected, tolerance)


def near(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    if not tolerance:
        np.testing.assert_array_equal(got, want)
        return
    got, want = got.astype("f8"), want.astype("f8")
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[~finite], want[~finite])
    scale = max(np.abs(want[finite]).max(initial=0), 1e-3)
    assert np.abs(got[finite] - want[finite]).max(initial=0) <= tolerance * scale
