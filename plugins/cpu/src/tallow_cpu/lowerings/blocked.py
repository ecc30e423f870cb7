"""Blocked contractions: rows are packed into a thread's own memory and meet many panels from there.

A grid iteration computes a block of row tiles by a block of panels. The summed index is cut into
pieces of some hundred elements; of each piece the rows are copied side by side (padding becomes zeros,
prologues are computed, narrow floats are widened), so that the register tile reads memory in order
whatever strides the operand has; rows that meet few panels are read where they lie. Sums wait in the
thread's memory between the pieces.
Rows of bytes are read four at a time: all lengths but those that copies are told are then in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tallow.backend import Target
from tallow.dim import Dim, bounds, ceildiv, product
from tallow.dtype import DType, i32, u8
from tallow.graph import Value
from tallow.kernel import build
from tallow.kernel.build import add, const, minimum, mul, sub
from tallow.kernel.grammar import Alias, Alloc, Buffer, Const, Expr, For, If, Load, Prefetch, Stmt, Store
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.blocking import Contraction, Words, choose_blocking, is_direct, pitch, stays
from tallow_cpu.lowerings.tile import PARALLEL_FLOPS, choose_shape, multiply_rows, over_sums

LINE = 64  # bytes of a cache line
FEW = 4  # taps whose copies are written out


def lower_blocked(group: Group, target: Target, name: str, work: Contraction) -> Sequence[KernelCall]:
    """The kernel call of a contraction whose second operand is packed weights."""
    return _Blocked(group, target, work).call(name)


class _Blocked:
    """One blocked kernel while it is written."""

    def __init__(self, group: Group, target: Target, work: Contraction):
        self.group, self.work, self.source = group, work, work.source
        self.bytes = group.root.inputs[0].dtype == u8
        if self.bytes:
            self.source = Words(work.source)
        self.inliner = inliner = Inliner(group)
        packed = group.root.inputs[1]
        _, self.panels, self.depth, width = packed.shape
        self.shape = choose_shape(work.rows, width, target, self.depth)
        self.kind: DType = i32 if self.bytes else accumulator(group.root.inputs[0].dtype)
        self.blocking = choose_blocking(
            work.rows, product(work.outer), self.panels, self.source, self.shape, target
        )
        b = self.blocking
        self.tap_groups, self.runs = -(-self.source.taps // b.taps), -(-self.source.each // b.run)
        self.pieces = self.tap_groups * self.runs
        self.pitch = pitch(b.taps * b.run)
        self.in_place = self.pieces == 1 and stays(work, self.source, self.shape, target)
        self.near = target.limits.get("l2", 1 << 19) // 2  # bytes of a value that is in the second cache
        tile = self.shape.rows * width
        self.weights = inliner.buffer(packed)
        size = b.tiles * self.shape.rows * self.pitch
        self.rows = Buffer(inliner.fresh("rows"), self.kind, size, "local", True)
        self.unit = 4 if self.bytes else 1
        self.copies = Buffer(inliner.fresh("bytes"), u8, 4 * size, "local", True) if self.bytes else self.rows
        waiting = b.panels * b.tiles if self.pieces > 1 else 1
        self.sums = Buffer(inliner.fresh("sums"), self.kind, waiting * tile, "local", True)
        self.total = Buffer(inliner.fresh("acc"), self.kind, tile, "register", True)

    def call(self, name: str) -> Sequence[KernelCall]:
        inliner, work, b, shape = self.inliner, self.work, self.blocking, self.shape
        row_blocks = ceildiv(ceildiv(work.rows, shape.rows), b.tiles)
        column_blocks = -(-self.panels // b.panels)
        grid = product(work.outer) * column_blocks * row_blocks
        item = inliner.loop("g")
        body: list[Stmt] = []
        *outer, across, down = unravel(inliner, item, (*work.outer, column_blocks, row_blocks), body)
        if not self.in_place:
            body += [Alloc(self.copies), *([Alias(self.rows, self.copies)] if self.bytes else [])]
        body.append(Alloc(self.sums))
        first_tile = self.inliner.let(body, mul(down, const(b.tiles)), "tile")
        tiles = inliner.size(ceildiv(work.rows, shape.rows))
        tiles = self.inliner.let(body, minimum(sub(tiles, first_tile), const(b.tiles)), "tiles")
        first_panel = self.inliner.let(body, mul(across, const(b.panels)), "panel")
        panels = self.inliner.let(
            body, minimum(sub(const(self.panels), first_panel), const(b.panels)), "panels"
        )
        first_row = self.inliner.let(body, mul(first_tile, const(shape.rows)), "row")
        body += self.over_pieces(outer, first_row, tiles, first_panel, panels)
        flops = product((*work.outer, work.rows, work.columns, self.depth * self.unit)) * 2
        flops += count_flops(self.group)
        each = 2 * b.tiles * shape.rows * b.panels * shape.columns * self.depth
        loop = For(item, inliner.size(grid), tuple(body), "grid")
        return [inliner.call(name, [loop], grid, max(1, PARALLEL_FLOPS // max(1, each)), flops)]

    def over_pieces(self, outer, first_row: Expr, tiles: Expr, first_panel: Expr, panels: Expr) -> list[Stmt]:
        """Pack a piece of all rows of the block, then meet it with all panels; for each piece."""
        b, source = self.blocking, self.source
        group_at, run_at = self.inliner.loop("taps"), self.inliner.loop("run")
        tap: Expr = mul(group_at, const(b.taps)) if self.tap_groups > 1 else const(0)
        first: Expr = mul(run_at, const(b.run)) if self.runs > 1 else const(0)
        body: list[Stmt] = []
        tap, first = self.inliner.let(body, tap, "tap"), self.inliner.let(body, first, "first")
        taps: Expr = const(b.taps)
        if source.taps % b.taps:
            taps = self.inliner.let(body, minimum(taps, sub(const(source.taps), tap)), "taps")
        run: Expr = const(b.run)
        if source.each % b.run:
            run = self.inliner.let(body, minimum(run, sub(const(source.each), first)), "count")
        if not self.in_place:
            body.append(self.pack(outer, first_row, tiles, tap, taps, first, run))
        start = self.inliner.let(body, add(mul(tap, const(source.each)), first), "start")
        length = self.inliner.let(body, mul(taps, run), "length")
        position = add(mul(group_at, const(self.runs)), run_at)
        position = {(False, False): const(0), (True, False): group_at, (False, True): run_at}.get(
            (self.tap_groups > 1, self.runs > 1), position
        )
        body.append(self.meet(outer, first_row, tiles, first_panel, panels, start, length, position))
        for var, count in ((run_at, self.runs), (group_at, self.tap_groups)):
            if count > 1:
                body = [For(var, const(count), tuple(body))]
        return body

    def pack(
        self, outer, first_row: Expr, tiles: Expr, tap: Expr, taps: Expr, first: Expr, run: Expr
    ) -> Stmt:
        """Copies of the block's rows; rows beyond the last are the last once more."""
        inliner, shape = self.inliner, self.shape
        at = inliner.loop("r")
        body: list[Stmt] = []
        last = inliner.size(self.work.rows - 1)
        row = self.inliner.let(body, minimum(add(first_row, at), last), "row")
        place = self.source.locate(inliner, body, outer, row)
        line = self.inliner.let(body, mul(at, const(self.pitch * self.unit)), "line")
        if self.blocking.taps == 1:
            body += self.source.copy(
                inliner, place, tap, first, run, lambda i, v: Store(self.copies, add(line, i), v)
            )
        else:
            step = inliner.loop("t")
            inner: list[Stmt] = []
            across = mul(step, const(self.blocking.run * self.unit))
            begin = self.inliner.let(inner, add(line, across), "begin")
            inner += self.source.copy(
                inliner, place, add(tap, step), first, run, lambda i, v: Store(self.copies, add(begin, i), v)
            )
            few = isinstance(taps, Const) and taps.value <= FEW
            body.append(For(step, taps, tuple(inner), "unroll" if few else "serial"))
        return For(at, mul(tiles, const(shape.rows)), tuple(body))

    def meet(
        self,
        outer,
        first_row: Expr,
        tiles: Expr,
        first_panel: Expr,
        panels: Expr,
        start: Expr,
        length: Expr,
        piece: Expr,
    ) -> Stmt:
        """Every tile of the block against every panel of the block, over one piece."""
        inliner, shape, b = self.inliner, self.shape, self.blocking
        p, t = inliner.loop("p"), inliner.loop("t")
        body: list[Stmt] = []
        panel = self.inliner.let(body, add(first_panel, p), "panel")
        column = self.inliner.let(body, mul(panel, const(shape.columns)), "column")
        whole = add(mul(self.work.group(outer), const(self.panels)), panel)
        deep = self.inliner.let(
            body, mul(add(mul(whole, const(self.depth)), start), const(shape.columns)), "deep"
        )
        inner: list[Stmt] = []
        row = self.inliner.let(inner, add(first_row, mul(t, const(shape.rows))), "row")
        if self.in_place:  # the last tile ends with the last row, and repeats what others compute too
            row = self.inliner.let(inner, minimum(row, const(self.work.rows - shape.rows)), "row")
            rows, base = self.source.start(outer, row, inliner)
            step, base = self.source.step, self.inliner.let(inner, base, "base")
        else:
            rows, step = self.rows, self.pitch
            base = self.inliner.let(inner, mul(t, const(shape.rows * self.pitch)), "base")
        kept: Expr = const(0)
        if self.pieces > 1:
            kept = self.inliner.let(
                inner, mul(add(mul(p, const(b.tiles)), t), const(self.total.size)), "kept"
            )
        if self.pieces == 1:
            inner += self.announce(outer, row, column)
        inner.append(Alloc(self.total))
        inner += self.begin(kept, piece)
        inner += multiply_rows(
            inliner,
            shape,
            self.total,
            length,
            lambda r, k: Load(rows, add(add(base, k), const(r * step))),
            lambda k, n: Load(self.weights, add(add(deep, mul(k, const(shape.columns))), n)),
            "dot_bytes" if self.bytes else "mul",
        )
        inner += self.end(outer, row, column, kept, piece)
        body.append(For(t, tiles, tuple(inner)))
        return For(p, panels, tuple(body))

    def announce(self, outer, row: Expr, column: Expr) -> list[Stmt]:
        """Prefetches of what the epilogue of a tile will read and write, so that it arrives during the products."""
        root, result = self.group.root.output, []
        read = {v for node in self.group.epilogue for v in node.inputs if v in self.group.inputs}
        values = [(v, False) for v in self.group.inputs if v in read and v.shape == root.shape]
        values += [(v, True) for v in self.group.outputs]
        if all(_bytes(v) <= self.near for v, _ in values):
            return []
        for value, written in values:
            buffer = self.inliner.buffer(value, writable=written)
            line = max(1, LINE // value.dtype.itemsize)
            for r in range(self.shape.rows):
                for first in range(0, self.shape.columns, line):
                    body: list[Stmt] = []
                    at = add(column, const(first))
                    index = self.work.result_index(self.inliner, body, outer, add(row, const(r)), at)
                    if body:  # a row's place would have to be divided up
                        return []
                    result.append(Prefetch(buffer, self.inliner.linear(value.shape, index), written))
        return result

    def over_sums(self, statement: Callable[[Expr], Stmt]) -> For:
        return over_sums(self.inliner, self.shape, statement)

    def begin(self, kept: Expr, piece: Expr) -> list[Stmt]:
        """Sums from zero at the first piece, from where they waited at the others."""
        zero = self.over_sums(lambda i: Store(self.total, i, const(0, self.kind)))
        if self.pieces == 1:
            return [zero]
        back = self.over_sums(lambda i: Store(self.total, i, Load(self.sums, add(kept, i))))
        return [If(build.call("eq", piece, const(0)), (zero,), (back,))]

    def end(self, outer, row: Expr, column: Expr, kept: Expr, piece: Expr) -> list[Stmt]:
        """Sums through the epilogue into the results, row by row: straight from registers where that is little
        code for each; otherwise aside, and after the last piece from there."""
        aside = self.over_sums(lambda i: Store(self.sums, add(kept, i), Load(self.total, i)))
        r = self.inliner.loop("r")
        body: list[Stmt] = []
        at = add(row, r)
        if not self.in_place:
            at = minimum(at, self.inliner.size(self.work.rows - 1))
        at = self.inliner.let(body, at, "row")
        line = self.inliner.let(body, add(kept, mul(r, const(self.shape.columns))), "line")
        if self.pieces == 1 and is_direct(self.group, self.depth):
            line = mul(r, const(self.shape.columns))
            body += self.write(outer, at, self.total, line, column)
            return [For(r, const(self.shape.rows), tuple(body), "unroll")]
        body += self.write(outer, at, self.sums, line, column)
        write = For(r, const(self.shape.rows), tuple(body))
        if self.pieces == 1:
            return [aside, write]
        return [aside, If(build.call("eq", piece, const(self.pieces - 1)), (write,))]

    def write(self, outer, row: Expr, sums: Buffer, line: Expr, first: Expr) -> list[Stmt]:
        """A row of sums through the epilogue into the results; columns beyond the last are left out."""
        result: list[Stmt] = []
        columns, width = self.work.columns, self.shape.columns
        n = self.inliner.loop("n")
        index = self.work.result_index(self.inliner, result, outer, row, add(first, n))
        body: list[Stmt] = []
        root = self.group.root.output
        scope = self.inliner.scope(body, {root: lambda _: build.cast(Load(sums, add(line, n)), root.dtype)})
        for value in self.group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))
        whole = For(n, const(min(width, columns)), tuple(body), "vector")
        if self.panels == 1 or columns % width == 0:
            return [*result, whole]
        rest = For(n, const(columns % width), tuple(body), "vector")
        inside = build.call("le", add(first, const(width)), const(columns))
        return [*result, If(inside, (whole,), (rest,))]


