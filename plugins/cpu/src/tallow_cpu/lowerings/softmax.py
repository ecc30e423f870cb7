"""Softmax and log_softmax along the last axis, in three ways by the length of a row.

Short rows stay in registers, several at a time so that the steps across lanes of one hide behind those
of another. Rows of the first cache go through it: the maximum, the exponentials and their sum, the
quotients. Longer rows go block by block with the maximum so far, so that memory is read once
while exponentials are computed (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tallow.backend import Target
from tallow.dim import bounds, ceildiv, product
from tallow.kernel import build
from tallow.kernel.build import add, call, const, less, minimum, mul, select
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Load, Prefetch, Stmt, Store, Update
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.decay import decay
from tallow_cpu.lowerings.tile import is_roomy

TOGETHER = 4  # short rows at a time, at most
SCRATCH = 1 << 14  # elements of a row that a thread keeps where the result cannot keep them
BLOCK = 1024  # elements: a page
LONG = 4 * BLOCK  # elements from which rows go block by block
MOST_BLOCKS = 4096
COST = 12  # of an element, in simple operations

Index = tuple[Expr, ...]


def lower_softmax(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """softmax and log_softmax with whatever is fused before and after."""
    node = group.root
    if not node.inputs[0].rank or node["axis"] != node.inputs[0].rank - 1:
        return Declined(f"{node.op} along an axis that is not the last")
    kind, length = accumulator(node.inputs[0].dtype), node.inputs[0].shape[-1]
    lanes = max(1, target.vector_bytes // kind.itemsize)
    room = 12 if is_roomy(target) else 4  # vectors that may stay in registers
    if isinstance(length, int) and 0 < length <= min(room, 8) * lanes:
        return _Short(group, lanes, room).calls()
    most = bounds(length)[1]
    plain = not group.epilogue and node.output.dtype == kind
    if not plain and (most is None or most > SCRATCH):
        return Declined(f"{node.op} with narrow floats or an epilogue, of rows longer than {SCRATCH}")
    if plain and most is not None and LONG < most <= BLOCK * MOST_BLOCKS:
        return _Long(group, -(-most // BLOCK)).calls()
    return _Row(group, None if plain else most).calls()


class _Softmax:
    """A kernel while it is written: an iteration of the grid computes some neighbouring rows."""

    def __init__(self, group: Group, together: int = 1):
        self.group, self.node = group, group.root
        self.inliner = inliner = Inliner(group)
        self.source, self.result = self.node.inputs[0], self.node.output
        self.kind = accumulator(self.source.dtype)
        self.logarithm = self.node.op == "log_softmax"
        self.together, self.lead = together, self.source.shape[:-1]
        self.grid = ceildiv(product(self.lead), together)
        self.length = inliner.size(self.source.shape[-1])
        self.item = inliner.loop("g")
        self.body: list[Stmt] = []
        self.rows = [self.row(r) for r in range(together)]

    def row(self, number: int) -> Index:
        """The index of a row; rows beyond the last are the last once more."""
        at: Expr = self.item
        if self.together > 1:
            last = self.inliner.size(product(self.lead) - 1)
            at = self.let(minimum(add(mul(self.item, const(self.together)), const(number)), last), "row")
        return tuple(unravel(self.inliner, at, self.lead, self.body))

    def let(self, value: Expr, hint: str, body: list[Stmt] | None = None) -> Expr:
        return self.inliner.let(self.body if body is None else body, value, hint)

    def register(self, hint: str, value: float) -> Buffer:
        buffer = Buffer(self.inliner.fresh(hint), self.kind, 1, "register", True)
        self.body += [Alloc(buffer), Store(buffer, const(0), const(value, self.kind))]
        return buffer

    def buffer(self, hint: str, size: int, space: str) -> Buffer:
        buffer = Buffer(self.inliner.fresh(hint), self.kind, size, space, True)
        self.body.append(Alloc(buffer))
        return buffer

    def read(self, body: list[Stmt], index: Index, guard: Expr | None = None) -> Expr:
        element = self.inliner.scope(body).read(self.source, index, guard)
        return self.let(build.cast(element, self.kind), "x", body)

    def each(
        self, write: Callable[[list[Stmt], Expr], None], stop: Expr | None = None, start: Expr | None = None
    ) -> For:
        """A vector loop along the row, or a part of it."""
        column = self.inliner.loop("i")
        body: list[Stmt] = []
        write(body, column)
        stop = self.length if stop is None else stop
        return For(column, stop, tuple(body), "vector", const(0) if start is None else start)

    def decay(self, body: list[Stmt], x: Expr, top: Expr) -> Expr:
        return self.let(decay(body, self.inliner.fresh, call("sub", x, top)), "e", body)

    def finished(self, kept: Expr, top: Expr, last: Expr) -> Expr:
        """The result of what was kept of an element: its exponential, or for log_softmax itself."""
        return call("sub", call("sub", kept, top), last) if self.logarithm else call("mul", kept, last)

    def last(self, total: Expr) -> Expr:
        """What finishes a row with the sum of its exponentials."""
        value = call("log", total) if self.logarithm else call("div", const(1, self.kind), total)
        return self.let(value, "last")

    def store(self, body: list[Stmt], index: Index, value: Expr) -> None:
        """A result through the epilogue."""
        done = self.let(build.cast(value, self.result.dtype), "y", body)
        scope = self.inliner.scope(body, {self.result: lambda _: done})
        for output in self.group.outputs:
            scope.store(output, output.shape, index, scope.read(output, index))

    def calls(self) -> Sequence[KernelCall]:
        self.write()
        size = self.source.type.size
        work = (bounds(self.source.shape[-1])[1] or 128) * COST * self.together
        loop = For(self.item, self.inliner.size(self.grid), tuple(self.body), "grid")
        flops = size * COST + count_flops(self.group)
        return [self.inliner.call("softmax", [loop], self.grid, max(1, GRAIN // max(1, work)), flops)]

    def write(self) -> None:
        raise NotImplementedError


class _Short(_Softmax):
    """Rows of a few vectors, which are filled up with elements that add nothing."""

    def __init__(self, group: Group, lanes: int, room: int):
        length = group.root.inputs[0].shape[-1]
        self.vectors = -(-length // lanes)
        self.padded = self.vectors * lanes
        rows = bounds(product(group.root.inputs[0].shape[:-1]))[1]
        together = max(1, min(TOGETHER, room // self.vectors))
        super().__init__(group, together if rows is None or rows >= together else 1)

    def write(self) -> None:
        kept = [self.buffer("kept", self.padded, "register") for _ in self.rows]
        tops = [self.register("top", -math.inf) for _ in self.rows]
        totals = [self.register("total", 0) for _ in self.rows]
        stop = const(self.padded)
        least = const(-math.inf, self.kind)

        def gather(body: list[Stmt], i: Expr) -> None:
            inside = (
                None if self.padded == self.source.shape[-1] else self.let(less(i, self.length), "in", body)
            )
            for row, memory, top in zip(self.rows, kept, tops, strict=True):
                x = self.read(body, (*row, i), inside)
                x = x if inside is None else self.let(select(inside, x, least), "x", body)
                body += [Store(memory, i, x), Update(top, const(0), "max", x)]

        self.body.append(self.each(gather, stop))
        high = [self.let(Load(top, const(0)), "high") for top in tops]

        def powers(body: list[Stmt], i: Expr) -> None:
            for memory, top, total in zip(kept, high, totals, strict=True):
                e = self.decay(body, Load(memory, i), top)
                body += [] if self.logarithm else [Store(memory, i, e)]
                body.append(Update(total, const(0), "add", e))

        self.body.append(self.each(powers, stop))
        last = [self.last(Load(total, const(0))) for total in totals]

        def scale(body: list[Stmt], i: Expr) -> None:
            inside: list[Stmt] = []
            for row, memory, top, factor in zip(self.rows, kept, high, last, strict=True):
                value = self.let(self.finished(Load(memory, i), top, factor), "y", body)
                self.store(inside, (*row, i), value)
            whole = self.padded == self.source.shape[-1]
            body += inside if whole else [If(less(i, self.length), tuple(inside))]

        self.body.append(self.each(scale, stop))


class _Row(_Softmax):
    """A row through the near cache: what is kept of it stays in the result, or else in `scratch` elements."""

    def __init__(self, group: Group, scratch: int | None):
        super().__init__(group)
        self.scratch = scratch

    def write(self) -> None:
        (row,) = self.rows
        top, total = self.register("top", -math.inf), self.register("total", 0)
        if self.scratch is None:
            kept, begin = self.inliner.buffer(self.result, writable=True), self.begin(row)
        else:
            kept, begin = self.buffer("kept", self.scratch, "local"), const(0)
        computed = bool(self.group.prologue)  # once

        def highest(body: list[Stmt], i: Expr) -> None:
            x = self.read(body, (*row, i))
            body += [Store(kept, add(begin, i), x)] if computed else []
            body.append(Update(top, const(0), "max", x))

        self.body.append(self.each(highest))
        high = self.let(Load(top, const(0)), "high")

        def element(body: list[Stmt], i: Expr) -> Expr:
            return Load(kept, add(begin, i)) if computed else self.read(body, (*row, i))

        def powers(body: list[Stmt], i: Expr) -> None:
            e = self.decay(body, element(body, i), high)
            body.append(self.keep(kept, add(begin, i), e))
            body.append(Update(total, const(0), "add", e))

        self.body.append(self.each(powers))
        last = self.last(Load(total, const(0)))

        def scale(body: list[Stmt], i: Expr) -> None:
            x = element(body, i) if self.logarithm else Load(kept, add(begin, i))
            self.store(body, (*row, i), self.finished(self.let(x, "k", body), high, last))

        self.body.append(self.each(scale))

    def keep(self, kept: Buffer, place: Expr, e: Expr) -> Stmt:
        """The store of an exponential; log_softmax needs none, but its results will go there."""
        return Prefetch(kept, place, True) if self.logarithm else Store(kept, place, e)

    def begin(self, row: Index) -> Expr:
        return self.let(self.inliner.linear(self.result.shape, (*row, const(0))), "begin")


class _Long(_Row):
    """A row of `blocks` blocks at most: exponentials are below the maximum so far, which is noted for each."""

    def __init__(self, group: Group, blocks: int):
        super().__init__(group, None)
        self.blocks = blocks

    def write(self) -> None:
        (row,) = self.rows
        self.kept, self.start = self.inliner.buffer(self.result, writable=True), self.begin(row)
        self.top, self.total = self.register("top", -math.inf), self.register("total", 0)
        self.grounds = self.buffer("grounds", self.blocks, "local")
        self.body.append(self.over_blocks(self.gather))
        self.high = self.let(Load(self.top, const(0)), "high")
        self.factor = self.last(Load(self.total, const(0)))
        self.body.append(self.over_blocks(self.finish))

    def element(self, body: list[Stmt], i: Expr) -> Expr:
        """An operand's element; one that was computed is kept in the result."""
        computed = bool(self.group.prologue)
        return Load(self.kept, add(self.start, i)) if computed else self.read(body, (*self.rows[0], i))

    def gather(self, block: Expr, first: Expr, stop: Expr) -> list[Stmt]:
        """The maximum with a block, and the exponentials below it; the sum so far goes down to it."""
        body: list[Stmt] = []
        zero = const(0)
        old = self.let(Load(self.top, zero), "old", body)

        def highest(inner: list[Stmt], i: Expr) -> None:
            x = self.read(inner, (*self.rows[0], i))
            inner += [Store(self.kept, add(self.start, i), x)] if self.group.prologue else []
            inner.append(Update(self.top, zero, "max", x))

        body.append(self.each(highest, stop, first))
        new = self.let(Load(self.top, zero), "new", body)
        lower: list[Stmt] = []
        fade = self.decay(lower, old, new)
        lower.append(Store(self.total, zero, call("mul", Load(self.total, zero), fade)))
        body.append(If(call("gt", new, old), tuple(lower)))
        nothing = call("eq", new, const(-math.inf, self.kind))
        ground = self.let(select(nothing, const(0, self.kind), new), "ground", body)

        def powers(inner: list[Stmt], i: Expr) -> None:
            e = self.decay(inner, self.element(inner, i), ground)
            inner.append(self.keep(self.kept, add(self.start, i), e))
            inner.append(Update(self.total, zero, "add", e))

        return [*body, self.each(powers, stop, first), Store(self.grounds, block, new)]

    def finish(self, block: Expr, first: Expr, stop: Expr) -> list[Stmt]:
        """The results of a block."""
        body: list[Stmt] = []
        factor = self.factor
        if not self.logarithm:
            fade = self.decay(body, Load(self.grounds, block), self.high)
            factor = self.let(call("mul", fade, self.factor), "factor", body)

        def scale(inner: list[Stmt], i: Expr) -> None:
            x = self.element(inner, i) if self.logarithm else Load(self.kept, add(self.start, i))
            self.store(inner, (*self.rows[0], i), self.finished(self.let(x, "k", inner), self.high, factor))

        return [*body, self.each(scale, stop, first)]

    def over_blocks(self, write: Callable[[Expr, Expr, Expr], list[Stmt]]) -> For:
        b = self.inliner.loop("b")
        body: list[Stmt] = []
        start = self.let(mul(b, const(BLOCK)), "start", body)
        stop = self.let(minimum(add(start, const(BLOCK)), self.length), "stop", body)
        count = build.floordiv(add(self.length, const(BLOCK - 1)), const(BLOCK))
        return For(b, count, (*body, *write(b, start, stop)))
