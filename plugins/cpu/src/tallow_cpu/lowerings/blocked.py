"""Blocked contractions: rows are packed into a thread's own memory and meet many panels from there.

A grid iteration computes a block of row tiles by a block of panels. The summed index is cut into
pieces of some hundred elements; of each piece the rows are copied side by side (padding becomes zeros,
prologues are computed, narrow floats are widened), so that the register tile reads memory in order
whatever strides the operand has. Sums wait in the thread's memory between the pieces.
Rows of bytes are read four at a time: all lengths but those that copies are told are then in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tallow.backend import Target
from tallow.dim import Dim, bounds, ceildiv, product
from tallow.dtype import DType, i32, u8
from tallow.graph import Value
from tallow.kernel import build
from tallow.kernel.build import add, const, minimum, mul, sub
from tallow.kernel.grammar import Alias, Alloc, Buffer, Expr, For, If, Load, Stmt, Store
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.tile import PARALLEL_FLOPS, Shape, choose_shape, multiply_rows

DEPTH = 512  # elements of a piece of the summed index: a tile's rows stay in the first cache
ITEMS = 16  # grid iterations that keep the threads of a machine busy
MOST_TILES = 8  # row tiles of a block: more gain nothing
UNKNOWN = 64  # row tiles of a size that only the run can tell
LEAST_PANELS = 4  # panels for which copying the rows is cheap


class Rows(Protocol):
    """Where the rows of a contraction come from: each is `taps` runs of `each` elements."""

    taps: int
    each: int

    def locate(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], row: Expr) -> object:
        """Whatever of a row does not depend on the tap."""

    def copy(
        self, inliner: Inliner, place: object, tap: Expr, first: Expr, count: Expr, write: Write
    ) -> list[Stmt]:
        """Statements that write elements first..first + count of a tap."""


Write = Callable[[Expr, Expr], Stmt]  # (position, value) -> the store of one packed element


@dataclass(frozen=True, slots=True)
class Words:
    """Rows of bytes, counted in words of four. The last word of a run may end in bytes of no meaning:
    the weights there are zeros."""

    source: Rows

    @property
    def taps(self) -> int:
        return self.source.taps

    @property
    def each(self) -> int:
        return -(-self.source.each // 4)

    def locate(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], row: Expr) -> object:
        return self.source.locate(inliner, body, outer, row)

    def copy(
        self, inliner: Inliner, place: object, tap: Expr, first: Expr, count: Expr, write: Write
    ) -> list[Stmt]:
        first, count = mul(first, const(4)), mul(count, const(4))
        if self.source.each % 4:
            count = minimum(count, sub(const(self.source.each), first))
        return self.source.copy(inliner, place, tap, first, count, write)


@dataclass(frozen=True, slots=True)
class Blocking:
    """taps, run: how many taps, and how many elements of each, are packed at a time (one tap, if not all
    of its elements). tiles, panels: size of a block."""

    taps: int
    run: int
    tiles: int
    panels: int


@dataclass(frozen=True, slots=True)
class Contraction:
    """rows x columns results for each index of `outer`, of packed weights [groups, panels, K, width].

    group(outer): which group's weights. result_index(inliner, body, outer, row, column): where a sum belongs.
    """

    outer: tuple[Dim, ...]
    rows: Dim
    columns: int
    source: Rows
    group: Callable[[Sequence[Expr]], Expr]
    result_index: Callable[[Inliner, list[Stmt], Sequence[Expr], Expr, Expr], tuple[Expr, ...]]


def choose_blocking(
    rows: Dim, outer: Dim, panels: int, source: Rows, shape: Shape, target: Target
) -> Blocking:
    """Pieces of about DEPTH elements, blocks that fit a quarter of the second cache, enough blocks."""
    taps, run = _pieces(source.taps, source.each)
    cache = target.limits.get("l2", 1 << 19)
    row_tiles = max(1, bounds(ceildiv(rows, shape.rows))[1] or UNKNOWN)
    items = row_tiles * max(1, bounds(outer)[1] or 1)
    tiles = max(1, min(cache // 4 // (shape.rows * _pitch(taps * run) * 4), MOST_TILES, row_tiles))
    across = panels
    if taps * run < source.taps * source.each:  # sums of a block wait in the cache
        kept = tiles * shape.rows * shape.columns * 4
        across = min(panels, max(LEAST_PANELS, cache // 8 // kept))
    while across > LEAST_PANELS and -(-items // tiles) * -(-panels // across) < ITEMS:
        across -= 1
    while tiles > 1 and -(-items // tiles) * -(-panels // across) < ITEMS:
        tiles -= 1
    return Blocking(taps, run, _evenly(row_tiles, tiles), _evenly(panels, across))


def _evenly(count: int, most: int) -> int:
    """The size of equal parts of at most `most`."""
    return -(-count // -(-count // most))


def _pieces(taps: int, each: int) -> tuple[int, int]:
    if taps * each <= DEPTH * 3 // 2:
        return taps, each
    if each > DEPTH * 3 // 2:
        count = -(-each // DEPTH)
        return 1, -(-each // count // 4) * 4
    most = max(1, DEPTH * 3 // 2 // each)
    whole = next(t for t in range(most, 0, -1) if taps % t == 0)
    return (whole if 2 * whole > most else most), each


def _pitch(depth: int) -> int:
    """Distance of packed rows: whole cache lines, and not such that rows share the sets of a cache."""
    lines = -(-depth // 16)
    return 16 * (lines + (lines % 4 == 0))


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
        self.shape = choose_shape(work.rows, width, target)
        self.kind: DType = i32 if self.bytes else accumulator(group.root.inputs[0].dtype)
        self.blocking = choose_blocking(
            work.rows, product(work.outer), self.panels, self.source, self.shape, target
        )
        b = self.blocking
        self.tap_groups, self.runs = -(-self.source.taps // b.taps), -(-self.source.each // b.run)
        self.pieces = self.tap_groups * self.runs
        self.pitch = _pitch(b.taps * b.run)
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
            body.append(For(step, taps, tuple(inner)))
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
        base = self.inliner.let(inner, mul(t, const(shape.rows * self.pitch)), "base")
        kept: Expr = const(0)
        if self.pieces > 1:
            kept = self.inliner.let(
                inner, mul(add(mul(p, const(b.tiles)), t), const(self.total.size)), "kept"
            )
        inner.append(Alloc(self.total))
        inner += self.begin(kept, piece)
        inner += multiply_rows(
            inliner,
            shape,
            self.total,
            length,
            lambda r, k: Load(self.rows, add(add(base, k), const(r * self.pitch))),
            lambda k, n: Load(self.weights, add(add(deep, mul(k, const(shape.columns))), n)),
            "dot_bytes" if self.bytes else "mul",
        )
        row = self.inliner.let(inner, add(first_row, mul(t, const(shape.rows))), "row")
        inner += self.end(outer, row, column, kept, piece)
        body.append(For(t, tiles, tuple(inner)))
        return For(p, panels, tuple(body))

    def begin(self, kept: Expr, piece: Expr) -> list[Stmt]:
        """Sums from zero at the first piece, from where they waited at the others."""
        n, m = self.inliner.loop("n"), self.inliner.loop("n")
        size = const(self.total.size)
        zero = For(n, size, (Store(self.total, n, const(0, self.kind)),), "vector")
        if self.pieces == 1:
            return [zero]
        back = For(m, size, (Store(self.total, m, Load(self.sums, add(kept, m))),), "vector")
        return [If(build.call("eq", piece, const(0)), (zero,), (back,))]

    def end(self, outer, row: Expr, column: Expr, kept: Expr, piece: Expr) -> list[Stmt]:
        """Sums aside, and after the last piece through the epilogue into the results, row by row."""
        n = self.inliner.loop("n")
        size = const(self.total.size)
        aside = For(n, size, (Store(self.sums, add(kept, n), Load(self.total, n)),), "vector")
        r = self.inliner.loop("r")
        body: list[Stmt] = []
        at = self.inliner.let(body, minimum(add(row, r), self.inliner.size(self.work.rows - 1)), "row")
        line = self.inliner.let(body, add(kept, mul(r, const(self.shape.columns))), "line")
        body += self.write(outer, at, line, column)
        write = For(r, const(self.shape.rows), tuple(body))
        if self.pieces == 1:
            return [aside, write]
        return [aside, If(build.call("eq", piece, const(self.pieces - 1)), (write,))]

    def write(self, outer, row: Expr, line: Expr, first: Expr) -> list[Stmt]:
        """A row of sums through the epilogue into the results."""
        n = self.inliner.loop("n")
        column = add(first, n)
        result: list[Stmt] = []
        index = self.work.result_index(self.inliner, result, outer, row, column)
        body: list[Stmt] = []
        root = self.group.root.output
        scope = self.inliner.scope(
            body, {root: lambda _: build.cast(Load(self.sums, add(line, n)), root.dtype)}
        )
        for value in self.group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))
        if self.work.columns % self.shape.columns:
            body = [If(build.less(column, const(self.work.columns)), tuple(body))]
        return [*result, For(n, const(self.shape.columns), tuple(body), "vector")]


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
