"""Loaded code: mapped blobs, one thread pool per process, and prepared step tables."""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Sequence
from itertools import chain

import numpy as np

from tallow.backend import BoundFlow, BoundStep, Code
from tallow.errors import ArtifactError, CompileError
from tallow_cpu.runtime.source import IMPORTS, MAX_ARGUMENTS, SPINS_AT, STATE_BYTES
from tallow_cpu.runtime.threads import usable_cores
from tallow_cpu.runtime.walker import FLOW

CHUNKS_PER_THREAD = 16
SPIN_SECONDS = 50e-6
_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64
_RUN = ctypes.CFUNCTYPE(_INTEGER, _POINTER, _INTEGER, _POINTER, _POINTER, _INTEGER, _POINTER)
_START = ctypes.CFUNCTYPE(_INTEGER, _POINTER, _INTEGER)
_SPIN = ctypes.CFUNCTYPE(None, _INTEGER)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [_POINTER, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, _INTEGER]
_libc.mmap.restype = _POINTER
_libc.munmap.argtypes = [_POINTER, ctypes.c_size_t]
_libc.mprotect.argtypes = [_POINTER, ctypes.c_size_t, ctypes.c_int]


def _map(size: int) -> int:
    """The address of fresh zeroed pages."""
    access = mmap.PROT_READ | mmap.PROT_WRITE
    address = _libc.mmap(None, size, access, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise ArtifactError(f"the system gives no memory for code: {os.strerror(ctypes.get_errno())}")
    return address


class Mapped:
    """A blob of machine code in executable memory that nothing can write any more.

    It stays mapped as long as this object lives; `forever`, as long as the process does.
    """

    def __init__(self, blob: bytes, forever: bool = False):
        self.size, self.forever = max(len(blob), 1), forever
        self.address = _map(self.size)
        ctypes.memmove(self.address, blob, len(blob))
        if _libc.mprotect(self.address, self.size, mmap.PROT_READ | mmap.PROT_EXEC):
            raise ArtifactError(
                f"the system refuses to run generated code: {os.strerror(ctypes.get_errno())}"
            )

    def __del__(self, _unmap=_libc.munmap):
        if not getattr(self, "forever", True):
            _unmap(self.address, self.size)


class Pool:
    """The runtime code of a target and its worker threads, which start with the first parallel run.

    Code and state are never unmapped: workers stand in them until the process ends.
    """

    def __init__(self, blob: bytes):
        entries = json.loads(blob[:256])
        base = Mapped(blob[256:], forever=True).address
        self.run = _RUN(base + entries["tallow_run"])
        self._start = _START(base + entries["tallow_start"])
        self._spin = _SPIN(base + entries["tallow_spin"])
        self.renew()

    def renew(self) -> None:
        """Fresh state without workers: at first, and in a forked child, which has no threads."""
        self.lock = threading.Lock()
        self.workers = 0
        self.address = _map(STATE_BYTES)
        for name, offset in IMPORTS.items():
            self._word(offset).value = ctypes.cast(getattr(_libc, name), _POINTER).value

    def _word(self, offset: int) -> ctypes.c_int64:
        return _INTEGER.from_address(self.address + offset)

    def ensure(self, threads: int) -> int:
        """Start workers on first use; the number of threads that a run may use."""
        if threads <= 1:
            return 1
        if self.workers == 0:
            with self.lock:
                if self.workers == 0:
                    self._word(SPINS_AT).value = self._pauses(SPIN_SECONDS)
                    self.workers = self._start_workers(usable_cores() - 1)
        return min(threads, self.workers + 1)

    def _start_workers(self, count: int) -> int:
        """Workers take no signals, so that handlers interrupt the threads that wait for them."""
        import signal  # takes a while, and runs on one thread start no workers

        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            return self._start(self.address, count)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _pauses(self, seconds: float) -> int:
        """How many pause instructions take so long on this processor."""
        count, best = 200, float("inf")
        for _ in range(3):
            start = time.perf_counter()
            self._spin(count)
            best = min(best, time.perf_counter() - start)
        return max(1, int(count * seconds / max(best, 1e-9)))


_pools: dict[str, Pool] = {}
_pools_lock = threading.Lock()


def pool_for(blob: bytes) -> Pool:
    """The process's one pool for this runtime code."""
    key = hashlib.sha256(blob).hexdigest()
    with _pools_lock:
        if key not in _pools:
            _pools[key] = Pool(blob)
        return _pools[key]


def _renew_after_fork() -> None:
    global _pools_lock
    _pools_lock = threading.Lock()
    for pool in _pools.values():
        pool.renew()


os.register_at_fork(after_in_child=_renew_after_fork)


def aligned(size: int, alignment: int = 64) -> np.ndarray:
    """Uninitialised bytes that start at a multiple of `alignment`; MemoryError where there are none."""
    if size > sys.maxsize - alignment:
        raise MemoryError(f"{size} bytes are more than any address space has")
    raw = np.empty(size + alignment, np.uint8)
    skip = -raw.ctypes.data % alignment
    return raw[skip : skip + size]


class Module:
    """The kernels of one executable, mapped and ready to call."""

    def __init__(self, code: Code):
        self.mapped = Mapped(code.blob)
        self.entries = {name: self.mapped.address + offset for name, offset in code.entries.items()}
        self.pool = pool_for(code.support["runtime"])
        self.cores = usable_cores()

    def prepare(self, steps: Sequence[BoundStep | BoundFlow], threads: int) -> Prepared:
        """The step table of bound steps, for up to `threads` threads."""
        return Prepared(self, steps, max(1, min(threads, self.cores)))


class Prepared:
    """A step table in native memory. Runs share it; each brings its own base addresses.

    How a grid is cut depends on `threads`, but its iterations are independent, so results do not.
    """

    def __init__(self, module: Module, steps: Sequence[BoundStep | BoundFlow], threads: int):
        self.module, self.count = module, len(steps)
        words: list[int] = []
        starts: list[int] = []
        parallel = False
        flows: list[int] = []
        for number, step in enumerate(steps):
            starts.append(len(words))
            if isinstance(step, BoundFlow):
                flows.append(number)
                _, arguments, target, size, rows, _ = step
                head, sizes = (FLOW[step.kind], 0, 0), (target, 0, size, rows)
            else:
                entry, arguments, sizes, grid, grain, _ = step
                chunk = max(grain, -(-grid // (threads * CHUNKS_PER_THREAD)), 1)
                parallel |= grid > chunk
                head = module.entries[entry], grid, chunk
            if len(arguments) > MAX_ARGUMENTS:
                raise CompileError(
                    f"{step.entry} takes {len(arguments)} buffers: expected at most {MAX_ARGUMENTS}"
                )
            words += (head[0], len(arguments), len(sizes), head[1], head[2])
            words += chain.from_iterable(arguments)
            words += sizes
        starts.append(len(words))
        for number in flows:
            step = steps[number]
            words[starts[number] + 5 + 2 * len(step.arguments) + 1] = 8 * starts[step.target]
        self.threads = threads if parallel else 1
        self.table = np.array(words, np.int64)
        self._address = self.table.ctypes.data
        self._pack = struct.Struct("").pack
        self._bases = 0

    def run(self, bases: Sequence[int]) -> int | None:
        """Run the steps; the number of the one that ended the run early. Releases the GIL."""
        stopped = self._call(bases, None)
        return stopped - 1 if stopped else None

    def profile(self, bases: Sequence[int]) -> list[float]:
        """Run all steps; the seconds each took."""
        return [seconds for seconds, _ in self.observe(bases)[1]]

    def observe(self, bases: Sequence[int]) -> tuple[int | None, list[tuple[float, int]]]:
        """As run; also the seconds that each step took in all, and how often it ran."""
        times = np.zeros((self.count, 2), np.int64)
        stopped = self._call(bases, times.ctypes.data)
        taken = [(nanoseconds / 1e9, runs) for nanoseconds, runs in times.tolist()]
        return stopped - 1 if stopped else None, taken

    def _call(self, bases: Sequence[int], times: int | None) -> int:
        if len(bases) != self._bases:
            self._pack, self._bases = struct.Struct(f"{len(bases)}q").pack, len(bases)
        pool = self.module.pool
        threads = 1 if self.threads == 1 else pool.ensure(self.threads)
        return pool.run(self._address, self.count, self._pack(*bases), pool.address, threads, times)
