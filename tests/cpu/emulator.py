"""Kernels of another machine run here: a program without a C library, for qemu's user mode."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tallow import plugins
from tallow.graph import Graph
from tallow.runtime.layout import root_of, shape_of
from tallow.schedule.program import KernelStep
from tallow.stages import lower, prepare
from tallow_cpu import elf
from tallow_cpu.compile import machine_spec
from tallow_cpu.llvm import native

BASE, ALIGN, HEADER = 0x1000000, 4096, 120  # address of the program; a page; bytes of its two ELF headers
WRITE, EXIT = 64, 93  # numbers of Linux system calls on AArch64
# mov x8, x0; mov x0, x1; mov x1, x2; mov x2, x3; svc 0; ret
SYSTEM_CALL = struct.pack("<6I", 0xAA0003E8, 0xAA0103E0, 0xAA0203E1, 0xAA0303E2, 0xD4000001, 0xD65F03C0)


def emulator() -> str | None:
    """qemu for AArch64, if it is installed."""
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


class _Image:
    """Bytes at addresses from BASE on."""

    def __init__(self):
        self.data = bytearray(HEADER)

    def place(self, content: bytes) -> int:
        self.data += b"\0" * (-len(self.data) % ALIGN)
        self.data += content
        return BASE + len(self.data) - len(content)


def run_emulated(
    graph: Graph, inputs: Mapping[str, np.ndarray], folder: Path, arch: str = "aarch64-linux-gnu"
) -> list[np.ndarray]:
    """The results of a graph of known sizes whose every step is a kernel."""
    backend = plugins.backend("cpu")
    target = backend.target(arch)
    scheduled = lower(prepare(graph, backend, target), backend, target)
    program = scheduled.program
    code = backend.compile(list(scheduled.kernels.values()), target)
    image = _Image()
    blob, system = image.place(code.blob), image.place(SYSTEM_CALL)
    named = dict(zip(program.inputs, program.input_names, strict=True))
    arrays = {s: inputs[n] for s, n in named.items()}
    arrays |= {s: scheduled.constants[key] for s, key in program.constants.items()}
    shapes = {s: shape_of(program, s, {}) for s in range(len(program.slots))}
    places = {
        s: image.place(arrays[s].tobytes() if s in arrays else bytes(_bytes(slot, shapes[s])))
        for s, slot in enumerate(program.slots)
        if slot.view_of is None
    }
    calls = []
    for step in program.steps:
        assert isinstance(step, KernelStep), step
        pointers = [places[root_of(program, s)] for s in step.arguments]
        memory = image.place(struct.pack(f"<{len(pointers)}Q", *pointers))
        sizes = image.place(struct.pack(f"<{len(step.sizes)}q", *step.sizes))
        calls.append((blob + code.entries[step.entry], memory, sizes, 0, step.grid))
    outputs = [(places[root_of(program, s)], _bytes(program.slots[s], shapes[s])) for s in program.outputs]
    calls += [(system, WRITE, 1, place, size) for place, size in outputs]
    calls.append((system, EXIT, 0, 0, 0))
    text = "\n".join(
        f" call void inttoptr (i64 {f} to ptr)({', '.join(f'i64 {a}' for a in arguments)})"
        for f, *arguments in calls
    )
    text = f"define void @_start() {{\n{text}\n ret void\n}}\n"
    driver = elf.link(native.Compiler(machine_spec(target)).object(text), ["_start"])
    start = image.place(driver.blob) + driver.entries["_start"]
    done = subprocess.run([emulator(), _write(image, start, folder)], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    results, at = [], 0
    for slot, (_, size) in zip(program.outputs, outputs, strict=True):
        part = np.frombuffer(done.stdout, np.uint8, size, at).view(program.slots[slot].type.dtype.numpy)
        results.append(part.reshape(shapes[slot]))
        at += size
    return results


def _bytes(slot, shape) -> int:
    return int(np.prod(shape, dtype=np.int64)) * slot.type.dtype.itemsize


def _write(image: _Image, start: int, folder: Path) -> str:
    """An executable file: one segment that may be read, written and executed."""
    size = len(image.data)
    head = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, start, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, size, 4096)
    assert len(head) == HEADER
    image.data[:HEADER] = head
    path = folder / "program"
    path.write_bytes(image.data)
    path.chmod(0o755)
    return str(path)