def _bytes(value: Value) -> float:
    size = bounds(value.type.size)[1]
    return float("inf") if size is None else size * value.dtype.itemsize


# Indexes of rows -----------------------------------------------------------------------------------


def is_flat(values: Sequence[Value], lead: Sequence[Dim], tail: int) -> bool:
    """Whether `row` and the last `tail` axes place an element in each value: its axes that correspond to
    `lead` are all there in full or are all of size 1."""
    for value in values:
        axes = value.shape[: max(0, value.rank - tail)][-len(lead) :] if lead else ()
        if axes != tuple(lead) and any(d != 1 for d in axes):
            return False
    return True


def flat_index(lead: Sequence[Dim], row: Expr) -> tuple[Expr, ...]:
    """`row` as an index of the lead axes: all of it on the last axis that has more than one element."""
    wide = [axis for axis, d in enumerate(lead) if d != 1]
    place = wide[-1] if wide else len(lead) - 1
    return tuple(row if axis == place else const(0) for axis in range(len(lead)))


def row_index(
    inliner: Inliner, body: list[Stmt], values: Sequence[Value], lead: Sequence[Dim], row: Expr, tail: int = 1
) -> tuple[Expr, ...]:
    """`row` as an index of the lead axes of some values; divided up only where that is needed."""
    if is_flat(values, lead, tail):
        return flat_index(lead, row)
    return unravel(inliner, row, lead, body)
