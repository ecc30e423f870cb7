"""Kernels as one OpenCL C program: each buffer comes with the element that it begins at.

Addresses of OpenCL 1.2 know no arithmetic outside kernels, and pieces of a buffer cannot begin just
anywhere, so a kernel gets the buffer and where its own elements begin in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tallow.backend import Code
from tallow.cstyle.dialects import OPENCL
from tallow.cstyle.printer import group_size, print_kernel
from tallow.cstyle.source import element_type
from tallow.kernel import build
from tallow.kernel.grammar import Buffer, Expr, For, If, Kernel, Load, SourceKernel, Stmt, Store, Update, Var
from tallow.target import Target
from tallow_opencl.signatures import INTERFACE


def compile_kernels(kernels: Sequence[Kernel], target: Target) -> Code:
    """The source of all kernels, with where each begins in it and what it takes."""
    text, entries = "", {}
    for kernel, part in zip(kernels, _parts(kernels, target), strict=True):
        entries[kernel.name] = len(text)
        text += part
    signatures = {k.name: ([b.dtype.itemsize for b in k.parameters], group_size(k)) for k in kernels}
    notes = {"interface": INTERFACE, "target": target.arch, "signatures": json.dumps(signatures)}
    return Code(text.encode(), entries, {}, notes)


def source_text(kernels: Sequence[Kernel], target: Target) -> str:
    return "".join(_parts(kernels, target))


def _parts(kernels: Sequence[Kernel], target: Target) -> list[str]:
    """The text of each kernel, with the helpers that none before it has."""
    known: set[str] = set()
    parts = []
    for kernel in kernels:
        lines = print_kernel(with_offsets(kernel), OPENCL, target.vector_bytes).splitlines(keepends=True)
        start = next(n for n, line in enumerate(lines) if line.startswith(OPENCL.kernel))
        fresh = [line for line in lines[:start] if line not in known]
        known.update(fresh)
        parts.append("".join([*fresh, *lines[start:]]))
    return parts


def with_offsets(kernel: Kernel | SourceKernel) -> Kernel | SourceKernel:
    """The kernel with a size before its own for each buffer: the element that it begins at."""
    if isinstance(kernel, SourceKernel):
        return _source_with_offsets(kernel)
    begins = {b: Var(f"{b.name}.at") for b in kernel.parameters}
    body = tuple(_moved(s, begins) for s in kernel.body)
    return replace(kernel, sizes=(*begins.values(), *kernel.sizes), body=body)


def _source_with_offsets(kernel: SourceKernel) -> SourceKernel:
    """The same for a text: its buffers are pointers to where they begin."""
    whole = tuple(replace(b, name=f"{b.name}_whole") for b in kernel.parameters)
    begins = tuple(Var(f"{b.name}_at") for b in kernel.parameters)
    moved = ""
    for b in kernel.parameters:
        const = "" if b.writable else "const "
        moved += f"__global {const}{element_type(b.dtype, OPENCL)} *{b.name} = {b.name}_whole + {b.name}_at; "
    return replace(kernel, parameters=whole, sizes=(*begins, *kernel.sizes), text=moved + kernel.text)


def _moved(s: Stmt, begins: Mapping[Buffer, Var]) -> Stmt:
    def at(e: Expr) -> Expr:
        return build.map_expr(load, e)

    def load(e: Expr) -> Expr:
        if isinstance(e, Load) and e.buffer in begins:
            return replace(e, index=build.add(begins[e.buffer], e.index))
        return e

    match s:
        case For():
            body = tuple(_moved(t, begins) for t in s.body)
            return replace(s, start=at(s.start), stop=at(s.stop), body=body)
        case If():
            then, otherwise = (tuple(_moved(t, begins) for t in part) for part in (s.then, s.otherwise))
            return If(at(s.condition), then, otherwise)
        case Store() | Update():
            s = build.map_stmt(at, s)
            return replace(s, index=build.add(begins[s.buffer], s.index)) if s.buffer in begins else s
    return build.map_stmt(at, s)
