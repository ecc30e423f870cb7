"""Lowering of topk: the best so far in a list or a heap when few are wanted, else a merge sort of places.

Equal elements keep their order; NaN counts as the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tallow.dim import Dim, bounds, product
from tallow.dtype import i32, i64
from tallow.graph import Node
from tallow.kernel import build
from tallow.kernel.build import add, const, less, minimum, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Let, Load, Stmt, Store, Update, Var
from tallow.lower.group import Group, KernelCall, Temporary
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, unravel
from tallow.lower.reduce import identity

FEW = 12  # so many are kept in registers
MANY = 1024  # so many a heap may hold
PIECE = 64  # elements that are looked at together for one that enters the heap
NOWHERE = (1 << 63) - 1
LEVELS = 48  # of merging: more than any size has bits


@dataclass(slots=True)
class _Line:
    """One line along the axis, at the `outer` index of a grid iteration."""

    inliner: Inliner
    node: Node
    item: Var
    outer: list[Expr]
    statements: list[Stmt]

    @property
    def axis(self) -> int:
        return self.node["axis"]

    def index(self, at: Expr) -> tuple[Expr, ...]:
        return (*self.outer[: self.axis], at, *self.outer[self.axis :])

    def read(self, body: list[Stmt], at: Expr) -> Expr:
        return self.inliner.scope(body).read(self.node.inputs[0], self.index(at))

    def let(self, body: list[Stmt], value: Expr, hint: str) -> Var:
        var = Var(self.inliner.fresh(hint), value.dtype)
        body.append(Let(var, value))
        return var

    def variable(self, hint: str, value: Expr) -> Buffer:
        """A variable that may change."""
        buffer = Buffer(self.inliner.fresh(hint), value.dtype, 1, "register", True)
        self.statements += [Alloc(buffer), Store(buffer, const(0), value)]
        return buffer

    def write(self, body: list[Stmt], at: Expr, value: Expr, place: Expr) -> None:
        """One pair of results."""
        scope = self.inliner.scope(body)
        for output, element in zip(self.node.outputs, (value, place), strict=True):
            scope.store(output, output.shape, self.index(at), element)

    def last_of_all(self) -> Expr:
        """A value that comes before no other."""
        dtype = self.node.outputs[0].dtype
        if dtype.is_float and not self.node["largest"]:
            return build.const(math.nan, dtype)
        return build.const(identity("max" if self.node["largest"] else "min", dtype), dtype)

    def before(self, a: Expr, b: Expr) -> Expr:
        """Whether a comes before b however they stand."""
        first = build.call("gt" if self.node["largest"] else "lt", a, b)
        if not a.dtype.is_float:
            return first
        a, b = (a, b) if self.node["largest"] else (b, a)
        return build.call(
            "or", first, build.call("and", build.call("isnan", a), build.call("not", build.call("isnan", b)))
        )


def lower_topk(group: Group, target) -> Sequence[KernelCall]:
    """One grid iteration for each line along the axis."""
    node = group.root
    source, axis, k = node.inputs[0], node["axis"], node["k"]
    inliner = Inliner(group)
    item, statements = inliner.loop("g"), []
    kept = [d for a, d in enumerate(source.shape) if a != axis]
    lines, extent = product(kept), source.shape[axis]
    outer = list(unravel(inliner, item, kept, statements))
    line = _Line(inliner, node, item, outer, statements)
    if isinstance(k, int) and 0 < k <= FEW:
        _select(line, extent, _List.empty(line, k))
    elif isinstance(k, int) and k <= MANY and not (isinstance(extent, int) and 4 * k > extent):
        _select(line, extent, _Heap.filled(line, k))
    else:
        _merge(line, extent, k, lines)
    work = (bounds(extent)[1] or 1024) * 8
    loop = For(item, inliner.size(lines), tuple(statements), "grid")
    return [inliner.call("topk", [loop], lines, max(1, GRAIN // max(1, work)))]


@dataclass(slots=True)
class _Heap:
    """The best k so far in local memory, the last of them at the root, each before its parent.

    It is full from the start of what comes after everything.
    """

    line: _Line
    size: int
    values: Buffer
    places: Buffer
    at: Buffer

    @classmethod
    def filled(cls, line: _Line, size: int) -> _Heap:
        dtype, room = line.node.outputs[0].dtype, max(size, 1)
        values = Buffer(line.inliner.fresh("values"), dtype, room, "local", True)
        places = Buffer(line.inliner.fresh("places"), i64, room, "local", True)
        clear = line.inliner.loop("z")
        none = (Store(values, clear, line.last_of_all()), Store(places, clear, const(NOWHERE)))
        line.statements += [Alloc(values), Alloc(places), For(clear, const(room), none)]
        return cls(line, size, values, places, line.variable("at", const(0)))

    def after(self, body: list[Stmt], a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> Expr:
        """Whether pair a (value, place) comes after pair b; equal values stand as their places do."""
        later, sooner = self.line.before(b[0], a[0]), self.line.before(a[0], b[0])
        equal = build.call("and", build.call("not", sooner), build.call("gt", a[1], b[1]))
        return self.line.let(body, build.call("or", later, equal), "after")

    def pair(self, body: list[Stmt], at: Expr) -> tuple[Expr, Expr]:
        value = self.line.let(body, Load(self.values, at), "value")
        return value, self.line.let(body, Load(self.places, at), "place")

    def replace_root(self, body: list[Stmt], new: tuple[Expr, Expr], size: Expr) -> None:
        """Take the root out of the first `size` pairs and put a new one in, at its place."""
        zero, level, down = const(0), self.line.inliner.loop("level"), []
        here = self.line.let(down, Load(self.at, zero), "here")
        left = self.line.let(down, add(mul(here, const(2)), const(1)), "left")
        inside: list[Stmt] = []
        right = minimum(add(left, const(1)), sub(size, const(1)))
        right = self.line.let(inside, right, "right")
        a, b = self.pair(inside, left), self.pair(inside, right)
        other = self.after(inside, b, a)
        child = self.line.let(inside, build.select(other, right, left), "child")
        value = self.line.let(inside, build.select(other, b[0], a[0]), "value")
        place = self.line.let(inside, build.select(other, b[1], a[1]), "place")
        lower = self.after(inside, (value, place), new)
        lift = (Store(self.values, here, value), Store(self.places, here, place), Store(self.at, zero, child))
        inside.append(If(lower, lift))
        down.append(If(less(left, size), tuple(inside)))
        final: list[Stmt] = []
        end = self.line.let(final, Load(self.at, zero), "end")
        body += [Store(self.at, zero, zero), For(level, const(self.size.bit_length()), tuple(down))]
        body += [*final, Store(self.values, end, new[0]), Store(self.places, end, new[1])]

    def worst(self) -> Expr:
        return Load(self.values, const(0))

    def offer(self, body: list[Stmt], element: Expr, step: Expr) -> None:
        put: list[Stmt] = []
        self.replace_root(put, (element, step), const(self.size))
        root = self.pair(body, const(0))
        body.append(If(self.after(body, root, (element, step)), tuple(put)))

    def drain(self) -> None:
        """The results, from the last on, each of them the root in its turn."""
        out, body = self.line.inliner.loop("o"), []
        slot = self.line.let(body, sub(const(self.size - 1), out), "slot")
        self.line.write(body, slot, *self.pair(body, const(0)))
        self.replace_root(body, self.pair(body, slot), slot)
        self.line.statements.append(For(out, const(self.size), tuple(body)))


@dataclass(slots=True)
class _List:
    """The best few so far in order, in registers; which of them move is told without a branch."""

    line: _Line
    size: int
    values: Buffer
    places: Buffer

    @classmethod
    def empty(cls, line: _Line, size: int) -> _List:
        values = Buffer(line.inliner.fresh("values"), line.node.outputs[0].dtype, size, "register", True)
        places = Buffer(line.inliner.fresh("places"), i64, size, "register", True)
        line.statements += [Alloc(values), Alloc(places)]
        for slot in map(const, range(size)):
            line.statements += [Store(values, slot, line.last_of_all()), Store(places, slot, const(0))]
        return cls(line, size, values, places)

    def worst(self) -> Expr:
        return Load(self.values, const(self.size - 1))

    def moves(self, body: list[Stmt], slot: int, element: Expr, step: Expr) -> Expr:
        """Whether a slot is free or what is in it comes after the new element."""
        later = self.line.before(element, Load(self.values, const(slot)))
        return self.line.let(body, build.call("or", later, build.call("le", step, const(slot))), "moves")

    def offer(self, body: list[Stmt], element: Expr, step: Expr) -> None:
        enters = self.moves(body, self.size - 1, element, step)
        inner: list[Stmt] = []
        moves = [*(self.moves(inner, s, element, step) for s in range(self.size - 1)), enters]
        stores = []
        for buffer, new in ((self.values, element), (self.places, step)):
            old = [self.line.let(inner, Load(buffer, const(s)), "old") for s in range(self.size)]
            for s in range(self.size):
                come = build.select(moves[s - 1], old[s - 1], new) if s else new
                stores.append(Store(buffer, const(s), build.select(moves[s], come, old[s])))
        body.append(If(enters, (*inner, *stores)))

    def drain(self) -> None:
        for slot in map(const, range(self.size)):
            self.line.write(self.line.statements, slot, Load(self.values, slot), Load(self.places, slot))


def _select(line: _Line, extent: Dim, best: _Heap | _List) -> None:
    """Pieces of the line in which an element may be among the best so far are gone through one by one."""
    inliner, zero = line.inliner, const(0)
    some = line.variable("some", build.const(0, i32))
    piece, size = inliner.loop("c"), inliner.size(extent)
    stop = minimum(add(piece, const(PIECE)), size)
    body: list[Stmt] = [Store(some, zero, build.const(0, i32))]
    worst = line.let(body, best.worst(), "worst")
    look, first = inliner.loop("r"), []
    enters = build.cast(build.call("not", line.before(worst, line.read(first, look))), i32)
    first.append(Update(some, zero, "max", enters))
    body.append(For(look, stop, tuple(first), "vector", piece))
    step, each = inliner.loop("r"), []
    best.offer(each, line.read(each, step), step)
    found = build.call("gt", Load(some, zero), build.const(0, i32))
    body.append(If(found, (For(step, stop, tuple(each), "serial", piece),)))
    line.statements.append(For(piece, size, tuple(body), "serial", zero, PIECE))
    best.drain()


def _merge(line: _Line, extent: Dim, k: Dim, lines: Dim) -> None:
    """Bottom-up merge sort of the places, to and fro between the two halves of scratch memory."""
    inliner, statements, zero = line.inliner, line.statements, const(0)
    order = inliner.buffer(Temporary("order", i64, lines * 2 * extent), writable=True)
    size = inliner.size(extent)
    base = line.let(statements, mul(line.item, mul(size, const(2))), "base")
    fill = inliner.loop("i")
    statements.append(For(fill, size, (Store(order, add(base, fill), fill),), "vector"))
    side = line.variable("side", zero)
    left, right = line.variable("left", zero), line.variable("right", zero)
    level = inliner.loop("level")
    work: list[Stmt] = []
    width = line.let(work, build.call("shift_left", const(1), level), "width")
    here = line.let(work, add(base, mul(Load(side, zero), size)), "here")
    there = line.let(work, add(base, mul(sub(const(1), Load(side, zero)), size)), "there")
    pair, body = inliner.loop("p"), []
    low = line.let(body, mul(mul(pair, width), const(2)), "low")
    middle = line.let(body, minimum(add(low, width), size), "middle")
    high = line.let(body, minimum(add(middle, width), size), "high")
    body += [Store(left, zero, low), Store(right, zero, middle)]
    body.append(_merged(line, order, (left, right), (here, there), (low, middle, high)))
    pairs = build.floordiv(add(size, sub(mul(width, const(2)), const(1))), mul(width, const(2)))
    work += [For(pair, pairs, tuple(body)), Store(side, zero, sub(const(1), Load(side, zero)))]
    narrow = less(build.call("shift_left", const(1), level), size)
    statements.append(For(level, const(LEVELS), (If(narrow, tuple(work)),)))
    out, last = inliner.loop("o"), []
    place = line.let(last, Load(order, add(add(base, mul(Load(side, zero), size)), out)), "place")
    line.write(last, out, line.read(last, place), place)
    statements.append(For(out, inliner.size(k), tuple(last)))


def _merged(line: _Line, order: Buffer, pointers, sides, limits) -> For:
    """Two sorted runs written as one; the left one goes first where elements are equal."""
    zero, (left, right), (here, there), (low, middle, high) = const(0), pointers, sides, limits
    out, body = line.inliner.loop("o"), []
    i, j = line.let(body, Load(left, zero), "i"), line.let(body, Load(right, zero), "j")
    a = line.let(body, Load(order, add(here, minimum(i, sub(middle, const(1))))), "a")
    b = line.let(body, Load(order, add(here, minimum(j, sub(high, const(1))))), "b")
    later = line.before(line.read(body, b), line.read(body, a))
    keeps = build.call("or", build.call("ge", j, high), build.call("not", later))
    body.append(
        If(
            build.call("and", less(i, middle), keeps),
            (Store(order, add(there, out), a), Store(left, zero, add(i, const(1)))),
            (Store(order, add(there, out), b), Store(right, zero, add(j, const(1)))),
        )
    )
    return For(out, high, tuple(body), "serial", low)
