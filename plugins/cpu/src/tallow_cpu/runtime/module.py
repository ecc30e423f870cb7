"""Loaded code: mapping blobs, one thread pool per process, and prepared step tables."""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import threading
from collections.abc import Sequence

import numpy as np

from tallow.backend import BoundStep, Code
from tallow.errors import ArtifactError, CompileError
from tallow_cpu.runtime.source import MAX_ARGUMENTS, STATE_BYTES
from tallow_cpu.runtime.threads import usable_cores

CHUNKS_PER_THREAD = 4
_RUN = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p])
_START = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Mapped:
    """A blob of machine code in executable memory that nothing can write any more."""

    def __init__(self, blob: bytes):
        self.memory = mmap.mmap(-1, max(len(blob), 1))
        self.memory.write(blob)
        anchor = (ctypes.c_char * len(self.memory)).from_buffer(self.memory)
        self.address = ctypes.addressof(anchor)
        self._anchor = anchor
        if _libc.mprotect(self.address, len(self.memory), mmap.PROT_READ | mmap.PROT_EXEC):
            raise ArtifactError(f"the system refuses to run generated code: {os.strerror(ctypes.get_errno())}")


class Pool:
    """The runtime code of a target and its worker threads, which start with the first parallel run."""

    def __init__(self, blob: bytes):
        entries = json.loads(blob[:256])
        self.code = Mapped(blob[256:])
        self.run = _RUN(self.code.address + entries["tallow_run"])
        self._start = _START(self.code.address + entries["tallow_start"])
        self._lock = threading.Lock()
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        """Fresh state without workers: at first, and in a forked child, which has no threads."""
        self.state = aligned(STATE_BYTES)
        self.state[:] = 0
        words = self.state.view(np.int64)
        for offset, name in ((384, "syscall"), (392, "pthread_create"), (400, "clock_gettime")):
            words[offset // 8] = ctypes.cast(getattr(_libc, name), ctypes.c_void_p).value
        self.address = self.state.ctypes.data
        self.workers = 0

    def ensure(self, threads: int) -> int:
        """Start workers on first use; the number of threads that a run may use."""
        if threads <= 1:
            return 1
        if self.workers == 0:
            with self._lock:
                if self.workers == 0:
                    self.workers = self._start(self.address, usable_cores() - 1)
        return min(threads, self.workers + 1)


_pools: dict[str, Pool] = {}
_pools_lock = threading.Lock()


def pool_for(blob: bytes) -> Pool:
    """The process's one pool for this runtime code."""
    key = hashlib.sha256(blob).hexdigest()
    with _pools_lock:
        if key not in _pools:
            _pools[key] = Pool(blob)
        return _pools[key]


def aligned(size: int, alignment: int = 64) -> np.ndarray:
    """Uninitialised bytes that start at a multiple of `alignment`."""
    raw = np.empty(size + alignment, np.uint8)
    skip = -raw.ctypes.data % alignment
    return raw[skip : skip + size]


class Module:
    """The kernels of one executable, mapped and ready to call."""

    def __init__(self, code: Code):
        self.mapped = Mapped(code.blob)
        self.entries = {name: self.mapped.address + offset for name, offset in code.entries.items()}
        self.pool = pool_for(code.support["runtime"])

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> Prepared:
        """The step table of bound steps, for up to `threads` threads."""
        return Prepared(self, steps, min(threads, usable_cores()))


class Prepared:
    """A step table in native memory. Runs share it; each brings its own base addresses."""

    def __init__(self, module: Module, steps: Sequence[BoundStep], threads: int):
        self.module, self.threads, self.count = module, threads, len(steps)
        words: list[int] = []
        parallel = False
        for step in steps:
            if len(step.arguments) > MAX_ARGUMENTS:
                raise CompileError(f"{step.entry} takes {len(step.arguments)} buffers: expected at most {MAX_ARGUMENTS}")
            chunk = max(step.grain, -(-step.grid // (threads * CHUNKS_PER_THREAD)), 1)
            parallel |= step.grid > chunk and threads > 1
            words += [module.entries[step.entry], len(step.arguments), len(step.sizes), step.grid, chunk]
            words += [number for pair in step.arguments for number in pair]
            words += step.sizes
        self.parallel = parallel
        self.table = np.array(words, np.int64)
        self._address = self.table.ctypes.data

    def run(self, bases: Sequence[int]) -> None:
        """Run all steps; releases the GIL."""
        pool = self.module.pool
        threads = pool.ensure(self.threads) if self.parallel else 1
        addresses = (ctypes.c_int64 * len(bases))(*bases)
        pool.run(self._address, self.count, ctypes.addressof(addresses), pool.address, threads, None)

    def profile(self, bases: Sequence[int]) -> list[float]:
        """Run all steps; the seconds each took."""
        pool = self.module.pool
        threads = pool.ensure(self.threads) if self.parallel else 1
        addresses = (ctypes.c_int64 * len(bases))(*bases)
        times = np.zeros(self.count + 1, np.int64)
        pool.run(self._address, self.count, ctypes.addressof(addresses), pool.address, threads, times.ctypes.data)
        return (np.diff(times) / 1e9).tolist()
