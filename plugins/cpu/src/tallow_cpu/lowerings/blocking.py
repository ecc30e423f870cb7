"""How a contraction is cut into blocks, where its rows come from and which code its epilogue is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tallow.backend import Target
from tallow.dim import Dim, bounds, ceildiv
from tallow.kernel.build import const, minimum, mul, sub
from tallow.kernel.grammar import Buffer, Expr, Stmt
from tallow.lower.group import Group
from tallow.lower.inline import Inliner
from tallow.scalar import SCALAR
from tallow_cpu.lowerings.tile import Shape, panel_cost

DEPTH = 512  # elements of a piece of the summed index: a tile's rows stay in the first cache
ITEMS = 16  # grid iterations that keep the threads of a machine busy
MOST_TILES = 8  # row tiles of a block: more gain nothing
UNKNOWN = 64  # row tiles of a size that only the run can tell
LEAST_PANELS = 4  # panels for which copying the rows is cheap
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
    taps, run = pieces(source.taps, source.each)
    cache = target.limits.get("l2", 1 << 19)
    row_tiles = max(1, bounds(ceildiv(rows, shape.rows))[1] or UNKNOWN)
    items = row_tiles * max(1, bounds(outer)[1] or 1)
    tiles = max(1, min(cache // 4 // (shape.rows * pitch(taps * run) * 4), MOST_TILES, row_tiles))
    across = panels
    if taps * run < source.taps * source.each:  # sums of a block wait in the cache
        kept = tiles * shape.rows * shape.columns * 4
        across = min(panels, max(LEAST_PANELS, cache // 8 // kept))
    while across > LEAST_PANELS and -(-items // tiles) * -(-panels // across) < ITEMS:
        across -= 1
    while tiles > 1 and -(-items // tiles) * -(-panels // across) < ITEMS:
        tiles -= 1
    return Blocking(taps, run, evenly(row_tiles, tiles), evenly(panels, across))


def evenly(count: int, most: int) -> int:
    """The size of equal parts of at most `most`."""
    return -(-count // -(-count // most))


def pieces(taps: int, each: int) -> tuple[int, int]:
    if taps * each <= DEPTH * 3 // 2:
        return taps, each
    if each > DEPTH * 3 // 2:
        count = -(-each // DEPTH)
        return 1, -(-each // count // 4) * 4
    most = max(1, DEPTH * 3 // 2 // each)
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
