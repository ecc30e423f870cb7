"""Vectorising: `vector` loops over scalar bodies become loops over whole vectors and a masked tail.

Reads and writes whose index moves by one with the loop variable become contiguous; other indexes that
vary become gathers and scatters; what does not vary stays scalar. An `Update` of one place becomes a
vector accumulator, four of them in long loops to hide the latency of the addition, folded at the end.
A loop that does not fit these forms runs serially, with the same meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from tallow.dtype import DType, bool_, i64
from tallow.kernel import build
from tallow.kernel.build import add, const, mul, splat, sub
from tallow.kernel.grammar import (
    Alloc,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Ramp,
    Reduce,
    Stmt,
    Store,
    Update,
    Var,
)

ACCUMULATORS = 4
UNROLLED = 8  # vector iterations of constant loops that are written out


class _Cannot(Exception):
    """The loop has no vector form; it stays serial."""


@dataclass(frozen=True, slots=True)
class _Width:
    bytes: int
    most: int  # lanes


def vectorise(kernel: Kernel, width_bytes: int, most_lanes: int = 64) -> Kernel:
    """The kernel with `vector` loops in explicit vectors of `width_bytes` (64 for AVX-512)."""
    namer = _Namer()
    return replace(kernel, body=_block(kernel.body, _Width(width_bytes, most_lanes), namer))


class _Namer:
    def __init__(self):
        self.count = 0

    def __call__(self, hint: str) -> str:
        self.count += 1
        return f"{hint}.v{self.count}"


def _block(body: tuple[Stmt, ...], width: _Width, namer: _Namer) -> tuple[Stmt, ...]:
    result: list[Stmt] = []
    for statement in body:
        match statement:
            case For(kind="vector"):
                result += _loop(statement, width, namer)
            case For(body=inner):
                result.append(replace(statement, body=_block(inner, width, namer)))
            case If(condition, then, otherwise):
                result.append(If(condition, _block(then, width, namer), _block(otherwise, width, namer)))
            case _:
                result.append(statement)
    return tuple(result)


def _serial(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    def one(s: Stmt) -> Stmt:
        match s:
            case For():
                return replace(s, kind="serial" if s.kind == "vector" else s.kind, body=_serial(s.body))
            case If(condition, then, otherwise):
                return If(condition, _serial(then), _serial(otherwise))
        return s

    return tuple(one(s) for s in body)


def _data_bytes(body: Iterable[Stmt]) -> int:
    """The widest element that the loop computes with; plain index arithmetic does not count."""
    widest = 1
    for s in build.walk_stmts(tuple(body)):
        if isinstance(s, (Store, Update)):
            widest = max(widest, s.buffer.dtype.itemsize)
        for root in build.stmt_exprs(s):
            for e in build.walk_exprs(root):
                if isinstance(e, Load) or (isinstance(e, (Call, Cast)) and e.dtype.is_float):
                    widest = max(widest, e.dtype.itemsize)
    return widest


def _loop(loop: For, width: _Width, namer: _Namer) -> list[Stmt]:
    lanes = min(width.most, width.bytes // _data_bytes(loop.body))
    serial = [replace(loop, kind="serial", body=_serial(loop.body))]
    if lanes < 2 or loop.step != 1:
        return serial
    try:
        return _Vectoriser(loop, lanes, namer).statements()
    except _Cannot:
        return serial


@dataclass(slots=True)
class _Accumulator:
    update: Update
    buffer: Buffer


@dataclass(slots=True)
class _Lane:
    """One copy of the body: where it stands and what its variables have become."""

    base: Expr
    mask: Expr | None
    copy: int
    affine: dict[Var, tuple[int, Expr]] = field(default_factory=dict)
    vectors: dict[Var, Var] = field(default_factory=dict)


class _Vectoriser:
    def __init__(self, loop: For, lanes: int, namer: _Namer):
        self.loop, self.lanes, self.namer = loop, lanes, namer
        self.accumulators: dict[int, _Accumulator] = {}
        self.private = {
            s.buffer: self._privatise(s.buffer) for s in build.walk_stmts(loop.body) if isinstance(s, Alloc)
        }
        self.inner = {s.var for s in build.walk_stmts(loop.body) if isinstance(s, (Let, For))}

    def _privatise(self, buffer: Buffer) -> Buffer:
        """A buffer allocated in the loop holds a vector for each element."""
        return replace(buffer, name=self.namer(buffer.name), size=buffer.size * self.lanes)

    def statements(self) -> list[Stmt]:
        start, stop, lanes = self.loop.start, self.loop.stop, self.lanes
        count = sub(stop, start)
        if isinstance(count, Const):
            main = self._constant(count.value)
        else:
            main = self._dynamic(count)
        opening, closing = [], []
        for a in self.accumulators.values():
            dtype = a.buffer.dtype
            zero = replace(const(identity(a.update.op, dtype), dtype), lanes=lanes)
            opening.append(Alloc(a.buffer))
            opening += [Store(a.buffer, const(i * lanes), zero) for i in range(ACCUMULATORS)]
            total: Expr = Load(a.buffer, const(0), lanes)
            for i in range(1, ACCUMULATORS):
                total = Call(
                    scalar_of(a.update.op, dtype), (total, Load(a.buffer, const(i * lanes), lanes)), dtype
                )
            closing.append(Update(a.update.buffer, a.update.index, a.update.op, Reduce(a.update.op, total)))
        return [*opening, *main, *closing]

    def _has_reduction(self) -> bool:
        return any(
            isinstance(s, Update) and s.buffer not in self.private and self._invariant(s.index)
            for s in build.walk_stmts(self.loop.body)
        )

    def _invariant(self, e: Expr) -> bool:
        return not any(
            isinstance(x, Var) and (x == self.loop.var or x in self.inner) for x in build.walk_exprs(e)
        )

    def _constant(self, count: int) -> list[Stmt]:
        lanes, start = self.lanes, self.loop.start
        whole = count // lanes
        result: list[Stmt] = []
        if whole:
            result += self._main(start, add(start, const(whole * lanes)), whole)
        if count > whole * lanes:
            result += self._tail(add(start, const(whole * lanes)))
        return result

    def _dynamic(self, count: Expr) -> list[Stmt]:
        edge = Var(self.namer("edge"))
        whole = mul(build.floordiv(count, const(self.lanes)), const(self.lanes))
        result: list[Stmt] = [Let(edge, add(self.loop.start, whole))]
        result += self._main(self.loop.start, edge, None)
        result.append(If(build.less(edge, self.loop.stop), tuple(self._tail(edge))))
        return result

    def _main(self, start: Expr, stop: Expr, trips: int | None) -> list[Stmt]:
        lanes = self.lanes
        if trips is not None and trips <= UNROLLED and isinstance(start, Const):
            base = Var(self.namer(self.loop.var.name))
            return [For(base, stop, tuple(self._body(base, None)), "unroll", start, lanes)]
        result: list[Stmt] = []
        if self._has_reduction() and (trips is None or trips >= ACCUMULATORS):
            group = lanes * ACCUMULATORS
            wide = Var(self.namer("wide"))
            result.append(
                Let(wide, add(start, mul(build.floordiv(sub(stop, start), const(group)), const(group))))
            )
            base = Var(self.namer(self.loop.var.name))
            copies = [
                s for c in range(ACCUMULATORS) for s in self._body(add(base, const(c * lanes)), None, c)
            ]
            result.append(For(base, wide, tuple(copies), "serial", start, group))
            start = wide
        base = Var(self.namer(self.loop.var.name))
        result.append(For(base, stop, tuple(self._body(base, None)), "serial", start, lanes))
        return result

    def _tail(self, edge: Expr) -> list[Stmt]:
        positions = Call("add", (splat(edge, self.lanes), Ramp(self.lanes)), i64)
        mask = Var(self.namer("tail"), bool_, self.lanes)
        let = Let(mask, Call("lt", (positions, splat(self.loop.stop, self.lanes)), bool_))
        return [let, *self._body(edge, mask)]

    def _body(self, base: Expr, mask: Expr | None, copy: int = 0) -> list[Stmt]:
        lane = _Lane(base, mask, copy)
        lane.affine[self.loop.var] = (1, base)
        return self._statements(self.loop.body, lane)

    # Statements --------------------------------------------------------------------------------

    def _statements(self, body: tuple[Stmt, ...], lane: _Lane) -> list[Stmt]:
        return [t for s in body for t in self._statement(s, lane)]

    def _statement(self, s: Stmt, lane: _Lane) -> list[Stmt]:
        match s:
            case Alloc(buffer):
                return [Alloc(self.private[buffer])]
            case Let(var, value):
                return self._let(var, value, lane)
            case Store(buffer, index, value, mask):
                return self._store(buffer, index, self._vector(value, lane), self._mask(mask, lane), lane)
            case Update():
                return self._update(s, lane)
            case If(condition, then, otherwise):
                return self._if(condition, then, otherwise, lane)
            case For(var, stop, inner, kind, start, step):
                low, high = self._vector(start, lane), self._vector(stop, lane)
                if low.lanes > 1 or high.lanes > 1:
                    raise _Cannot
                fresh = Var(self.namer(var.name))
                lane.affine[var] = (0, fresh)
                return [
                    For(
                        fresh,
                        high,
                        tuple(self._statements(inner, lane)),
                        "serial" if kind == "vector" else kind,
                        low,
                        step,
                    )
                ]
        raise _Cannot

    def _let(self, var: Var, value: Expr, lane: _Lane) -> list[Stmt]:
        line = self._affine(value, lane) if var.dtype == i64 else None
        if line is not None:
            fresh = Var(self.namer(var.name))
            lane.affine[var] = (line[0], fresh)
            return [Let(fresh, line[1])]
        new = self._vector(value, lane)
        fresh = Var(self.namer(var.name), var.dtype, new.lanes)
        lane.vectors[var] = fresh
        return [Let(fresh, new)]

    def _store(self, buffer: Buffer, index: Expr, value: Expr, mask: Expr | None, lane: _Lane) -> list[Stmt]:
        if buffer in self.private:
            at, value = self._private_index(index, lane), splat(value, self.lanes)
            if mask is not None:
                old = Load(self.private[buffer], at, self.lanes)
                value = Call("select", (splat(mask, self.lanes), value, old), buffer.dtype)
            return [Store(self.private[buffer], at, value)]
        line = self._affine(index, lane)
        if line is None:
            return [Store(buffer, self._vector(index, lane), splat(value, self.lanes), mask)]
        stride, at = line
        if stride == 1:
            return [Store(buffer, at, splat(value, self.lanes), mask)]
        if stride == 0:
            if value.lanes > 1 or mask is not None:
                raise _Cannot
            return [Store(buffer, at, value)]
        return [Store(buffer, self._line(line), splat(value, self.lanes), mask)]

    def _private_index(self, index: Expr, lane: _Lane) -> Expr:
        line = self._affine(index, lane)
        if line is None or line[0] != 0:
            raise _Cannot
        return mul(line[1], const(self.lanes))

    def _update(self, s: Update, lane: _Lane) -> list[Stmt]:
        lanes, dtype = self.lanes, s.buffer.dtype
        if s.buffer in self.private:
            target, at = self.private[s.buffer], self._private_index(s.index, lane)
        else:
            line = self._affine(s.index, lane)
            if line is not None and line[0] == 1:
                target, at = s.buffer, line[1]
            elif line is not None and line[0] == 0 and self._invariant(s.index):
                target = self._accumulator(s)
                at = const(lane.copy * lanes)
            else:
                raise _Cannot
        before = Load(target, at, lanes)
        after = combine(s.op, before, self._vector(s.value, lane), lanes, dtype)
        in_memory = target is s.buffer
        if lane.mask is not None and not in_memory:
            after = Call("select", (lane.mask, after, before), dtype)
        if in_memory and lane.mask is not None:
            after = combine(
                s.op, Load(target, at, lanes, lane.mask), self._vector(s.value, lane), lanes, dtype
            )
        return [Store(target, at, after, lane.mask if in_memory else None)]

    def _accumulator(self, s: Update) -> Buffer:
        found = self.accumulators.get(id(s))
        if found is None:
            size = ACCUMULATORS * self.lanes
            buffer = Buffer(self.namer(f"{s.buffer.name}.acc"), s.buffer.dtype, size, "register", True)
            found = self.accumulators[id(s)] = _Accumulator(s, buffer)
        return found.buffer

    def _if(self, condition: Expr, then, otherwise, lane: _Lane) -> list[Stmt]:
        test = self._vector(condition, lane)
        if test.lanes == 1:
            return [If(test, tuple(self._statements(then, lane)), tuple(self._statements(otherwise, lane)))]
        outer = lane.mask
        yes = Var(self.namer("yes"), bool_, self.lanes)
        no = Var(self.namer("no"), bool_, self.lanes)
        both = test if outer is None else Call("and", (outer, test), bool_)
        result: list[Stmt] = [Let(yes, both)]
        lane.mask = yes
        result += self._statements(then, lane)
        if otherwise:
            negated = Call("not", (test,), bool_)
            result.append(Let(no, negated if outer is None else Call("and", (outer, negated), bool_)))
            lane.mask = no
            result += self._statements(otherwise, lane)
        lane.mask = outer
        return result

    # Expressions -------------------------------------------------------------------------------

    def _affine(self, e: Expr, lane: _Lane) -> tuple[int, Expr] | None:
        """(stride, value at lane 0) of an i64 expression that is linear in the lane number."""
        match e:
            case Var():
                if e in lane.affine:
                    return lane.affine[e]
                if e in lane.vectors:
                    known = lane.vectors[e]
                    return (0, known) if known.lanes == 1 else None
                return 0, e
            case Const():
                return 0, e
            case Call("add", (a, b)) | Call("sub", (a, b)) if e.dtype == i64:
                left, right = self._affine(a, lane), self._affine(b, lane)
                if left is None or right is None:
                    return None
                sign, join = (1, add) if e.function == "add" else (-1, sub)
                return left[0] + sign * right[0], join(left[1], right[1])
            case Call("mul", (a, b)) if e.dtype == i64:
                left, right = self._affine(a, lane), self._affine(b, lane)
                if left is None or right is None:
                    return None
                if left[0] == 0 and right[0] == 0:
                    return 0, mul(left[1], right[1])
                if left[0] == 0:
                    left, right = right, left
                if right[0] == 0 and isinstance(right[1], Const):
                    return left[0] * right[1].value, mul(left[1], right[1])
                return None
        new = self._vector(e, lane)
        return (0, new) if new.lanes == 1 else None

    def _line(self, line: tuple[int, Expr]) -> Expr:
        """The vector of an affine expression."""
        stride, at = line
        if stride == 0:
            return at
        ramp: Expr = Ramp(self.lanes)
        if stride != 1:
            ramp = Call("mul", (ramp, splat(const(stride), self.lanes)), i64)
        return Call("add", (splat(at, self.lanes), ramp), i64)

    def _vector(self, e: Expr, lane: _Lane) -> Expr:
        """The expression for all lanes; scalar if it does not vary."""
        match e:
            case Const():
                return e
            case Var():
                if e in lane.affine:
                    return self._line(lane.affine[e])
                return lane.vectors.get(e, e)
            case Load(buffer, index, 1, mask):
                return self._load(buffer, index, self._mask(mask, lane), mask is not None, lane)
            case Call(function, arguments, dtype):
                new = [self._vector(a, lane) for a in arguments]
                if all(a.lanes == 1 for a in new):
                    return build.simplify(Call(function, tuple(new), dtype))
                return Call(function, tuple(splat(a, self.lanes) for a in new), dtype)
            case Cast(value, dtype):
                return Cast(self._vector(value, lane), dtype)
            case Bitcast(value, dtype):
                return Bitcast(self._vector(value, lane), dtype)
        raise _Cannot

    def _load(self, buffer: Buffer, index: Expr, mask: Expr | None, guarded: bool, lane: _Lane) -> Expr:
        if buffer in self.private:
            return Load(self.private[buffer], self._private_index(index, lane), self.lanes)
        line = self._affine(index, lane)
        if line is None:
            return Load(buffer, self._vector(index, lane), self.lanes, mask)
        stride, at = line
        if stride == 0:
            if not guarded:
                return Load(buffer, at)  # the tail's mask hides nothing: some lane is always on
            return (
                Load(buffer, splat(at, self.lanes), self.lanes, mask)
                if mask.lanes > 1
                else Load(buffer, at, 1, mask)
            )
        if stride == 1:
            return Load(buffer, at, self.lanes, None if mask is None else splat(mask, self.lanes))
        return Load(buffer, self._line(line), self.lanes, None if mask is None else splat(mask, self.lanes))

    def _mask(self, mask: Expr | None, lane: _Lane) -> Expr | None:
        """A statement's own mask together with the tail's."""
        if mask is None:
            return lane.mask
        own = self._vector(mask, lane)
        if lane.mask is None:
            return own
        return Call("and", (splat(own, self.lanes), lane.mask), bool_)


def scalar_of(op: str, dtype: DType) -> str:
    """The scalar function of an update."""
    if op in ("or", "and") and dtype.is_integer:
        return f"bit_{op}"
    return op if dtype.kind != "bool" else {"add": "or", "max": "or", "mul": "and", "min": "and"}.get(op, op)


def combine(op: str, before: Expr, value: Expr, lanes: int, dtype: DType) -> Expr:
    """`op(before, value)`, fused when it adds a product of floats."""
    value = splat(value, lanes)
    if op == "add" and dtype.is_float and isinstance(value, Call) and value.function == "mul":
        return Call("fma", (*value.arguments, before), dtype)
    return Call(scalar_of(op, dtype), (before, value), dtype)


def identity(op: str, dtype: DType) -> float | int | bool:
    """What an update leaves unchanged."""
    if dtype.kind == "bool":
        return op in ("mul", "min", "and")
    if op in ("add", "or"):
        return 0
    if op == "mul":
        return 1
    if op == "and":
        return -1 if dtype.kind == "int" else int(np.iinfo(dtype.numpy).max)
    if dtype.is_float:
        return -np.inf if op == "max" else np.inf
    info = np.iinfo(dtype.numpy)
    return int(info.min if op == "max" else info.max)
