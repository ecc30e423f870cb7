"""Expansion: narrow floats compute in f32, and functions a printer lacks become basic arithmetic."""

from __future__ import annotations

from dataclasses import replace

from tallow.dtype import DType, f32, f64
from tallow.errors import CompileError
from tallow.kernel.build import cast, map_stmt
from tallow.kernel.grammar import (
    Bitcast,
    Call,
    Cast,
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
)
from tallow.kernel.math import APPROXIMATIONS
from tallow.kernel.straight import Maths
from tallow.kernel.updates import combine


def is_narrow(dtype: DType) -> bool:
    """Whether arithmetic on the dtype is done in f32."""
    return dtype.is_float and dtype.bits < 32


def dot_bytes(m: Maths, a: Expr, b: Expr, c: Expr) -> Expr:
    """The products of bytes one by one, for targets without an instruction for it."""
    bits = c.dtype.bits
    if bits <= 8:
        return m.do("fma", a, b, c)
    a, b, total = m.let(a), m.let(b), m.let(c)
    for shift in range(0, bits, 8):
        left = m.do("bit_and", m.do("shift_right", a, shift), 255)
        right = m.do("bit_and", m.do("shift_right", b, shift), 255)
        total = m.do("fma", left, m.do("sub", m.do("bit_xor", right, 128), 128), total)
    return total


def unable(function: str, dtype: DType) -> str | None:
    """Why a function of a dtype has no kernel form, or None if it has one."""
    row = APPROXIMATIONS.get(function)
    if row is not None and dtype == f64 and not row.exact64:
        return f"no {function} of f64 in kernels"
    if function == "pow" and dtype.is_integer:
        return "no integer powers in kernels"
    return None


def expand(kernel: Kernel, native: frozenset[str]) -> Kernel:
    """The kernel with only `native` functions, of dtypes of 32 bits and more (integers of any width)."""
    return replace(kernel, body=_Expander(native).block(kernel.body))


class _Expander:
    def __init__(self, native: frozenset[str]):
        self.native = native
        self.count = 0

    def fresh(self, hint: str) -> str:
        self.count += 1
        return f"{hint}.m{self.count}"

    def block(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        result: list[Stmt] = []
        for s in body:
            result.append(self.statement(s, result))
        return tuple(result)

    def statement(self, s: Stmt, before: list[Stmt]) -> Stmt:
        def e(x: Expr) -> Expr:
            return self.expression(x, before)

        match s:
            case Let(var, value):
                return Let(var, e(value))
            case Store(buffer, index, value, mask):
                return Store(buffer, e(index), e(value), None if mask is None else e(mask))
            case Update(buffer, index, op, value):
                index, value = e(index), e(value)
                if not is_narrow(buffer.dtype):
                    return Update(buffer, index, op, value)
                wide = combine(op, cast(Load(buffer, index), f32), cast(value, f32), 1, f32)
                return Store(buffer, index, Cast(wide, buffer.dtype))
            case For(var, stop, body, kind, start, step):
                return For(var, e(stop), self.block(body), kind, e(start), step)
            case If(condition, then, otherwise):
                return If(e(condition), self.block(then), self.block(otherwise))
            case Copy() | Exchange() | LoadMatrix() | StoreMatrix():
                return map_stmt(e, s)
        return s

    def expression(self, x: Expr, before: list[Stmt]) -> Expr:
        match x:
            case Call(function, arguments, dtype):
                return self.call(
                    function, tuple(self.expression(a, before) for a in arguments), dtype, before
                )
            case Cast(value, dtype):
                return Cast(self.expression(value, before), dtype)
            case Bitcast(value, dtype):
                return Bitcast(self.expression(value, before), dtype)
            case Splat(value, lanes):
                return Splat(self.expression(value, before), lanes)
            case Reduce(op, value):
                return Reduce(op, self.expression(value, before))
            case Load(buffer, index, lanes, mask):
                guard = None if mask is None else self.expression(mask, before)
                return Load(buffer, self.expression(index, before), lanes, guard)
        return x

    def call(self, function: str, arguments: tuple[Expr, ...], dtype: DType, before: list[Stmt]) -> Expr:
        operand = arguments[-1].dtype
        if is_narrow(operand) and function != "select":
            wide = tuple(cast(a, f32) for a in arguments)
            result = self.call(function, wide, f32 if dtype == operand else dtype, before)
            return cast(result, dtype)
        if function in self.native or (function in ("mod", "fmod", "div") and not operand.is_float):
            return Call(function, arguments, dtype)
        if function == "dot_bytes":
            return dot_bytes(Maths(before, self.fresh), *arguments)
        row = APPROXIMATIONS.get(function)
        reason = unable(function, operand)
        if row is None or reason is not None or not operand.is_float:
            raise CompileError(reason or f"no expansion for {function} of {operand}")
        maths = Maths(before, self.fresh)
        named = tuple(maths.let(a) for a in arguments)
        if operand == f32 and row.narrow is not None:
            return row.narrow(maths, *named)
        if operand == f32:
            return maths.cast(row.wide(maths, *(maths.cast(a, f64) for a in named)), f32)
        return row.wide(maths, *named)
