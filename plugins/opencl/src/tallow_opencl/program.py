"""Programs of kernels on a device: built from source or from what its driver made before, and run."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tallow import cache
from tallow.backend import BoundStep, Code
from tallow.errors import CompileError, TallowError
from tallow_opencl import discovery
from tallow_opencl.signatures import function_of, signatures_of

CACHE, CACHE_LIMIT = "opencl", 512 << 20  # kind of cached programs, and the bytes kept of them
LONGEST_LOG, AROUND = 4000, 4  # characters of a compiler's log, lines shown around a fault
# `file:12:3: error: what`, `file(12): error: what` or `error: file:12:3: what`
_FAULT = re.compile(r"[:(](\d+)(?::\d+|\))?\s*: (?:fatal )?error|error: \S*?:(\d+):\d+:")
ABSOLUTE = 0  # the base whose steps' offsets are addresses
_KEEPS_ITS_OWN = "Portable Computing Language"  # this driver compiles as kernels run, and remembers


class Module:
    """The kernels of one executable on a device."""

    def __init__(self, device, code: Code):
        self.device, self.code = device, code
        self.signatures = signatures_of(code)
        self.program = _build(device, code) if code.entries else None

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> Prepared:
        """The launches of bound steps; how many threads run them is the driver's affair."""
        return Prepared(self, steps)


@dataclass(frozen=True, slots=True)
class _Argument:
    """A buffer of a kernel: the numbers of the argument and of the element that it begins at."""

    kernel: object
    number: int
    begins: int
    item: int  # bytes of an element

    def set(self, memory, offset: int) -> None:
        self.kernel.set_arg(self.number, memory.buffer)
        self.kernel.set_arg(self.begins, np.int64((memory.offset + offset) // self.item))


class Prepared:
    """Kernels with their arguments set, but for the memory that changes from run to run.

    Each step has a kernel object of its own. Runs from several threads take turns to launch; their work
    is done in the order of the device's queue.
    """

    def __init__(self, module: Module, steps: Sequence[BoundStep]):
        self.device = module.device
        self.launches: list[tuple[object, tuple[int], tuple[int]]] = []
        self.labels: list[str] = []
        self.users: dict[
            int, list[tuple[object, int, int, int]]
        ] = {}  # base -> kernel, argument, item, offset
        self.held: list[object] = []
        self.bases: list[int] = []
        self.lock = threading.Lock()
        with self.device.errors("preparing kernels"):
            for step in steps:
                self._add(module, step)

    def _add(self, module: Module, step: BoundStep) -> None:
        kernel = self.device.cl.Kernel(module.program, function_of(step.entry))
        signature = module.signatures[step.entry]
        buffers = len(step.arguments)
        for number, (base, offset) in enumerate(step.arguments):
            argument = _Argument(kernel, number, buffers + number, signature.items[number])
            if base == ABSOLUTE:
                memory = self.device.memories[offset]
                self.held.append(memory)
                argument.set(memory, 0)
            else:
                self.users.setdefault(base, []).append((argument, offset))
        for number, size in enumerate(step.sizes):
            kernel.set_arg(2 * buffers + number, np.int64(size))
        group = signature.group
        local = group or self.device.work_group(kernel, step.grid)
        groups = step.grid if group else -(-step.grid // local)
        self.launches.append((kernel, (groups * local,), (local,)))
        self.labels.append(step.label)

    def run(self, bases: Sequence[int]) -> None:
        """Launch all steps; the device runs them in order after what was asked of it before."""
        discovery.check_process()
        device = self.device
        enqueue, queue = device.cl.enqueue_nd_range_kernel, device.queue
        launched = 0
        with self.lock:
            self._bind(bases)
            try:
                for kernel, total, local in self.launches:
                    enqueue(queue, kernel, total, local)
                    launched += 1
                queue.flush()
            except device.cl.MemoryError as error:
                raise MemoryError(f"{device.info.name} has none to run the kernels ({error})") from None
            except device.cl.Error as error:
                launched = min(launched, len(self.labels) - 1)  # all launched: the flush failed
                raise TallowError(
                    f"{self.labels[launched]}: the driver of {device.info.name} refuses the kernel: {error}"
                ) from None

    def profile(self, bases: Sequence[int]) -> list[float]:
        """Run all steps; the seconds that each took on the device."""
        device = self.device
        with self.lock, device.errors("profiling"):
            self._bind(bases)
            device.queue.finish()
            queue, seconds = device.timed_queue, []
            for kernel, total, local in self.launches:
                event = device.cl.enqueue_nd_range_kernel(queue, kernel, total, local)
                event.wait()
                seconds.append((event.profile.end - event.profile.start) * 1e-9)
        return seconds

    def _bind(self, bases: Sequence[int]) -> None:
        """Set the arguments that lie elsewhere than in the run before."""
        before = self.bases or [-1] * len(bases)
        for base, users in self.users.items():
            if bases[base] != before[base]:
                memory = self.device.memories[bases[base]]
                for argument, offset in users:
                    argument.set(memory, offset)
        self.bases = list(bases)


def _build(device, code: Code):
    """The program of the code: the driver's own form of it from the cache, or from source."""
    cl = device.cl
    options = _options(device)
    key = _key(device, code, options)
    binary = cache.load(CACHE, key)
    if binary is not None:
        try:
            program = cl.Program(device.context, [device.device], [binary])
            return program.build(options)
        except cl.Error:  # a driver may refuse what it made, say after an update
            pass
    program = cl._cl._Program(device.context, code.blob.decode())
    try:
        program.build(options.encode())
    except cl.Error as error:
        raise CompileError(_failure(device, program, code, error)) from None
    program = cl.Program(program)
    if device.device.platform.name.strip() != _KEEPS_ITS_OWN:
        cache.store(CACHE, key, binary_of(device, program))
        cache.trim(CACHE, CACHE_LIMIT)
    return program


def binary_of(device, program) -> bytes:
    (binary,) = program.get_info(device.cl.program_info.BINARIES)
    return binary


def _options(device) -> str:
    """Exact arithmetic wherever the device has it, and no warnings, which some drivers print."""
    words = ["-cl-std=CL1.2", "-w"]
    if device.device.single_fp_config & device.cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT:
        words.append("-cl-fp32-correctly-rounded-divide-sqrt")
    return " ".join(words)


def _key(device, code: Code, options: str) -> str:
    """The name of a program in the cache: its source, and the driver and device that it is built for."""
    d = device.device
    parts = [d.platform.name, d.platform.version, d.name, d.version, d.driver_version, options]
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + code.blob).hexdigest()


def _failure(device, program, code: Code, error: Exception) -> str:
    """What the driver's compiler said, and the numbered source around the first line it names."""
    try:
        log = program.get_build_info(device.device, device.cl.program_build_info.LOG).strip()
    except device.cl.Error:
        log = ""
    first = str(error).partition("\n")[0]
    text = f"{device.info.name} ({device.info.description}) does not compile the kernels: {first}\n{log[:LONGEST_LOG]}"
    around = numbered_source(code.blob.decode(), log)
    return f"{text}\n{around}" if around else text


def numbered_source(source: str, log: str) -> str:
    """The lines around the first that a compiler's log names."""
    found = _FAULT.search(log)
    wrong = int(found[1] or found[2]) if found else 0
    lines = source.splitlines()
    if not 0 < wrong <= len(lines):
        return ""
    shown = range(max(1, wrong - AROUND), min(len(lines), wrong + AROUND) + 1)
    return "\n".join(f"{'>' if n == wrong else ' '}{n:5} {lines[n - 1]}" for n in shown)
