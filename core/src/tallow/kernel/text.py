"""Printer of kernels as indented text, for people."""

from __future__ import annotations

from tallow.errors import VerifyError
from tallow.kernel.grammar import (
    Alias,
    Alloc,
    Barrier,
    Bitcast,
    Call,
    Cast,
    Const,
    Copy,
    Exchange,
    Expr,
    For,
    Fragment,
    If,
    Kernel,
    Let,
    Load,
    LoadMatrix,
    Multiply,
    Prefetch,
    Ramp,
    Reduce,
    SourceKernel,
    Splat,
    Stmt,
    Store,
    StoreMatrix,
    Update,
    Var,
)

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
}


def print_expr(e: Expr) -> str:
    """One expression on one line."""
    match e:
        case Const(value, _, lanes):
            return str(value) if lanes == 1 else f"{value}x{lanes}"
        case Var(name):
            return name
        case Ramp(lanes):
            return f"ramp({lanes})"
        case Splat(value, lanes):
            return f"splat({print_expr(value)}, {lanes})"
        case Load(buffer, index, lanes, mask):
            width = f":{lanes}" if lanes > 1 else ""
            guard = "" if mask is None else f" if {print_expr(mask)}"
            return f"{buffer.name}[{print_expr(index)}{width}{guard}]"
        case Call(function, (a, b)) if function in _INFIX:
            return f"({print_expr(a)} {_INFIX[function]} {print_expr(b)})"
        case Call(function, arguments):
            return f"{function}({', '.join(map(print_expr, arguments))})"
        case Cast(value, dtype):
            return f"{dtype}({print_expr(value)})"
        case Bitcast(value, dtype):
            return f"bits<{dtype}>({print_expr(value)})"
        case Reduce(op, value):
            return f"reduce<{op}>({print_expr(value)})"
    raise VerifyError(f"no text for {e!r}")


def print_kernel(kernel: Kernel | SourceKernel) -> str:
    """A kernel, one statement a line; the text of one in a backend's language."""
    parameters = [f"{'out ' if b.writable else ''}{b.name}: {b.dtype}" for b in kernel.parameters]
    parameters += [f"{s.name}: size" for s in kernel.sizes]
    if isinstance(kernel, SourceKernel):
        body = [f"  {line}" for line in kernel.text.splitlines()]
    else:
        native = [f"  runs as {kernel.native}"] if kernel.native else []
        body = [*native, *_block(kernel.body, 1)]
    return "\n".join([f"kernel {kernel.name}({', '.join(parameters)})", *body])


def _block(body: tuple[Stmt, ...], depth: int) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    for s in body:
        match s:
            case Let(var, value):
                lines.append(f"{pad}{var.name} = {print_expr(value)}")
            case Alloc(Fragment(name, dtype, role, rows, columns, threads, turned)):
                how = " turned" if turned else ""
                lines.append(f"{pad}{role} {name}: {dtype}[{rows}, {columns}]{how} of {threads} threads")
            case Alloc(buffer):
                lines.append(f"{pad}{buffer.space} {buffer.name}: {buffer.dtype}[{buffer.size}]")
            case Alias(buffer, of):
                lines.append(f"{pad}{buffer.name}: {buffer.dtype}[{buffer.size}] is {of.name}")
            case Store(buffer, index, value, mask):
                guard = "" if mask is None else f" if {print_expr(mask)}"
                lines.append(f"{pad}{buffer.name}[{print_expr(index)}] = {print_expr(value)}{guard}")
            case Update(buffer, index, op, value):
                lines.append(f"{pad}{buffer.name}[{print_expr(index)}] {op}= {print_expr(value)}")
            case For(var, stop, inner, kind, start, step):
                by = "" if step == 1 else f" by {step}"
                lines.append(f"{pad}{kind} {var.name} in {print_expr(start)}..{print_expr(stop)}{by}")
                lines += _block(inner, depth + 1)
            case If(condition, then, otherwise):
                lines.append(f"{pad}if {print_expr(condition)}")
                lines += _block(then, depth + 1)
                if otherwise:
                    lines += [f"{pad}else", *_block(otherwise, depth + 1)]
            case Prefetch(buffer, index, write):
                purpose = "writing" if write else "reading"
                lines.append(f"{pad}prefetch {buffer.name}[{print_expr(index)}] for {purpose}")
            case Copy(buffer, index, source, start, count, mask):
                guard = "" if mask is None else f" if {print_expr(mask)}"
                taken = f"{source.name}[{print_expr(start)}:{count}{guard}]"
                lines.append(f"{pad}{buffer.name}[{print_expr(index)}:{count}] = {taken}")
            case Barrier(threads):
                lines.append(f"{pad}barrier" + (f" of {threads}" if threads else ""))
            case Exchange(var, value, distance):
                lines.append(f"{pad}{var.name} = {print_expr(value)} of the thread {distance} away")
            case LoadMatrix(fragment, buffer, index, pitch):
                lines.append(f"{pad}{fragment.name} = {buffer.name}[{print_expr(index)} by {pitch}]")
            case Multiply(total, left, right):
                lines.append(f"{pad}{total.name} += {left.name} @ {right.name}")
            case StoreMatrix(buffer, index, pitch, fragment):
                lines.append(f"{pad}{buffer.name}[{print_expr(index)} by {pitch}] = {fragment.name}")
    return lines
