"""Compiling: kernels through LLVM to one position-independent blob of machine code."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tallow.backend import Code, Target
from tallow.errors import CompileError, Unavailable
from tallow.kernel.expand import expand
from tallow.kernel.grammar import Kernel
from tallow.kernel.unroll import unroll
from tallow.kernel.vectorise import vectorise
from tallow_cpu import cache, elf
from tallow_cpu.llvm.functions import NATIVE
from tallow_cpu.llvm.printer import print_kernel
from tallow_cpu.runtime.source import RUNTIME_IR

try:
    import llvmlite
    import llvmlite.binding as llvm
except ImportError:  # opening compiled models needs no compiler
    llvmlite = None

TRIPLE = "x86_64-unknown-linux-gnu"
MODULE_KERNELS = 12  # kernels compiled together: few enough to use both cores, enough to share set-up


def require_compiler():
    """llvmlite, ready to use; Unavailable when it is not installed."""
    if llvmlite is None:
        raise Unavailable("compiling for the CPU needs llvmlite: pip install 'tallow-cpu[compiler]'")
    _initialise()
    return llvm


@functools.cache
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def lower_to_text(kernel: Kernel, target: Target) -> str:
    """The LLVM IR of one kernel for a target, under the name `@K`."""
    kernel = expand(kernel, NATIVE)
    return print_kernel(unroll(vectorise(kernel, target.vector_bytes)), "K")


def compile_kernels(kernels: Sequence[Kernel], target: Target) -> Code:
    """One blob with all kernels; those compiled before come from the cache on disk."""
    texts = {kernel.name: lower_to_text(kernel, target) for kernel in kernels}
    unique = list(dict.fromkeys(texts.values()))
    parts = {text: cache.load(_key(text, target)) for text in unique}
    missing = [text for text in unique if parts[text] is None]
    if missing:
        require_compiler()
        chunks = [missing[i : i + MODULE_KERNELS] for i in range(0, len(missing), MODULE_KERNELS)]
        with ThreadPoolExecutor(2) as pool:
            for chunk, objects in zip(chunks, pool.map(lambda c: _compile_chunk(c, target), chunks), strict=True):
                for text, blob in zip(chunk, objects, strict=True):
                    cache.store(_key(text, target), blob)
                    parts[text] = blob
    blob, offsets = bytearray(), {}
    for text in unique:
        blob += b"\0" * (-len(blob) % 64)
        entry, code = _unpack(parts[text])
        offsets[text] = len(blob) + entry
        blob += code
    entries = {name: offsets[text] for name, text in texts.items()}
    return Code(bytes(blob), entries, {"runtime": runtime_blob(target)}, {"features": ",".join(target.features)})


def _key(text: str, target: Target) -> str:
    version = llvmlite.__version__ if llvmlite else cache.any_version()
    return hashlib.sha256("\0".join([version, str(target), *target.features, text]).encode()).hexdigest()


def _pack(entry: int, code: bytes) -> bytes:
    return entry.to_bytes(8, "little") + code


def _unpack(part: bytes) -> tuple[int, bytes]:
    return int.from_bytes(part[:8], "little"), part[8:]


def _compile_chunk(texts: Sequence[str], target: Target) -> list[bytes]:
    """Each kernel on its own: a blob that can stand anywhere, entry first."""
    machine = target_machine(target)
    parts = []
    for text in texts:
        linked = elf.link(compile_ir(text + _attributes(target), machine), ["K"])
        parts.append(_pack(linked.entries["K"], linked.blob))
    return parts


def _attributes(target: Target) -> str:
    width = max(target.vector_bytes * 8, 128)
    return f'\nattributes #0 = {{ nounwind "min-legal-vector-width"="{width}" "no-builtins" }}\n'


def compile_ir(text: str, machine) -> bytes:
    """Object code of LLVM IR text; CompileError with the numbered lines around the fault."""
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        raise CompileError(f"LLVM refuses a kernel: {error}\n{_numbered(text, str(error))}") from None
    builder = llvm.create_pass_builder(machine, _options())
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


def _options():
    options = llvm.create_pipeline_tuning_options(2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    return options


def _numbered(text: str, error: str) -> str:
    lines = text.splitlines()
    digits = [int(part) for part in error.replace(":", " ").split() if part.isdigit()]
    at = digits[0] if digits and digits[0] <= len(lines) else 1
    first = max(0, at - 4)
    return "\n".join(f"{n + 1:5} {lines[n]}" for n in range(first, min(len(lines), at + 3)))


def target_machine(target: Target):
    """LLVM's description of the target, for position-independent code."""
    llvm_ = require_compiler()
    found = llvm_.Target.from_triple(TRIPLE)
    features = ",".join(f"+{name}" for name in target.features)
    return found.create_target_machine(cpu=target.arch, features=features, opt=2, reloc="pic", codemodel="small")


@functools.lru_cache(maxsize=8)
def _runtime_blob(target: Target) -> bytes:
    key = _key(RUNTIME_IR, target)
    part = cache.load(key)
    if part is None:
        linked = elf.link(compile_ir(RUNTIME_IR, target_machine(target)), ["tallow_run", "tallow_start"])
        head = json.dumps(linked.entries).encode().ljust(256)
        part = head + linked.blob
        cache.store(key, part)
    return part


def runtime_blob(target: Target) -> bytes:
    """The thread pool and the step walker for a target: 256 bytes of entry offsets, then code."""
    return _runtime_blob(replace(target, limits=()))


def source_text(kernels: Sequence[Kernel], target: Target, stage: str) -> str:
    """LLVM IR ("source") or assembly of kernels, each under a comment with its name."""
    parts = []
    for kernel in kernels:
        text = lower_to_text(kernel, target) + _attributes(target)
        if stage == "assembly":
            require_compiler()
            machine = target_machine(target)
            module = llvm.parse_assembly(text)
            builder = llvm.create_pass_builder(machine, _options())
            builder.getModulePassManager().run(module, builder)
            text = machine.emit_assembly(module)
        parts.append(f"; kernel {kernel.name}\n{text}")
    return "\n".join(parts)
