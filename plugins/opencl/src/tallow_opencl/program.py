"""Programs of kernels on a device: built from source or from what its driver made before, and run."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence

from tallow import cache
from tallow.backend import BoundStep, Code
from tallow.errors import CompileError
from tallow_opencl.launching import Kernel, Prepared
from tallow_opencl.signatures import signatures_of

CACHE, CACHE_LIMIT = "opencl", 512 << 20  # kind of cached programs, and the bytes kept of them
LONGEST_LOG, AROUND = 4000, 4  # characters of a compiler's log, lines shown around a fault
# `file:12:3: error: what`, `file(12): error: what` or `error: file:12:3: what`
_FAULT = re.compile(r"[:(](\d+)(?::\d+|\))?\s*: (?:fatal )?error|error: \S*?:(\d+):\d+:")
_KEEPS_ITS_OWN = "Portable Computing Language"  # this driver compiles as kernels run, and remembers


class Module:
    """The kernels of one executable on a device."""

    def __init__(self, device, code: Code):
        self.device, self.code = device, code
        self.signatures = signatures_of(code)
        self.program = _build(device, code) if code.entries else None
        self.lock = threading.Lock()
        self._kernels: dict[tuple[str, int], Kernel] = {}

    def kernel(self, function: str, use: int) -> Kernel:
        """The kernel object for so many uses of a function one after another."""
        key = function, use
        if key not in self._kernels:
            kernel = self.device.cl.Kernel(self.program, function)
            self._kernels[key] = Kernel(kernel, self.device.groups(kernel))
        return self._kernels[key]

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> Prepared:
        """The launches of bound steps; how many threads run them is the driver's affair."""
        return Prepared(self, steps)


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
