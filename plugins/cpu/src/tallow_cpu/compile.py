"""Compiling: kernels through LLVM to one position-independent blob of machine code."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tallow import cache
from tallow.backend import Code, Target
from tallow.errors import CompileError
from tallow.kernel.expand import expand
from tallow.kernel.grammar import Kernel, SourceKernel
from tallow.kernel.unroll import unroll
from tallow.kernel.vectorise import vectorise
from tallow_cpu import elf
from tallow_cpu.llvm import native
from tallow_cpu.llvm.functions import NATIVE
from tallow_cpu.llvm.printer import print_kernel
from tallow_cpu.runtime.source import ENTRIES, INTERFACE, PLATFORMS, runtime_ir
from tallow_cpu.runtime.threads import usable_cores
from tallow_cpu.targets import abilities, base_of, machine_of, tuning

FORMAT = "2"  # of cached parts; a change makes older ones unreadable
CACHE, CACHE_LIMIT = "cpu", 512 << 20  # kind of cached parts, and the bytes kept of them
_HEAD = struct.Struct("<QQ")  # entry, alignment
RUNTIME_HEAD = 256


def lower_to_text(kernel: Kernel, target: Target) -> str:
    """The LLVM IR of one kernel for a target, under the name `@K`."""
    if isinstance(kernel, SourceKernel):
        raise CompileError(
            f"kernel {kernel.name}: the CPU backend takes no source of an operator's own: give it an index rule or a kernel"
        )
    kernel = expand(kernel, NATIVE)
    kernel = unroll(vectorise(kernel, target.vector_bytes))
    return print_kernel(kernel, "K", abilities(target)) + _attributes(target)


def compile_kernels(kernels: Sequence[Kernel], target: Target) -> Code:
    """One blob with all kernels; equal ones share code, and those compiled before come from the disk."""
    compilers = _Compilers(target)
    texts: dict[str, str] = {}
    made: dict[str, Future[bytes]] = {}
    with ThreadPoolExecutor(usable_cores()) as pool:  # LLVM works on a kernel while others are still lowered
        for kernel in kernels:
            texts[kernel.name] = text = lower_to_text(kernel, target)
            if text not in made:
                made[text] = pool.submit(compilers.part, text)
    cache.trim(CACHE, CACHE_LIMIT)
    blob, offsets = bytearray(), {}
    for text, future in made.items():
        part = future.result()
        entry, align = _HEAD.unpack_from(part)
        blob += b"\0" * (-len(blob) % align)
        offsets[text] = len(blob) + entry
        blob += part[_HEAD.size :]
    entries = {name: offsets[text] for name, text in texts.items()}
    notes = {
        "features": ",".join(target.features),
        "machine": machine_of(base_of(target).triple),
        "interface": INTERFACE,
    }
    return Code(bytes(blob), entries, {"runtime": runtime_blob(target)}, notes)


class _Compilers:
    """A compiler for each thread that has something to compile."""

    def __init__(self, target: Target):
        self.target, self.own = target, threading.local()

    def part(self, text: str) -> bytes:
        """The machine code of a kernel's text under its head, from the cache or into it."""
        key = _key(text, self.target)
        found = cache.load(CACHE, key)
        if found is None:
            if not hasattr(self.own, "compiler"):
                self.own.compiler = native.Compiler(machine_spec(self.target))
            linked = elf.link(self.own.compiler.object(text), ["K"])
            found = _HEAD.pack(linked.entries["K"], linked.align) + linked.blob
            cache.store(CACHE, key, found)
        return found


def machine_spec(target: Target) -> native.MachineSpec:
    base = base_of(target)
    return native.MachineSpec(base.triple, base.cpu, target.features, base.level)


def _key(text: str, target: Target) -> str:
    spec = machine_spec(target)
    parts = [FORMAT, native.version(), spec.triple, spec.cpu, str(spec.level), *spec.features, text]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _attributes(target: Target) -> str:
    width = max(target.vector_bytes * 8, 128)
    words = f'nounwind "min-legal-vector-width"="{width}" "no-builtins" "tune-cpu"="{tuning(target)}"'
    return f"\nattributes #0 = {{ {words} }}\n"


def runtime_blob(target: Target) -> bytes:
    """The thread pool and the step walker for a target: 256 bytes of entry offsets, then code."""
    text = runtime_ir(PLATFORMS[machine_of(base_of(target).triple)])
    key = _key(text, target)
    part = cache.load(CACHE, key)
    if part is None:
        linked = elf.link(native.Compiler(machine_spec(target)).object(text), ENTRIES)
        part = json.dumps(linked.entries).encode().ljust(RUNTIME_HEAD) + linked.blob
        cache.store(CACHE, key, part)
    return part


def source_text(kernels: Sequence[Kernel], target: Target, stage: str) -> str:
    """LLVM IR ("source") or assembly of kernels, each under a comment with its name."""
    texts = [lower_to_text(kernel, target) for kernel in kernels]
    if stage == "assembly":
        compiler = native.Compiler(machine_spec(target))
        texts = [compiler.assembly(text) for text in texts]
    return "\n".join(f"; kernel {kernel.name}\n{text}" for kernel, text in zip(kernels, texts, strict=True))
