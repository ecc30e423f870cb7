"""Kernels as one CUDA C program, compiled by NVRTC to the machine code of a target."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tallow import cache
from tallow.backend import Code, Target
from tallow.cstyle.dialects import CUDA
from tallow.cstyle.printer import group_size, print_kernel
from tallow.errors import CompileError
from tallow.kernel.grammar import Call, For, If, Kernel, Load, Stmt, Store, Update
from tallow_cuda import libraries
from tallow_cuda.targets import architecture

INTERFACE = "1"  # of notes and of what kernels take; a change makes older code unreadable
CACHE, CACHE_LIMIT = "cuda", 512 << 20  # kind of cached machine code, and the bytes kept of it
AROUND = 4  # lines shown before and after one that does not compile
# Products and sums are rounded one by one unless a kernel says fma: kernels compute rounding errors.
OPTIONS = ("--std=c++17", "--fmad=false", "--ptxas-options=-v")
_USAGE = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers",
    re.S,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a thread of a kernel takes: registers, bytes of arrays in memory, and bytes that were to be in
    registers and did not fit."""

    registers: int
    stack: int
    spilled: int


def compile_kernels(kernels: Sequence[Kernel], target: Target) -> Code:
    """Machine code of all kernels, which knows them by name; those that are calls of libraries are notes."""
    written = [k for k in kernels if not k.native]
    cubin, log = compile_source(source_text(written, target), target) if written else (b"", "")
    usage = {name: [u.registers, u.stack, u.spilled] for name, u in usage_of(log).items()}
    notes = {
        "interface": INTERFACE,
        "target": target.arch,
        "groups": json.dumps({k.name: group_size(k) for k in written}),
        "calls": json.dumps({k.name: json.loads(k.native) for k in kernels if k.native}),
        "usage": json.dumps({k.name: usage.get(function_of(k.name)) for k in written}),
    }
    return Code(cubin, {k.name: n for n, k in enumerate(kernels)}, {}, notes)


def function_of(entry: str) -> str:
    """The name of a kernel's function, as the printer writes it."""
    return f"{entry}_"


def usage_of(log: str) -> Mapping[str, Usage]:
    """What the compiler says of each function."""
    return {name: Usage(int(n), int(stack), int(spilled)) for name, stack, spilled, n in _USAGE.findall(log)}


def source_text(kernels: Sequence[Kernel], target: Target) -> str:
    """The text of all kernels; a helper is written before the first that uses it."""
    known: set[str] = set()
    parts = []
    for kernel in kernels:
        if kernel.native:
            parts.append(f"// {kernel.name}: {kernel.native}\n")
            continue
        lines = print_kernel(with_fma(kernel), CUDA).splitlines(keepends=True)
        start = next(n for n, line in enumerate(lines) if line.startswith(CUDA.kernel))
        fresh = [line for line in lines[:start] if line not in known]
        known.update(fresh)
        parts += [*fresh, *lines[start:]]
    return "".join(parts)


def with_fma(kernel: Kernel) -> Kernel:
    """The kernel with sums of float products as fused operations, which the hardware does in one."""
    return replace(kernel, body=_with_fma(kernel.body))


def _with_fma(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    def one(s: Stmt) -> Stmt:
        match s:
            case For():
                return replace(s, body=_with_fma(s.body))
            case If():
                return replace(s, then=_with_fma(s.then), otherwise=_with_fma(s.otherwise))
            case Update(buffer, index, "add", Call("mul", (a, b), dtype)) if dtype.name in ("f32", "f64"):
                if buffer.dtype == dtype:
                    return Store(buffer, index, Call("fma", (a, b, Load(buffer, index)), dtype))
        return s

    return tuple(one(s) for s in body)


def compile_source(text: str, target: Target) -> tuple[bytes, str]:
    """Machine code and the compiler's log, from the cache when the same was compiled before; CompileError
    with the numbered lines around the first fault."""
    nvrtc = libraries.nvrtc()
    words = [*OPTIONS, f"--gpu-architecture={architecture(target.arch)}"]
    key = hashlib.sha256(json.dumps([text, words, nvrtc.getVersion()]).encode()).hexdigest()
    stored = cache.load(CACHE, key)
    if stored is not None:
        size = int.from_bytes(stored[:8], "little")
        return stored[8 : 8 + size], stored[8 + size :].decode()
    program = nvrtc.createProgram(text, "kernels.cu", [], [])
    try:
        nvrtc.compileProgram(program, [*words, f"--include-path={libraries.headers()}"])
        cubin, log = nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError as error:
        raise CompileError(failure(text, target, nvrtc.getProgramLog(program), error)) from None
    finally:
        nvrtc.destroyProgram(program)
    cache.store(CACHE, key, len(cubin).to_bytes(8, "little") + cubin + log.encode())
    cache.trim(CACHE, CACHE_LIMIT)
    return cubin, log


def ptx_of(text: str, target: Target) -> str:
    """The compiler's own assembly of a program."""
    nvrtc = libraries.nvrtc()
    program = nvrtc.createProgram(text, "kernels.cu", [], [])
    arch = architecture(target.arch).replace("sm_", "compute_")
    options = [*OPTIONS[:2], f"--gpu-architecture={arch}", f"--include-path={libraries.headers()}"]
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getPTX(program).decode()
    except nvrtc.NVRTCError as error:
        raise CompileError(failure(text, target, nvrtc.getProgramLog(program), error)) from None
    finally:
        nvrtc.destroyProgram(program)


def failure(text: str, target: Target, log: str, error: Exception) -> str:
    """What the compiler said, and the numbered source around the first line that it names."""
    message = f"NVRTC does not compile the kernels for {target}: {error}\n{log.strip()}"
    found = re.search(r"kernels\.cu\((\d+)\)", log)
    if found is None:
        return message
    lines, at = text.splitlines(), int(found[1])
    first = max(1, at - AROUND)
    shown = enumerate(lines[first - 1 : at + AROUND], first)
    return "\n".join([message, *(f"{'>' if n == at else ' '} {n:5} {line}" for n, line in shown)])
