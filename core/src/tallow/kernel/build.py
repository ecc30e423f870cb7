"""Construction of kernel expressions, folding constants as it goes, and walks over kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from tallow import dim as dims
from tallow.dim import Apply, Dim, Symbol
from tallow.dtype import DType, i64
from tallow.errors import CompileError
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
    If,
    Let,
    Load,
    LoadMatrix,
    Multiply,
    Prefetch,
    Reduce,
    Splat,
    Stmt,
    Store,
    StoreMatrix,
    Update,
    Var,
)
from tallow.scalar import SCALAR, apply


def const(value, dtype: DType = i64) -> Const:
    """A constant of a dtype, its value a plain Python number."""
    if dtype.kind == "bool":
        return Const(bool(value), dtype)
    return Const(float(value) if dtype.is_float else int(value), dtype)


def var(name: str, dtype: DType = i64) -> Var:
    return Var(name, dtype)


def _number(e: Expr) -> int | None:
    return e.value if isinstance(e, Const) and e.dtype == i64 and e.lanes == 1 else None


def add(a: Expr, b: Expr) -> Expr:
    """Index addition: constants folded and kept to the right."""
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        return const(x + y)
    if x is not None:
        a, b, x, y = b, a, y, x
    if y == 0:
        return a
    if y is not None and isinstance(a, Call) and a.function == "add" and a.dtype == i64:
        inner = _number(a.arguments[1])
        if inner is not None:
            return add(a.arguments[0], const(inner + y))
    return _call("add", a, b)


def sub(a: Expr, b: Expr) -> Expr:
    y = _number(b)
    if y is not None:
        return add(a, const(-y))
    if a == b:
        return const(0)
    return _call("sub", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    """Index multiplication: constants folded and kept to the right."""
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        return const(x * y)
    if x is not None:
        a, b, y = b, a, x
    if y == 0:
        return const(0)
    if y == 1:
        return a
    if y is not None and isinstance(a, Call) and a.function == "mul" and _number(a.arguments[1]) is not None:
        return mul(a.arguments[0], const(_number(a.arguments[1]) * y))
    return _call("mul", a, b)


def floordiv(a: Expr, b: Expr) -> Expr:
    """Index division. Indexes are not negative, for which C's division rounds the same way."""
    x, y = _number(a), _number(b)
    if x is not None and y:
        return const(x // y)
    return a if y == 1 else _call("div", a, b)


def mod(a: Expr, b: Expr) -> Expr:
    """Index remainder of numbers that are not negative."""
    x, y = _number(a), _number(b)
    if x is not None and y:
        return const(x % y)
    return const(0) if y == 1 else _call("fmod", a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    return call("min", a, b)


def maximum(a: Expr, b: Expr) -> Expr:
    return call("max", a, b)


def less(a: Expr, b: Expr) -> Expr:
    return call("lt", a, b)


def logical_and(a: Expr, b: Expr) -> Expr:
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Const):
            return other if one.value else one
    return call("and", a, b)


def within(at: Expr, size: Expr) -> Expr:
    """Whether an index that may be negative lies in 0..size - 1."""
    return logical_and(call("ge", at, const(0)), less(at, size))


def select(condition: Expr, a: Expr, b: Expr) -> Expr:
    if isinstance(condition, Const):
        return a if condition.value else b
    return a if a == b else call("select", condition, a, b)


def _call(function: str, *arguments: Expr) -> Call:
    row = SCALAR[function]
    return Call(function, arguments, row.result_dtype(arguments[-1].dtype))


def call(function: str, *arguments: Expr) -> Expr:
    """A scalar function applied; folded when every argument is a scalar constant."""
    row = SCALAR[function]
    if len(arguments) != row.arity:
        raise CompileError(f"{function} takes {row.arity} arguments, got {len(arguments)}")
    lanes = max(a.lanes for a in arguments)
    if lanes > 1:
        arguments = tuple(splat(a, lanes) for a in arguments)
    typed = arguments[1:] if function == "select" else arguments
    if len({a.dtype for a in typed}) != 1:
        raise CompileError(
            f"{function}: expected arguments of one dtype, got {', '.join(str(a.dtype) for a in arguments)}"
        )
    if all(isinstance(a, Const) and a.lanes == 1 for a in arguments) and typed[0].dtype.kind in (
        "int",
        "uint",
        "bool",
    ):
        values = [np.asarray(a.value, a.dtype.numpy) for a in arguments]
        return const(apply(function, *values).item(), row.result_dtype(typed[-1].dtype))
    return _call(function, *arguments)


def splat(e: Expr, lanes: int) -> Expr:
    """The expression as a vector of `lanes`."""
    if e.lanes == lanes:
        return e
    if e.lanes != 1:
        raise CompileError(f"cannot make {lanes} lanes of {e.lanes}")
    return replace(e, lanes=lanes) if isinstance(e, Const) else Splat(e, lanes)


def cast(e: Expr, dtype: DType) -> Expr:
    """Conversion by value; none where the dtype is right already."""
    if e.dtype == dtype:
        return e
    if (
        isinstance(e, Const)
        and (e.dtype.is_integer or e.dtype.kind == "bool")
        and (dtype.is_float or dtype == i64)
    ):
        return replace(const(e.value, dtype), lanes=e.lanes)
    return Cast(e, dtype)


def from_dim(dim: Dim) -> Expr:
    """A Dim as an i64 expression over variables named like its symbols."""
    if isinstance(dim, int):
        return const(dim)
    total: Expr = const(0)
    for atoms, factor in dim.terms:
        part: Expr = const(1)
        for atom in atoms:
            part = mul(part, _from_atom(atom))
        total = add(total, mul(part, const(factor)))
    return total


def _from_atom(atom: Symbol | Apply) -> Expr:
    if isinstance(atom, Symbol):
        return Var(atom.name)
    a, b = map(from_dim, atom.arguments)
    match atom.function:
        case "floordiv":  # may round a negative number: (a - mod(a, b)) / b
            low, _ = dims.bounds(atom.arguments[0])
            return (
                floordiv(a, b)
                if low is not None and low >= 0
                else _call("div", sub(a, _call("mod", a, b)), b)
            )
        case "mod":
            return _call("mod", a, b)
        case "broadcast":
            return select(call("eq", a, const(1)), b, a)
    return call(atom.function, a, b)


# Walks ---------------------------------------------------------------------------------------------


def children(e: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside an expression."""
    match e:
        case Call(_, arguments):
            return arguments
        case Cast(value) | Bitcast(value) | Splat(value):
            return (value,)
        case Reduce(_, value):
            return (value,)
        case Load(_, index, _, mask):
            return (index,) if mask is None else (index, mask)
    return ()


def map_expr(function: Callable[[Expr], Expr], e: Expr) -> Expr:
    """The expression rebuilt from the leaves up, each node through `function`."""
    match e:
        case Call(name, arguments, dtype):
            new = tuple(map_expr(function, a) for a in arguments)
            return function(
                e if all(a is b for a, b in zip(new, arguments, strict=True)) else Call(name, new, dtype)
            )
        case Cast(value) | Bitcast(value) | Splat(value) | Reduce(_, value):
            inner = map_expr(function, value)
            return function(e if inner is value else replace(e, value=inner))
        case Load(buffer, index, lanes, mask):
            at = map_expr(function, index)
            guard = None if mask is None else map_expr(function, mask)
            return function(e if at is index and guard is mask else Load(buffer, at, lanes, guard))
    return function(e)


def map_stmt(function: Callable[[Expr], Expr], s: Stmt) -> Stmt:
    """The statement with `function` applied to each expression directly or deeply in it."""
    match s:
        case Let(name, value):
            return Let(name, function(value))
        case Store(buffer, index, value, mask):
            return Store(buffer, function(index), function(value), None if mask is None else function(mask))
        case Update(buffer, index, op, value):
            return Update(buffer, function(index), op, function(value))
        case For(name, stop, body, kind, start, step):
            return For(
                name, function(stop), tuple(map_stmt(function, t) for t in body), kind, function(start), step
            )
        case If(condition, then, otherwise):
            branches = (tuple(map_stmt(function, t) for t in part) for part in (then, otherwise))
            return If(function(condition), *branches)
        case Prefetch(buffer, index, write):
            return Prefetch(buffer, function(index), write)
        case Copy(buffer, index, source, start, count, mask):
            guard = None if mask is None else function(mask)
            return Copy(buffer, function(index), source, function(start), count, guard)
        case Exchange(var, value, distance):
            return Exchange(var, function(value), distance)
        case LoadMatrix() | StoreMatrix():
            return replace(s, index=function(s.index))
        case Alloc() | Alias() | Barrier() | Multiply():
            return s


def walk_stmts(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Every statement, outer ones first."""
    for s in body:
        yield s
        match s:
            case For(body=inner):
                yield from walk_stmts(inner)
            case If(_, then, otherwise):
                yield from walk_stmts(then)
                yield from walk_stmts(otherwise)


def stmt_exprs(s: Stmt) -> tuple[Expr, ...]:
    """The expressions directly in a statement."""
    match s:
        case Let(_, value):
            return (value,)
        case Store(_, index, value, mask):
            return (index, value) if mask is None else (index, value, mask)
        case Update(_, index, _, value):
            return (index, value)
        case Copy(_, index, _, start, _, mask):
            return (index, start) if mask is None else (index, start, mask)
        case Exchange(_, value):
            return (value,)
        case Prefetch(_, index) | LoadMatrix(_, _, index) | StoreMatrix(_, index):
            return (index,)
        case For(stop=stop, start=start):
            return (start, stop)
        case If(condition):
            return (condition,)
    return ()


def walk_exprs(e: Expr) -> Iterator[Expr]:
    """Every expression in an expression, itself first."""
    yield e
    for inner in children(e):
        yield from walk_exprs(inner)


def simplify(e: Expr) -> Expr:
    """One node folded again after its parts have changed."""
    match e:
        case Call("add", (a, b)) if e.dtype == i64 and e.lanes == 1:
            return add(a, b)
        case Call("sub", (a, b)) if e.dtype == i64 and e.lanes == 1:
            return sub(a, b)
        case Call("mul", (a, b)) if e.dtype == i64 and e.lanes == 1:
            return mul(a, b)
        case Call("div", (a, b)) if e.dtype == i64 and e.lanes == 1:
            return floordiv(a, b)
        case Call("fmod", (a, b)) if e.dtype == i64 and e.lanes == 1:
            return mod(a, b)
        case Call("and", (a, b)) if e.lanes == 1:
            return logical_and(a, b)
        case Call("select", (c, a, b)) if e.lanes == 1:
            return select(c, a, b)
        case Call(name, arguments) if e.lanes == 1:
            return call(name, *arguments)
    return e


def substitute(what, bindings: Mapping[Var, Expr]):
    """An expression, statement or tuple of statements with variables replaced and constants folded."""
    if isinstance(what, tuple):
        return tuple(substitute(part, bindings) for part in what)

    def leaf(e: Expr) -> Expr:
        return bindings.get(e, e) if isinstance(e, Var) else simplify(e)

    if isinstance(what, Expr):
        return map_expr(leaf, what)
    return map_stmt(lambda e: map_expr(leaf, e), what)
