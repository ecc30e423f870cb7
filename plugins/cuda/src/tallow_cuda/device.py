"""An opened GPU: its memory, which is freed in stream order, and the one stream that all its work goes through."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import numpy as np

from tallow.backend import Code
from tallow.errors import ArtifactError, TallowError
from tallow_cuda import discovery, libraries
from tallow_cuda.exchange import Adopted, Exported, dtype_is_known
from tallow_cuda.program import Module
from tallow_cuda.source import INTERFACE
from tallow_cuda.targets import runs_on

STAGED = 16 << 20  # bytes up to which copies go through pinned memory, so that the host need not wait

_opened: dict[int, CudaDevice] = {}
_lock = threading.Lock()


def open_device(found: discovery.Found) -> CudaDevice:
    """The process's one opened device of that number."""
    with _lock:
        if found.number not in _opened:
            _opened[found.number] = CudaDevice(found)
        return _opened[found.number]


class CudaDevice:
    """One GPU. What is asked of it goes through one stream in order; only `download` waits.

    Memory is cupy's MemoryPointer. It is given back to CUDA's pool in the order of the stream, so it may be
    dropped while kernels that use it are still to run.
    """

    is_host = False

    def __init__(self, found: discovery.Found):
        self.cupy = libraries.cupy()
        self.info, self.target, self.number = found.info, found.target, found.number
        cuda = self.cupy.cuda
        with self.errors("opening"), cuda.Device(self.number):
            self.stream = cuda.Stream(non_blocking=True)
            self.pool = cuda.MemoryAsyncPool()
        self.pinned = cuda.PinnedMemoryPool()
        self._busy: list[tuple[object, object]] = []  # events, and what the stream uses until then
        self._lock = threading.RLock()

    @contextmanager
    def current(self):
        """The device and its stream as those that this thread's calls of cupy go to."""
        discovery.check_process()
        with self.cupy.cuda.Device(self.number), self.stream:
            yield

    @contextmanager
    def errors(self, what: str):
        """Errors of CUDA in Tallow's words: `what` was being done."""
        cuda = self.cupy.cuda
        try:
            yield
        except MemoryError as error:
            raise MemoryError(f"{self.info.name} has no memory for {what} ({error})") from None
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            if "out of memory" in str(error):
                raise MemoryError(f"{self.info.name} has no memory for {what} ({error})") from None
            raise TallowError(f"{what}: {self.info.name} ({self.info.description}) failed: {error}") from None

    def load(self, code: Code) -> Module:
        """The code's kernels on this device; ArtifactError when it is for another."""
        if code.notes.get("interface") != INTERFACE:
            raise ArtifactError(
                f"compiled by a tallow-cuda with interface {code.notes.get('interface')}, and this one has "
                f"{INTERFACE}: compile again"
            )
        made_for = code.notes["target"]
        if not runs_on(made_for, self.target.arch):
            raise ArtifactError(
                f"compiled for cuda:{made_for}, and {self.info.name} is {self.target.arch}: compile for "
                f"cuda:{self.target.arch}"
            )
        return Module(self, code)

    def allocate(self, size: int):
        with self.errors(f"{size} bytes"), self.current():
            return self.pool.malloc(max(size, 1))

    def address(self, memory) -> int:
        return memory.ptr

    def part(self, memory, offset: int, size: int):
        return memory + offset

    def upload(self, array: np.ndarray):
        memory = self.allocate(array.nbytes)
        if not array.nbytes:
            return memory
        runtime = self.cupy.cuda.runtime
        content = array.reshape(-1).view(np.uint8)
        with self.errors(f"{array.nbytes} bytes"), self.current():
            if array.nbytes > STAGED:  # CUDA returns when it has read memory that is not pinned
                source, held = content.ctypes.data, None
            else:
                held = self.pinned.malloc(array.nbytes)
                np.frombuffer(held, np.uint8, array.nbytes)[:] = content
                source = held.ptr
            kind = runtime.memcpyHostToDevice
            runtime.memcpyAsync(memory.ptr, source, array.nbytes, kind, self.stream.ptr)
            if held is not None:
                self.keep(held)
        return memory

    def download(self, memory, out: np.ndarray) -> None:
        if not out.nbytes:
            return
        runtime = self.cupy.cuda.runtime
        content = out.reshape(-1).view(np.uint8)
        with self.errors("the kernels before a result, or its copy to the host"), self.current():
            staged = out.nbytes <= STAGED
            held = self.pinned.malloc(out.nbytes) if staged else None
            into = held.ptr if staged else content.ctypes.data
            kind = runtime.memcpyDeviceToHost
            runtime.memcpyAsync(into, memory.ptr, out.nbytes, kind, self.stream.ptr)
            self.stream.synchronize()
            if staged:
                content[:] = np.frombuffer(held, np.uint8, out.nbytes)

    def keep(self, held: object) -> None:
        """Hold an object until the stream has done what was asked of it so far."""
        with self._lock:
            event = self.cupy.cuda.Event(disable_timing=True)
            event.record(self.stream)
            self._busy = [(e, o) for e, o in self._busy if not e.done]
            self._busy.append((event, held))

    # Other libraries' arrays -------------------------------------------------------------------

    def export(self, memory, shape: tuple[int, ...], dtype: np.dtype) -> Exported | None:
        return Exported(self, memory, shape, dtype) if dtype_is_known(dtype) else None

    def adopt(self, value: object):
        """An array of another library in this GPU's memory, as memory, shape and dtype; None if it is none."""
        with self.errors("taking an array of another library"), self.current():
            return Adopted.of(self, value)
