"""The whole CUDA backend with the host for a GPU: kernels, launches, graphs, memory."""

from __future__ import annotations

import host_cuda
import numpy as np
import pytest
from test_graphs_on_devices import (  # noqa: F401 - tests, run here on this folder's device
    test_composites,
    test_products_of_other_dtypes,
    test_sizes_that_only_the_run_can_tell,
)

import tallow
from tallow.backend import BoundStep
from tallow.builder import Builder
from tallow.compile import open_compiled
from tallow.compiled import aligned
from tallow.compiler import compile_graph
from tallow.dtype import DTYPES
from tallow.errors import ArtifactError, TallowError, Unavailable


def two_steps():
    b = Builder()
    x = b.input("x", "f32", ["n", 8])
    return b.finish({"y": b.softmax(b.matmul(x, b.constant(np.eye(8, dtype="f4"))), axis=1)})


def test_addresses_that_come_again_are_one_graph(device):
    from tallow_cuda.device import open_device
    from tallow_cuda.discovery import select

    gpu = open_device(select("0"))
    compiled = compile_graph(two_steps(), device)
    module = gpu.load(compiled.code)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("f4")
    given, result = gpu.upload(x), gpu.allocate(x.nbytes)
    program = tallow.compile(two_steps(), device)
    want = tallow.evaluate(two_steps(), {"x": x})["y"]
    np.testing.assert_allclose(program(x), want, rtol=1e-5)

    entry = next(e for e in compiled.code.entries if e.startswith("softmax"))
    step = next(s for s in compiled.program.steps if s.entry == entry)
    bound = BoundStep(entry, ((1, 0), (2, 0)), tuple(3 for _ in step.sizes), 3, 1, "softmax")
    prepared = module.prepare([bound], 1)
    counts = []
    for _ in range(4):
        before = host_cuda.Driver.launches, host_cuda.Graph.launches
        prepared.run([0, given.ptr, result.ptr])
        counts.append((host_cuda.Driver.launches - before[0], host_cuda.Graph.launches - before[1]))
        out = np.empty_like(x)
        gpu.download(result, out)
        np.testing.assert_allclose(out, np.exp(x) / np.exp(x).sum(1, keepdims=True), rtol=1e-5)
    assert counts == [(1, 0), (0, 1), (0, 1), (0, 1)]
    elsewhere = gpu.allocate(x.nbytes)
    prepared.run([0, given.ptr, elsewhere.ptr])
    gpu.download(elsewhere, again := np.empty_like(x))
    np.testing.assert_array_equal(again, out)


def test_only_some_graphs_are_kept(device):
    from tallow_cuda import program
    from tallow_cuda.device import open_device
    from tallow_cuda.discovery import select

    prepared = program.Prepared(open_device(select(None)).load(compile_graph(two_steps(), device).code), [])
    prepared.bases = [0]
    for address in range(3 * program.GRAPHS):
        prepared.run([address])
        prepared.run([address])
    assert len(prepared.graphs) == program.GRAPHS and None not in prepared.graphs.values()


def test_profiles_name_each_step(device):
    program = tallow.compile(two_steps(), device)
    profile = program.profile({"x": np.ones((2, 8), "f4")})
    assert "softmax" in str(profile)


@pytest.mark.parametrize("size", [0, 1, 1000, (16 << 20) + 1])
def test_copies_come_back(device, size):
    from tallow_cuda.device import open_device
    from tallow_cuda.discovery import select

    gpu = open_device(select("1"))
    array = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    memory = gpu.upload(array)
    gpu.download(memory, out := np.zeros_like(array))
    np.testing.assert_array_equal(out, array)
    if size > 64:
        gpu.download(gpu.part(memory, 64, size - 64), rest := np.zeros(size - 64, np.uint8))
        np.testing.assert_array_equal(rest, array[64:])


def test_a_refused_launch_names_the_step(device):
    from tallow_cuda.device import open_device
    from tallow_cuda.discovery import select

    module = open_device(select(None)).load(compile_graph(two_steps(), device).code)
    entry = next(iter(module.functions))
    with pytest.raises(TallowError, match=r"my step: cuda:0 refuses the kernel: CUDA_ERROR_INVALID_VALUE"):
        module.prepare([BoundStep(entry, (), (), 0, 1, "my step")], 1).run([0])
    with pytest.raises(TallowError, match=r"my step: expected at most 2147483647 blocks, got 4294967296"):
        module.prepare([BoundStep(entry, (), (), 2**32, 1, "my step")], 1)


def test_code_for_another_gpu_is_refused(device):
    newer = compile_graph(two_steps(), "cuda:sm_90")
    with pytest.raises(
        ArtifactError, match="compiled for cuda:sm_90, and cuda:0 is sm_80: compile for cuda:sm_80"
    ):
        open_compiled(newer)
    assert open_compiled(compile_graph(two_steps(), "cuda:sm_80"), device="cuda:1") is not None


def test_devices_by_name(device):
    from tallow import plugins

    backend = plugins.backend("cuda")
    assert [d.name for d in backend.devices()] == ["cuda:0", "cuda:1"]
    assert backend.open("cuda:1").info.name == "cuda:1" and backend.open("cuda").info.name == "cuda:0"
    assert backend.open("cuda:1") is backend.open("cuda:1")
    with pytest.raises(
        Unavailable, match=r"no CUDA device '7' is here: expected one of cuda:0 \(Host, sm_80"
    ):
        backend.open("cuda:7")


class Foreign:
    """An array of another library that lies on the GPU."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        raise AssertionError("the double of cupy takes it otherwise")


class CupyArray:
    """What the backend asks of cupy's arrays."""

    def __init__(self, array: np.ndarray):
        self.shape, self.dtype, self.array = array.shape, array.dtype, array
        self.data = host_cuda.Pointer(array.reshape(-1).view(np.uint8))

    def reshape(self, shape):
        return CupyArray(self.array.reshape(shape))

    def copy(self):
        CupyArray.copies += 1
        return CupyArray(aligned(self.array.copy()))

    copies = 0


def test_arrays_of_other_libraries_are_used_where_they_lie(device):
    from tallow_cuda import libraries

    cupy = libraries.cupy()
    cupy.from_dlpack = lambda value: CupyArray(value.array)
    cupy.ascontiguousarray = lambda array: array
    program = tallow.compile(two_steps(), device)
    rows = aligned(np.random.default_rng(0).normal(size=(10, 8)).astype("f4"))
    for x, copies in ((rows[:5], 0), (rows[3:8], 1)):  # memory of a device is aligned to 64 bytes
        before = CupyArray.copies
        np.testing.assert_array_equal(program(Foreign(x)), program(x))
        assert CupyArray.copies - before == copies
    x = rows
    with pytest.raises(tallow.InputError, match='input "x": expected f32'):
        program(Foreign(x.astype("f8")))


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_without_kernels_are_told(device, name):
    from tallow import plugins
    from tallow_cuda.backend import COMPUTED

    backend = plugins.backend("cuda")
    b = Builder()
    (node,) = b.finish({"y": b.transpose(b.input("x", name, [2, 2]), permutation=(1, 0))}).nodes
    reason = None if name in COMPUTED else f"no kernels for {name}"
    assert backend.supports(node, backend.target("sm_80")) == reason
