"""Lines: work that goes along some axes of a value and keeps few numbers, as sums, softmax and norms do.

A device with vectors gives each line a thread. Any other gives it some threads of a group, which go through
it side by side and put together what each has found: neighbours exchange it where the target has sub-groups, and
what remains meets in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tallow.dim import Dim, bounds, ceildiv, product
from tallow.dtype import DType
from tallow.graph import Value
from tallow.kernel import build
from tallow.kernel.build import add, const, floordiv, less, minimum, mod, mul, sub
from tallow.kernel.grammar import (
    Alloc,
    Barrier,
    Buffer,
    Exchange,
    Expr,
    For,
    If,
    Load,
    Stmt,
    Store,
    Update,
    Var,
)
from tallow.kernel.updates import combine
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, unravel
from tallow.lower.reduce import accumulator, identity
from tallow.lower.workgroup.tile import threads
from tallow.target import Target

FEW = 4  # elements that each thread of a line should have at least
LEAST = 64  # threads of a group that short lines share
WORK = 2048  # elements of the lines that one thread with vectors goes through
LONG = 512  # a length that only the run can tell

Write = Callable[[list[Stmt], tuple[Expr, ...]], None]
Join = Callable[[list[Expr], list[Expr]], list[Expr]]


class Line:
    """One kernel over the lines along `axes` of a value, while it is written."""

    def __init__(self, group: Group, target: Target, source: Value, axes: Sequence[int]):
        self.group, self.inliner, self.source, self.axes = group, Inliner(group), source, tuple(axes)
        self.kept = [axis for axis in range(source.rank) if axis not in axes]
        self.lead = [source.shape[axis] for axis in self.kept]
        self.tail = [source.shape[axis] for axis in self.axes]
        self.kind = accumulator(source.dtype)
        self.vectors = target.vector_bytes > 0
        self.lanes, self.rows = _share(self.tail, threads(target))
        if self.vectors:
            self.lanes, self.rows = 1, max(1, WORK // max(bounds(product(self.tail))[1] or LONG, 1))
        wide = target.limits.get("subgroup", 1)
        whole = not self.vectors and self.lanes * self.rows % wide == 0 and self.lanes <= wide * wide
        self.neighbours = wide if whole else 1
        self.statements: list[Stmt] = []
        self.shared: dict[tuple[int, DType], Buffer] = {}
        self.item, self.thread = self.inliner.loop("g"), self.inliner.loop("t")
        self._locate()

    def _locate(self) -> None:
        self.row = self.inliner.loop("row")
        row: Expr = self.row
        self.lane: Expr = const(0)
        self.own: Expr | None = None
        if not self.vectors:
            self.lane = self.let(mod(self.thread, const(self.lanes)), "lane")
            first = add(mul(self.item, const(self.rows)), floordiv(self.thread, const(self.lanes)))
            row = self.let(first, "row")
            count = self.inliner.size(product(self.lead))
            if self.rows > 1:
                self.own = less(row, count)
                row = self.let(minimum(row, sub(count, const(1))), "row")
        self.outer = unravel(self.inliner, row, self.lead, self.statements)

    # Writing ---------------------------------------------------------------------------------------

    def let(self, value: Expr, hint: str) -> Expr:
        return self.inliner.let(self.statements, value, hint)

    def index(self, body: list[Stmt], at: Expr) -> tuple[Expr, ...]:
        """The source's index of element `at` of the line."""
        index: list[Expr] = [const(0)] * self.source.rank
        for axis, place in zip(self.kept, self.outer, strict=True):
            index[axis] = place
        for axis, place in zip(self.axes, unravel(self.inliner, at, self.tail, body), strict=True):
            index[axis] = place
        return tuple(index)

    def each(self, write: Write) -> None:
        """Go through the line: `write(body, index)` says what is done with an element."""
        at = self.inliner.loop("i")
        body: list[Stmt] = []
        write(body, self.index(body, at))
        stop = self.inliner.size(product(self.tail))
        if self.vectors:
            self.statements.append(For(at, stop, tuple(body), "vector"))
        else:
            self.statements.append(For(at, stop, tuple(body), "serial", self.lane, self.lanes))

    def each_own(self, write: Write) -> None:
        """`each`, by the threads whose line there is: for what is written to memory."""
        outside, self.statements = self.statements, []
        self.each(write)
        body, self.statements = tuple(self.statements), outside
        self.statements += [If(self.own, body)] if self.own is not None else body

    def once(self, write: Callable[[list[Stmt]], None]) -> None:
        """What one thread of each line does."""
        body: list[Stmt] = []
        write(body)
        if not self.vectors:
            first = build.call("eq", self.lane, const(0))
            body = [If(first if self.own is None else build.logical_and(self.own, first), tuple(body))]
        self.statements += body

    def read(self, body: list[Stmt], index: tuple[Expr, ...]) -> Expr:
        return build.cast(self.inliner.scope(body).read(self.source, index), self.kind)

    def fold(
        self, op: str, value: Callable[[list[Stmt], tuple[Expr, ...]], Expr], kind: DType | None = None
    ) -> Expr:
        """All values along the line put together; every thread has the result."""
        kind = kind or self.kind
        total = Buffer(self.inliner.fresh("total"), kind, 1, "register", True)
        self.statements += [Alloc(total), Store(total, const(0), const(identity(op, kind), kind))]

        def write(body: list[Stmt], index: tuple[Expr, ...]) -> None:
            body.append(Update(total, const(0), op, build.cast(value(body, index), kind)))

        self.each(write)
        (found,) = self.meet([total], lambda one, other: [combine(op, one[0], other[0], 1, kind)])
        return found

    def meet(self, parts: Sequence[Buffer], join: Join) -> list[Expr]:
        """What the line's threads have in registers, joined by twos; every thread has the result."""
        if self.lanes > 1 and self.neighbours == 1:
            return self.meet_in_memory(parts, join)
        found = [self.let(Load(part, const(0)), "all") for part in parts]
        found = self.exchange(found, min(self.lanes, self.neighbours), join)
        return found if self.lanes <= self.neighbours else self.meet_others(found, join)

    def exchange(self, found: list[Expr], count: int, join: Join) -> list[Expr]:
        """What `count` neighbours have, joined by twos; each has the result."""
        distance = count // 2
        while distance:
            other = []
            for value in found:
                there = Var(self.inliner.fresh("there"), value.dtype)
                self.statements.append(Exchange(there, value, distance))
                other.append(there)
            found = [self.let(e, "all") for e in join(found, other)]
            distance //= 2
        return found

    def meet_others(self, found: list[Expr], join: Join) -> list[Expr]:
        """What the sub-groups of a line have, by way of shared memory, which each reads as a whole."""
        many, body = self.lanes // self.neighbours, self.statements
        places = [self.memory(n, value.dtype) for n, value in enumerate(found)]
        mine = floordiv(self.thread, const(self.neighbours))
        stores = tuple(Store(place, mine, value) for place, value in zip(places, found, strict=True))
        first = build.call("eq", mod(self.thread, const(self.neighbours)), const(0))
        body += [If(first, stores), Barrier()]
        line = mul(floordiv(self.thread, const(self.lanes)), const(many))
        at = self.let(add(line, mod(self.thread, const(many))), "at")
        found = [self.let(Load(place, at), "all") for place in places]
        body.append(Barrier())  # before the memory is used again
        return self.exchange(found, many, join)

    def meet_in_memory(self, parts: Sequence[Buffer], join: Join) -> list[Expr]:
        """What single threads have, joined in shared memory."""
        zero, body = const(0), self.statements
        places = [self.memory(n, part.dtype) for n, part in enumerate(parts)]
        body += [
            Store(place, self.thread, Load(part, zero)) for part, place in zip(parts, places, strict=True)
        ]
        body.append(Barrier())
        half = self.lanes // 2
        while half:
            inner: list[Stmt] = []
            there = add(self.thread, const(half))
            one, other = (
                [self.inliner.let(inner, Load(p, at), "v") for p in places] for at in (self.thread, there)
            )
            joined = [self.inliner.let(inner, e, "v") for e in join(one, other)]
            inner += [Store(place, self.thread, e) for place, e in zip(places, joined, strict=True)]
            body += [If(less(self.lane, const(half)), tuple(inner)), Barrier()]
            half //= 2
        first = self.let(sub(self.thread, self.lane), "first")
        found = [self.let(Load(place, first), "all") for place in places]
        body.append(Barrier())  # before the memory is used again
        return found

    def memory(self, number: int, dtype: DType) -> Buffer:
        """Shared memory of one element for each sub-group, or for each thread where there are none."""
        key = (number, dtype)
        if key not in self.shared:
            name = self.inliner.fresh("shared")
            self.shared[key] = Buffer(name, dtype, self.lanes * self.rows // self.neighbours, "shared", True)
        return self.shared[key]

    def finish(self, name: str, cost: int, flops: Dim) -> Sequence[KernelCall]:
        """The kernel; `cost` is arithmetic of one element."""
        grid = ceildiv(product(self.lead), self.rows)
        body = tuple(self.statements)
        if self.vectors:
            first = mul(self.item, const(self.rows))
            stop = minimum(add(first, const(self.rows)), self.inliner.size(product(self.lead)))
            body = (For(self.row, stop, body, "serial", first),)
        else:
            group = For(self.thread, const(self.lanes * self.rows), body, "group")
            body = (*(Alloc(b) for b in self.shared.values()), group)
        work = (bounds(product(self.tail))[1] or 128) * cost * self.rows
        loop = For(self.item, self.inliner.size(grid), body, "grid")
        return [self.inliner.call(name, [loop], grid, max(1, GRAIN // max(1, work)), flops)]


def _share(tail: Sequence[Dim], most: int) -> tuple[int, int]:
    """Threads of a line, and lines of a group."""
    length = bounds(product(tail))[1]
    wanted = -(-(LONG if length is None else max(length, 1)) // FEW)
    lanes = 1
    while lanes < wanted and lanes < most:
        lanes *= 2
    return lanes, max(1, min(LEAST, most) // lanes)
