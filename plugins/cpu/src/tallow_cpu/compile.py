"""Compiling: kernels through LLVM to one position-independent blob of machine code."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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

FORMAT = "1"  # of cached parts; a change makes older ones unreadable
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
    texts = {kernel.name: lower_to_text(kernel, target) for kernel in kernels}
    unique = list(dict.fromkeys(texts.values()))
    parts = {text: cache.load(CACHE, _key(text, target)) for text in unique}
    missing = [text for text in unique if parts[text] is None]
    parts.update(zip(missing, _compile_all(missing, target), strict=True))
    blob, offsets = bytearray(), {}
    for text in unique:
        entry, align = _HEAD.unpack_from(parts[text])
        blob += b"\0" * (-len(blob) % align)
        offsets[text] = len(blob) + entry
        blob += parts[text][_HEAD.size :]
    entries = {name: offsets[text] for name, text in texts.items()}
    notes = {
        "features": ",".join(target.features),
        "machine": machine_of(base_of(target).triple),
        "interface": INTERFACE,
    }
    return Code(bytes(blob), entries, {"runtime": runtime_blob(target)}, notes)


def _compile_all(texts: Sequence[str], target: Target) -> list[bytes]:
    """Each text on its own, over as many threads as there are cores, and into the cache."""
    if not texts:
        return []
    native.require()
    threads = min(usable_cores(), len(texts))
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))  # the longest first, dealt round
    shares = [order[i::threads] for i in range(threads)]
    done: dict[int, bytes] = {}

    def work(share: Sequence[int]) -> None:
        compiler = native.Compiler(machine_spec(target))
        for number in share:
            linked = elf.link(compiler.object(texts[number]), ["K"])
            done[number] = _HEAD.pack(linked.entries["K"], linked.align) + linked.blob
            cache.store(CACHE, _key(texts[number], target), done[number])

    if threads == 1:
        work(order)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, shares))
    cache.trim(CACHE, CACHE_LIMIT)
    return [done[i] for i in range(len(texts))]


def machine_spec(target: Target) -> native.MachineSpec:
    base = base_of(target)
    return native.MachineSpec(base.triple, base.cpu, target.features)


def _key(text: str, target: Target) -> str:
    spec = machine_spec(target)
    parts = [FORMAT, native.version(), spec.triple, spec.cpu, *spec.features, text]
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
