"""Contractions of few columns: vectors lie along the sum, whose lanes are added at its end.

A grid iteration makes a piece of a line of neighbouring rows. Rows whose windows lie inside go several
at a time, so that each weight is loaded once for all of them; at the ends of a picture's line rows go
one by one, what lies outside masked off. Weights are panels of one column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tallow.backend import Target
from tallow.dim import Dim, bounds, ceildiv, product
from tallow.graph import Value
from tallow.kernel import build
from tallow.kernel.build import add, const, maximum, minimum, mul, select, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, Let, Load, Reduce, Stmt, Store, Update, Var
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.blocking import evenly
from tallow_cpu.lowerings.tile import PARALLEL_FLOPS, registers
from tallow_cpu.lowerings.window import interior, span

PIECE = 64  # rows of a grid iteration
TOGETHER = 8  # rows at a time, at most
FEW = 4  # vectors of a run that are written out

Index = tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Lines:
    """Rows as the windows of pictures: x read as [images, *spatial, channels].

    results: how many windows there are on each spatial axis. index(inliner, body, image, spatial, column):
    where a sum belongs.
    """

    x: Value
    shape: tuple[Dim, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[Dim, Dim], ...]
    dilations: tuple[int, ...]
    groups: int
    results: tuple[Dim, ...]
    index: Callable[[Inliner, list[Stmt], Expr, Index, Expr], Index]

    @property
    def merged(self) -> bool:
        """Whether a line of the window lies side by side in memory."""
        return self.groups == 1 and self.dilations[-1] == 1

    @property
    def looped(self) -> tuple[int, ...]:
        """The window over whose taps there are loops; each tap is a run of neighbours."""
        return self.kernel[:-1] if self.merged else self.kernel

    @property
    def run(self) -> int:
        return (self.kernel[-1] if self.merged else 1) * self.shape[-1] // self.groups


def lower_dots(group: Group, target: Target, name: str, lines: Lines) -> Sequence[KernelCall]:
    """A contraction with weights [groups, columns, K, 1]."""
    return _Dots(group, target, lines).call(name)


class _Dots:
    """One kernel while it is written."""

    def __init__(self, group: Group, target: Target, lines: Lines):
        self.group, self.lines = group, lines
        self.root = group.root.output
        self.inliner = inliner = Inliner(group)
        _, self.columns, self.depth, _ = group.root.inputs[1].shape
        self.data, self.weights = inliner.buffer(lines.x), inliner.buffer(group.root.inputs[1])
        self.kind = accumulator(lines.x.dtype)
        self.lanes = max(target.vector_bytes, 16) // self.kind.itemsize
        sums = TOGETHER * self.columns
        while sums > max(registers(target), self.columns):
            sums //= 2
        self.together = max(1, sums // self.columns)
        self.width = lines.results[-1]
        self.piece = evenly(max(self.width, 1), PIECE) if isinstance(self.width, int) else PIECE

    def call(self, name: str) -> Sequence[KernelCall]:
        inliner, lines = self.inliner, self.lines
        pieces = ceildiv(self.width, self.piece)
        outer = (lines.shape[0], *lines.results[:-1], lines.groups, pieces)
        grid = product(outer)
        item = inliner.loop("g")
        body: list[Stmt] = []
        self.image, *self.above, self.group_at, piece = unravel(inliner, item, outer, body)
        first = inliner.let(body, mul(piece, const(self.piece)), "first")
        stop = inliner.let(body, minimum(add(first, const(self.piece)), inliner.size(self.width)), "stop")
        self.spans = [self.span(body, axis, at) for axis, at in enumerate(self.above)]
        body += self.line(first, stop)
        per_row = 2 * self.columns * self.depth
        flops = product((lines.shape[0], lines.groups, *lines.results)) * per_row + count_flops(self.group)
        work = min(bounds(self.width)[1] or PIECE, PIECE) * per_row
        loop = For(item, inliner.size(grid), tuple(body), "grid")
        return [inliner.call(name, [loop], grid, max(1, PARALLEL_FLOPS // max(1, work)), flops)]

    def span(self, body: list[Stmt], axis: int, at: Expr) -> tuple[Expr, Expr, Expr]:
        """First tap, end of taps and origin of the window at `at` that lie inside an axis."""
        x = self.lines
        low, size = x.pads[axis][0], x.shape[1 + axis]
        return span(self.inliner, body, size, at, low, x.strides[axis], x.dilations[axis], x.kernel[axis])

    def line(self, first: Expr, stop: Expr) -> list[Stmt]:
        """Rows first..stop of a line: several at a time where all is inside, the last of them once more
        rather than fewer; the others one by one."""
        inliner, x, count = self.inliner, self.lines, const(self.together)
        body: list[Stmt] = []
        reach = (x.kernel[-1] - 1) * x.dilations[-1]
        begin, end = interior(inliner, x.shape[-2], self.width, x.pads[-1][0], x.strides[-1], reach)
        begin = inliner.let(body, minimum(maximum(begin, first), stop), "begin")
        end = inliner.let(body, minimum(maximum(end, begin), stop), "end")
        enough = build.call("ge", sub(end, begin), count)
        end = inliner.let(body, select(enough, end, begin), "end")
        at, row = inliner.loop("w"), Var(inliner.fresh("row"))
        tile = self.rows(row, self.together, False)
        body.append(
            For(at, end, (Let(row, minimum(at, sub(end, count))), *tile), "serial", begin, self.together)
        )
        for start, last in ((first, begin), (end, stop)):
            at = inliner.loop("w")
            body.append(For(at, last, tuple(self.rows(at, 1, True)), "serial", start))
        return body

    def rows(self, row: Expr, count: int, at_end: bool) -> list[Stmt]:
        """`count` rows from `row` on; at_end: parts of them may lie outside."""
        inliner, x = self.inliner, self.lines
        total = Buffer(inliner.fresh("acc"), self.kind, count * self.columns * self.lanes, "register", True)
        body: list[Stmt] = [Alloc(total), *(self.zero(total, i) for i in range(count * self.columns))]
        last = len(x.kernel) - 1
        origin = sub(mul(row, const(x.strides[-1])), inliner.size(x.pads[-1][0]))
        spans = list(self.spans)
        if not x.merged:
            inside = (const(0), const(x.kernel[-1]), origin)
            spans.append(self.span(body, last, row) if at_end else inside)
        inner: list[Stmt] = []
        place, tap, loops = self.image, const(0), []
        for axis, (begin, stop, start) in enumerate(spans):
            k = inliner.loop("k")
            at = add(start, mul(k, const(x.dilations[axis])))
            place = add(mul(place, inliner.size(x.shape[1 + axis])), at)
            tap = add(mul(tap, const(x.kernel[axis])), k)
            loops.append((k, begin, stop))
        if x.merged:
            place = add(mul(place, inliner.size(x.shape[-2])), origin)
        channels = const(x.shape[-1])
        base = add(mul(place, channels), mul(self.group_at, const(x.shape[-1] // x.groups)))
        base = inliner.let(inner, base, "base")
        edge = None
        if at_end and x.merged:
            edge = (
                inliner.let(inner, mul(origin, channels), "edge"),
                inliner.size(x.shape[-2] * x.shape[-1]),
            )
        inner += self.run(total, count, base, self.columns_at(inner, tap), edge)
        for k, begin, stop in reversed(loops):
            inner = [For(k, stop, tuple(inner), "serial", begin)]
        return [*body, *inner, *self.finish(total, count, row)]

    def zero(self, total: Buffer, number: int) -> For:
        lane = self.inliner.loop("i")
        place = add(const(number * self.lanes), lane)
        return For(lane, const(self.lanes), (Store(total, place, const(0, self.kind)),), "vector")

    def columns_at(self, body: list[Stmt], tap: Expr) -> list[Expr]:
        """Where the weights of a tap begin, for each column."""
        first = mul(self.group_at, const(self.columns))
        begins = [mul(add(first, const(j)), const(self.depth)) for j in range(self.columns)]
        run = mul(tap, const(self.lines.run))
        return [self.inliner.let(body, add(begin, run), "deep") for begin in begins]

    def run(
        self, total: Buffer, count: int, base: Expr, deep: Sequence[Expr], edge: tuple[Expr, Expr] | None
    ) -> list[Stmt]:
        """Products of a run of neighbours; `edge`: where it begins in the picture's line, and the line's end."""
        whole, rest = divmod(self.lines.run, self.lanes)
        result: list[Stmt] = []
        if whole > FEW:
            k = self.inliner.loop("k")
            step = self.products(total, count, base, deep, edge, k, None)
            result.append(For(k, const(whole * self.lanes), (step,), "serial", const(0), self.lanes))
        else:
            steps = [const(number * self.lanes) for number in range(whole)]
            result += [self.products(total, count, base, deep, edge, k, None) for k in steps]
        if rest:
            k = const(whole * self.lanes)
            result.append(self.products(total, count, base, deep, edge, k, rest))
        return result

    def products(
        self, total: Buffer, count: int, base: Expr, deep: Sequence[Expr], edge, k: Expr, rest: int | None
    ) -> For:
        """A vector of the run from k on, of which only `rest` lanes are there."""
        inliner, x = self.inliner, self.lines
        lane = inliner.loop("i")
        at = add(k, lane)
        tail = guard = None if rest is None else build.less(lane, const(rest))
        if edge is not None:
            inside = build.within(add(edge[0], at), edge[1])
            guard = inside if tail is None else build.logical_and(tail, inside)
        body: list[Stmt] = []
        weights = [self.element(body, self.weights, add(begin, at), tail, "b") for begin in deep]
        for r in range(count):
            place = add(add(base, const(r * x.strides[-1] * x.shape[-1])), at)
            value = self.element(body, self.data, place, guard, "a")
            for j, weight in enumerate(weights):
                sum_at = add(const((r * self.columns + j) * self.lanes), lane)
                body.append(Update(total, sum_at, "add", build.call("mul", value, weight)))
        return For(lane, const(self.lanes), tuple(body), "vector")

    def element(self, body: list[Stmt], buffer: Buffer, at: Expr, mask: Expr | None, hint: str) -> Expr:
        return self.inliner.let(body, build.cast(Load(buffer, at, 1, mask), self.kind), hint)

    def finish(self, total: Buffer, count: int, row: Expr) -> list[Stmt]:
        """Lanes added up, and the sums through the epilogue into the results."""
        inliner, columns = self.inliner, self.columns
        sums = Buffer(inliner.fresh("sums"), self.kind, count * columns, "register", True)
        body: list[Stmt] = [Alloc(sums)]
        for i in range(sums.size):
            lanes = Load(total, const(i * self.lanes), self.lanes)
            body.append(Store(sums, const(i), Reduce("add", lanes)))
        if columns == 1:  # a vector of rows
            r = inliner.loop("r")
            return [*body, For(r, const(count), tuple(self.write(sums, r, add(row, r), const(0))), "vector")]
        for r in range(count):
            j = inliner.loop("j")
            place = add(const(r * columns), j)
            write = self.write(sums, place, add(row, const(r)), j)
            body.append(For(j, const(columns), tuple(write), "vector"))
        return body

    def write(self, sums: Buffer, place: Expr, row: Expr, column: Expr) -> list[Stmt]:
        body: list[Stmt] = []
        column = add(mul(self.group_at, const(self.columns)), column)
        index = self.lines.index(self.inliner, body, self.image, (*self.above, row), column)
        element = build.cast(Load(sums, place), self.root.dtype)
        scope = self.inliner.scope(body, {self.root: lambda _: element})
        for value in self.group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))
        return body
