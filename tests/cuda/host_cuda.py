"""A double of cupy.cuda whose GPU is the host: kernels are the backend's own CUDA C, compiled as C++.

Work is done when it is asked for, so this shows that kernels compute what they should and that launches,
graphs and copies are asked for as CUDA wants them, not that they are ordered well among streams.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).parent
FLAGS = ("-O0", "-std=c++17", "-shared", "-fPIC", "-w", "-ffp-contract=off", "-fno-strict-aliasing")


class DriverError(RuntimeError):
    pass


def compile_source(text: str, target) -> tuple[bytes, str]:
    """A shared library in place of machine code. What is written for matrix units is in the header for the host."""
    text = re.sub(r"^(struct matrix_|.*\basm\b).*\n", "", text, flags=re.MULTILINE)
    head, *kernels = text.replace("#include <cuda_fp16.h>\n", "").split('extern "C" __global__')
    parts = ['#include "host_cuda.h"\n', head]
    for kernel in kernels:
        name = re.search(r"(\w+)\(", kernel.replace("__launch_bounds__(", ""))[1]
        meeting = any(word in kernel for word in ("__syncthreads", "__syncwarp", "__shfl_xor_sync"))
        barriers = "true" if meeting else "false"
        parts += [
            f'extern "C" __global__{kernel}',
            f"static void call_{name}(void **p) {{ apply({name}, p); }}\n",
        ]
        launch = f"void launch_{name}(void **p, unsigned blocks, unsigned threads)"
        parts.append(f'extern "C" {launch} {{ run_grid(call_{name}, {barriers}, p, blocks, threads); }}\n')
    with tempfile.TemporaryDirectory() as folder:
        file, library = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        file.write_text("".join(parts))
        subprocess.run(["g++", *FLAGS, "-I", HERE, file, "-o", library], check=True)
        return library.read_bytes(), ""


class Stream:
    def __init__(self, non_blocking: bool = False):
        self.ptr, self.captured = id(self), None
        Stream.known[self.ptr] = self

    known: dict[int, Stream] = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def begin_capture(self, mode):
        self.captured = []

    def end_capture(self):
        captured, self.captured = self.captured, None
        return Graph(captured)

    def synchronize(self):
        pass


class Graph:
    launches = 0

    def __init__(self, work: list):
        self.work = work

    def launch(self, stream):
        Graph.launches += 1
        for call in self.work:
            call()


class Pointer:
    """Memory of the host that a part of can be named."""

    def __init__(self, array: np.ndarray, offset: int = 0):
        self.array, self.offset, self.ptr = array, offset, array.ctypes.data + offset

    def __add__(self, offset: int) -> Pointer:
        return Pointer(self.array, self.offset + offset)

    def __buffer__(self, flags):
        return memoryview(self.array)


class Pool:
    def malloc(self, size: int) -> Pointer:
        memory = np.full(size + 64, 0xA5, np.uint8)
        skip = -memory.ctypes.data % 64  # memory of CUDA is aligned
        return Pointer(memory[skip : skip + size])


class PinnedPool:
    def malloc(self, size: int):
        memory = (ctypes.c_ubyte * size)()
        memory.ptr = ctypes.addressof(memory)
        return memory


class Module:
    def load(self, blob: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(blob)
            file.flush()
            self.library = ctypes.CDLL(file.name)

    def get_function(self, name: str):
        function = getattr(self.library, f"launch_{name}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        return SimpleNamespace(ptr=function)


class Event:
    done = True

    def __init__(self, disable_timing: bool = False):
        pass

    def record(self, stream):
        pass


class Driver:
    """launchKernel, as strict as CUDA's."""

    CUDADriverError = DriverError
    launches = 0

    @classmethod
    def launchKernel(cls, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        if not (0 < gx < 2**31 and 0 < bx <= 1024 and gy == gz == by == bz == 1):
            raise DriverError(f"CUDA_ERROR_INVALID_VALUE: invalid argument {gx} {bx}")
        owner = Stream.known[stream]
        if owner.captured is None:
            cls.launches += 1
            f(parameters, gx, bx)
            return
        count = cls.counts[parameters]
        places = np.ctypeslib.as_array(ctypes.cast(parameters, ctypes.POINTER(ctypes.c_int64)), (count,))
        values = np.array([ctypes.c_int64.from_address(int(p)).value for p in places])  # CUDA copies them now
        copies = values.ctypes.data + 8 * np.arange(count)
        owner.captured.append(lambda held=values: f(copies.ctypes.data, gx, bx))

    counts: dict[int, int] = {}  # arguments by where they lie: CUDA knows them from the machine code


def _copy(to: int, source: int, size: int, kind: int, stream: int) -> None:
    ctypes.memmove(to, source, size)


@contextmanager
def _device(number: int):
    yield


def make_cupy():
    """The double of the module."""
    runtime = SimpleNamespace(
        CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
        memcpyAsync=_copy,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        streamCaptureModeThreadLocal=1,
        getDeviceCount=lambda: 2,
        getDeviceProperties=lambda number: {
            "name": b"Host",
            "major": 8,
            "minor": 0,
            "multiProcessorCount": 2,
            "totalGlobalMem": 1 << 30,
        },
    )
    cuda = SimpleNamespace(
        runtime=runtime,
        driver=Driver,
        Device=_device,
        Stream=Stream,
        Event=Event,
        Module=Module,
        MemoryAsyncPool=Pool,
        PinnedMemoryPool=PinnedPool,
        get_elapsed_time=lambda start, stop: 1.0,
    )
    return SimpleNamespace(cuda=cuda)
