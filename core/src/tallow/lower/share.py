"""Sharing: kernels that differ in numbers alone become one kernel, with the numbers as size parameters.

A kernel is read as its form, with a hole for each index constant, and the numbers in the holes. Kernels of
one form agree on most numbers, which stay; the others are passed. Scratch memory is as large as the largest
needs. What is written out stays a number: bounds of loops without a loop, places in registers, work-groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from tallow.dtype import i64
from tallow.kernel import build
from tallow.kernel.grammar import (
    Alloc,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Const,
    Copy,
    Exchange,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    LoadMatrix,
    Reduce,
    Splat,
    Stmt,
    Store,
    StoreMatrix,
    Update,
    Var,
)

Number = Callable[[int], Expr]
Size = Callable[[int], int]
HOLE = Var("")


def share(kernels: Mapping[str, Kernel]) -> dict[str, tuple[Kernel, tuple[int, ...]]]:
    """For each kernel by name, the one to use in its stead and the values of the sizes that it has more.
    One that is a backend's own source, or has a call of a library in its place, stays."""
    groups: dict[Kernel, dict[str, tuple[list[int], list[int]]]] = {}
    result = {name: (kernel, ()) for name, kernel in kernels.items()}
    written = {n: kernel for n, kernel in kernels.items() if isinstance(kernel, Kernel) and not kernel.native}
    for name, kernel in written.items():
        form, numbers, sizes = _form(kernel)
        groups.setdefault(form, {})[name] = (numbers, sizes)
    for members in groups.values():
        if len(members) > 1:
            result |= _merge(kernels, members)
    return result


def _form(kernel: Kernel) -> tuple[Kernel, list[int], list[int]]:
    """The kernel with holes, the numbers that belong there, and the sizes of its scratch memory."""
    numbers: list[int] = []
    sizes: list[int] = []

    def number(value: int) -> Expr:
        numbers.append(value)
        return HOLE

    def size(value: int) -> int:
        sizes.append(value)
        return 0

    return replace(_Rebuild(number, size).kernel(kernel), name=""), numbers, sizes


def _merge(
    kernels: Mapping[str, Kernel], members: Mapping[str, tuple[list[int], list[int]]]
) -> Iterator[tuple[str, tuple[Kernel, tuple[int, ...]]]]:
    """One kernel for members of one form."""
    first = kernels[next(iter(members))]
    places = list(zip(*(numbers for numbers, _ in members.values()), strict=True))
    known, given = _parameters(places, _names(first))
    largest = iter([max(sizes) for sizes in zip(*(sizes for _, sizes in members.values()), strict=True)])
    in_order = iter(places)

    def number(value: int) -> Expr:
        return known.get(next(in_order), Const(value))

    merged = _Rebuild(number, lambda value: next(largest)).kernel(first)
    merged = replace(merged, sizes=(*merged.sizes, *given))
    for position, name in enumerate(members):
        yield name, (merged, tuple(values[position] for values in given.values()))


def _parameters(
    places: list[tuple[int, ...]], taken: set[str]
) -> tuple[dict[tuple[int, ...], Expr], dict[Var, tuple[int, ...]]]:
    """What stands for numbers that differ, and the value of each parameter for each kernel: numbers that
    are the same multiple of others everywhere need none of their own."""
    known: dict[tuple[int, ...], Expr] = {}
    given: dict[Var, tuple[int, ...]] = {}
    names = (name for count in itertools.count() if (name := f"number_{count}") not in taken)
    for values in sorted(dict.fromkeys(v for v in places if len(set(v)) > 1)):
        for variable, base in given.items():
            factor = values[0] // base[0] if base[0] else 0
            if factor and all(value == factor * b for value, b in zip(values, base, strict=True)):
                known[values] = build.mul(variable, build.const(factor))
                break
        else:
            known[values] = Var(next(names))
            given[known[values]] = values
    return known, given


def _names(kernel: Kernel) -> set[str]:
    """The names of a kernel's variables."""
    names = {size.name for size in kernel.sizes}
    for s in build.walk_stmts(kernel.body):
        names |= {s.var.name} if isinstance(s, (Let, For, Exchange)) else set()
    return names


class _Rebuild:
    """A kernel with its index constants and sizes of scratch memory replaced, always in the same order."""

    def __init__(self, number: Number, size: Size):
        self.number, self.size = number, size
        self.buffers: dict[Buffer, Buffer] = {}

    def kernel(self, kernel: Kernel) -> Kernel:
        return replace(kernel, body=self.block(kernel.body))

    def block(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        return tuple(map(self.statement, body))

    def statement(self, s: Stmt) -> Stmt:
        match s:
            case Let(var, value):
                return Let(var, self.expression(value))
            case Alloc(Buffer(space="local") as buffer):
                self.buffers[buffer] = replace(buffer, size=self.size(buffer.size))
                return Alloc(self.buffers[buffer])
            case Store(buffer, index, value, mask):
                guard = None if mask is None else self.expression(mask)
                return Store(self.buffer(buffer), self.place(buffer, index), self.expression(value), guard)
            case Update(buffer, index, op, value):
                return Update(self.buffer(buffer), self.place(buffer, index), op, self.expression(value))
            case Copy(buffer, index, source, start, count, mask):
                to = self.buffer(buffer), self.place(buffer, index)
                guard = None if mask is None else self.expression(mask)
                return Copy(*to, self.buffer(source), self.place(source, start), count, guard)
            case Exchange(var, value, distance):
                return Exchange(var, self.expression(value), distance)
            case LoadMatrix() | StoreMatrix():
                return replace(s, index=self.expression(s.index))
            case For(var, stop, body, kind, start, step):
                if kind not in ("unroll", "group"):
                    start, stop = self.expression(start), self.expression(stop)
                return For(var, stop, self.block(body), kind, start, step)
            case If(condition, then, otherwise):
                return If(self.expression(condition), self.block(then), self.block(otherwise))
        return s

    def buffer(self, buffer: Buffer) -> Buffer:
        return self.buffers.get(buffer, buffer)

    def place(self, buffer: Buffer, index: Expr) -> Expr:
        return index if buffer.space == "register" else self.expression(index)

    def expression(self, e: Expr) -> Expr:
        match e:
            case Const(value, dtype, 1) if dtype == i64:
                return self.number(value)
            case Load(buffer, index, lanes, mask):
                guard = None if mask is None else self.expression(mask)
                return Load(self.buffer(buffer), self.place(buffer, index), lanes, guard)
            case Call(function, arguments, dtype):
                return Call(function, tuple(map(self.expression, arguments)), dtype)
            case Cast() | Bitcast() | Splat() | Reduce():
                return replace(e, value=self.expression(e.value))
        return e
