"""How a contraction is cut into blocks, where its rows come from and which code its epilogue is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Protocol

from tallow.backend import Target
from tallow.choices import Candidate
from tallow.dim import Dim, bounds, ceildiv
from tallow.kernel.build import const, minimum, mul, sub
from tallow.kernel.grammar import Buffer, Expr, Stmt
from tallow.lower.group import Group
from tallow.lower.inline import Inliner
from tallow.scalar import SCALAR
from tallow_cpu.lowerings.tile import Shape, panel_cost, tile_heights

DEPTH = 512  # elements of a piece of the summed index: a tile's rows stay in the first cache
GATHERED = 384  # the same where panels are copied too
ITEMS = 16  # grid iterations that keep the threads of a machine busy
MOST_TILES = 8  # row tiles of a block: more gain nothing
UNKNOWN = 64  # row tiles of a size that only the run can tell
LEAST_PANELS = 4  # panels for which copying the rows is cheap
LARGEST = 768 << 10  # bytes of a thread's stack that a block's rows and sums may take
WORSE = 1e-3  # by which the rules like each further blocking less
COPIED = 8  # multiply-adds for each element of a row from which copying it is cheap
SHORT = 256  # summed elements of a product whose sums go from registers into results
LIGHT = 8  # arithmetic for each element of an epilogue that is written out for each register
SHARED = 512  # rows a multiple of this apart share the sets of the first cache


class Rows(Protocol):
    """Where the rows of a contraction come from: each is `taps` runs of `each` elements."""

    taps: int
    each: int
    step: int | None  # elements from one row to the next, where rows can be read as they lie

    def start(self, outer: Sequence[Expr], row: Expr, inliner: Inliner) -> tuple[Buffer, Expr]:
        """The memory of rows that have a step, and where a row begins."""

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
    step: int | None = None

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
    """rows: of the register tile. taps, run: how many taps, and how many elements of each, are packed at a
    time (one tap, if not all of its elements). tiles, panels: size of a block."""

    rows: int
    taps: int
    run: int
    tiles: int
    panels: int

    def bytes(self, task: Task) -> int:
        """What a thread keeps of a block: packed rows, sums that wait between pieces, gathered panels."""
        depth = self.taps * self.run
        waiting = 1 if depth >= task.depth else self.panels * self.tiles
        copied = depth * self.panels * task.width if task.gathers else 0
        return 4 * (self.rows * (self.tiles * pitch(depth) + waiting * task.width) + copied)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be cut: rows by panels of a width, for each of `outer`; sums of `taps` runs of `each`
    elements. gathers: panels are copied as rows are, and must stay in the cache beside them."""

    rows: Dim
    outer: Dim
    panels: int
    width: int
    taps: int
    each: int
    gathers: bool

    @property
    def depth(self) -> int:
        return self.taps * self.each


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


def possible_blockings(task: Task, target: Target) -> list[Candidate]:
    """The blocking that the rules prefer, and those that differ from it in one thing."""
    first, *others = dict.fromkeys(_variations(task, target))
    fitting = [first, *(b for b in others if b.bytes(task) <= LARGEST)]
    return [Candidate(astuple(b), 1 + number * WORSE) for number, b in enumerate(fitting)]


def _variations(task: Task, target: Target) -> Iterator[Blocking]:
    heights, depth = (
        tile_heights(task.rows, task.width, target, task.depth),
        GATHERED if task.gathers else DEPTH,
    )
    usual = choose_blocking(task, heights[0], depth, target)
    yield usual
    row_tiles = max(1, bounds(ceildiv(task.rows, usual.rows))[1] or UNKNOWN)
    yield from (replace(usual, tiles=t) for t in (usual.tiles * 2, -(-usual.tiles // 2)) if t <= row_tiles)
    panels = (-(-usual.panels // 2), usual.panels * 2)
    yield from (replace(usual, panels=p) for p in panels if p <= task.panels)
    yield from (choose_blocking(task, height, depth, target) for height in heights[1:3])
    yield from (choose_blocking(task, heights[0], d, target) for d in (depth // 2, depth * 2))


def choose_blocking(task: Task, height: int, depth: int, target: Target) -> Blocking:
    """Pieces of about `depth` elements, blocks that fit a quarter of the second cache, enough blocks."""
    taps, run = pieces(task.taps, task.each, depth)
    cache = target.limits.get("l2", 1 << 19)
    row_tiles = max(1, bounds(ceildiv(task.rows, height))[1] or UNKNOWN)
    items = row_tiles * max(1, bounds(task.outer)[1] or 1)
    tiles = max(1, min(cache // 4 // (height * pitch(taps * run) * 4), MOST_TILES, row_tiles))
    across, least = task.panels, LEAST_PANELS
    if taps * run < task.depth:  # sums of a block wait in the cache
        kept = tiles * height * task.width * 4
        across = min(across, max(LEAST_PANELS, cache // 8 // kept))
    if task.gathers:  # copies of panels are dearer than those of rows: blocks are rather tall than wide
        least = LEAST_PANELS // 2
        across = max(1, min(across, cache // 4 // (taps * run * task.width * 4)))
    across = cut(task.panels, across, least, -(-ITEMS // -(-items // tiles)))
    tiles = cut(items, tiles, 1, -(-ITEMS // -(-task.panels // across)))
    return Blocking(height, taps, run, evenly(row_tiles, tiles), evenly(task.panels, across))


def cut(count: int, most: int, least: int, parts: int) -> int:
    """The greatest size of at most `most` that cuts a count into so many parts, or else `least`."""
    if parts <= 1 or most <= least:
        return most
    return max(least, min(most, (count - 1) // (parts - 1)))


def evenly(count: int, most: int) -> int:
    """The size of equal parts of at most `most`."""
    return -(-count // -(-count // most))


def pieces(taps: int, each: int, depth: int) -> tuple[int, int]:
    """Taps and elements of each that make a piece of about `depth` elements."""
    if taps * each <= depth * 3 // 2:
        return taps, each
    if each > depth * 3 // 2:
        count = -(-each // depth)
        return 1, -(-each // count // 4) * 4
    most = max(1, depth * 3 // 2 // each)
    whole = next(t for t in range(most, 0, -1) if taps % t == 0)
    return (whole if 2 * whole > most else most), each


def pitch(depth: int) -> int:
    """Distance of packed rows: whole cache lines, and not such that rows share the sets of a cache."""
    lines = -(-depth // 16)
    return 16 * (lines + (lines % 4 == 0))


def stays(work: Contraction, source: Rows, shape: Shape, target: Target) -> bool:
    """Whether rows are read where they lie: copies cost as much as some multiply-adds, and are made for
    many panels, or where rows would share the sets of the first cache."""
    step = source.step
    if step is None or step % SHARED == 0 or not isinstance(work.rows, int) or work.rows < shape.rows:
        return False
    return panel_cost(work.columns, shape.columns, target) < COPIED


def is_direct(group: Group, depth: int) -> bool:
    """Whether sums go from registers into the results: short sums, and little code for each."""
    arithmetic = sum(SCALAR[node.op].flops for node in group.epilogue if node.op in SCALAR)
    return depth <= SHORT and arithmetic <= LIGHT
