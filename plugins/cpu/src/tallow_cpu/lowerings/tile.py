"""The register tile: rows of one operand against a panel of the other, all sums in registers.

Matrix products and convolutions are this one kernel; they differ in where a row starts and in the
loops that the summed index is made of. Rows beyond the last are computed as the last once more, so
there is no remainder code; columns beyond the last are masked when they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tallow.backend import Target
from tallow.dim import Dim, bounds, ceildiv, product
from tallow.kernel import build
from tallow.kernel.build import add, const, minimum, mul
from tallow.kernel.grammar import Alloc, Buffer, Call, Expr, For, If, Let, Load, Stmt, Store, Update, Var
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops, unravel
from tallow.lower.reduce import accumulator

UNROLL = 4
PARALLEL_FLOPS = 60_000  # arithmetic that is worth a thread of its own


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows and columns (elements) of a register tile."""

    rows: int
    columns: int


def lanes(target: Target) -> int:
    return max(target.vector_bytes // 4, 4)


def registers(target: Target) -> int:
    """Vector registers that sums may take; the rest hold operands."""
    return 28 if target.vector_bytes == 64 else 12


def panel_width(n: int, target: Target) -> int:
    """Columns of a packed panel: one to four vectors, little of it wasted."""
    width = lanes(target)
    vectors = -(-n // width)
    if vectors <= 2:
        return vectors * width
    best = min(
        (2, 3, 4) if target.vector_bytes == 64 else (2,), key=lambda v: (-(-vectors // v) * v, abs(v - 2))
    )
    return best * width


def choose_shape(m: Dim, width: int, target: Target) -> Shape:
    """The tallest tile that fits the registers and wastes few rows."""
    most = max(1, registers(target) // (width // lanes(target)))
    low, high = bounds(m)
    if not isinstance(m, int):
        return Shape(min(most, 8) if high is None or high > 8 else min(most, high), width)
    tall = min(most, 14)
    if m <= tall:
        return Shape(max(m, 1), width)
    rows = min(range(max(tall // 2, 1), tall + 1), key=lambda r: (-(-m // r) * r + 2 * -(-m // r), -r))
    return Shape(rows, width)


@dataclass(frozen=True, slots=True)
class Contraction:
    """What a tile kernel computes.

    rows, columns: size of the result of one item of `outer`. loops: the summed index as nested loops,
    outermost first, each (extent, step in the row operand); the panel operand is read in order.
    row_start(inliner, statements, outer index, row): element of the row operand where a row starts.
    panel_start(inliner, outer index, panel): element of the panel operand where a panel starts.
    panel_step: elements from one summed index to the next in the panel operand.
    result_index(outer index, row, column): index of the result value.
    masked: whether panel loads must be masked at the last columns (an operand that is not packed).
    """

    outer: tuple[Dim, ...]
    rows: Dim
    columns: Dim
    loops: tuple[tuple[Dim, Dim], ...]
    row_start: Callable
    panel_start: Callable
    panel_step: Callable
    result_index: Callable
    masked: bool = False


def lower_tile(
    group: Group, target: Target, name: str, shape: Shape, work: Contraction
) -> Sequence[KernelCall]:
    """The kernel call of a contraction whose operands are the root's two inputs."""
    inliner = Inliner(group)
    a, b = group.root.inputs
    rows, panels = inliner.buffer(a), inliner.buffer(b)
    row_tiles, column_tiles = ceildiv(work.rows, shape.rows), ceildiv(work.columns, shape.columns)
    grid = product(work.outer) * column_tiles * row_tiles
    item = inliner.loop("g")
    statements: list[Stmt] = []

    def let(e: Expr, hint: str) -> Expr:
        if not isinstance(e, (Call, Load)):
            return e
        var = Var(inliner.fresh(hint), e.dtype)
        statements.append(Let(var, e))
        return var

    *outer, panel, tile = unravel(inliner, item, (*work.outer, column_tiles, row_tiles), statements)
    first_row = let(mul(tile, const(shape.rows)), "row")
    last = inliner.size(work.rows - 1)
    row_at = [
        let(minimum(add(first_row, const(r)), last), "row") if r else first_row for r in range(shape.rows)
    ]
    starts = [let(work.row_start(inliner, statements, outer, at), "start") for at in row_at]
    panel_at = let(work.panel_start(inliner, outer, panel), "panel")
    first_column = let(mul(panel, const(shape.columns)), "column")
    kind = accumulator(a.dtype)
    total = Buffer(inliner.fresh("acc"), kind, shape.rows * shape.columns, "register", True)
    statements.append(Alloc(total))
    edge = inliner.size(work.columns)
    exact = isinstance(work.columns, int) and work.columns % shape.columns == 0
    zero = inliner.loop("z")
    statements.append(For(zero, const(total.size), (Store(total, zero, const(0, kind)),), "vector"))
    mask_edge = None if exact or not work.masked else (first_column, edge)
    statements += _summing(inliner, work, shape, rows, panels, total, starts, panel_at, mask_edge)
    for r in range(shape.rows):
        statements.append(
            _writing(
                inliner, group, work, shape, total, outer, row_at[r], r, first_column, None if exact else edge
            )
        )
    flops = product((*work.outer, work.rows, work.columns, *(e for e, _ in work.loops))) * 2 + count_flops(
        group
    )
    depth = bounds(product(e for e, _ in work.loops))[1] or 256
    grain = max(1, PARALLEL_FLOPS // max(1, 2 * shape.rows * shape.columns * depth))
    return [
        inliner.call(name, [For(item, inliner.size(grid), tuple(statements), "grid")], grid, grain, flops)
    ]


def _summing(
    inliner, work, shape, rows: Buffer, panels: Buffer, total: Buffer, starts, panel_at, mask_edge
) -> list[Stmt]:
    """Loops over the summed index; each innermost step is one row of the panel against all rows."""
    variables = [inliner.loop("k") for _ in work.loops]
    step = work.panel_step(inliner)
    offset: Expr = const(0)
    position: Expr = const(0)
    for (extent, stride), var in zip(work.loops[:-1], variables[:-1], strict=True):
        offset = add(offset, mul(var, inliner.size(stride)))
        position = add(mul(position, inliner.size(extent)), var)
    extent, stride = work.loops[-1]
    inner: list[Stmt] = []
    base = []
    for r, start in enumerate(starts):
        var = Var(inliner.fresh(f"base{r}"))
        inner.append(Let(var, add(start, offset)))
        base.append(var)
    deep = Var(inliner.fresh("deep"))
    inner.append(Let(deep, add(panel_at, mul(mul(position, inliner.size(extent)), step))))
    k = variables[-1]

    def one(at: Expr) -> list[Stmt]:
        body: list[Stmt] = []
        place = mul(at, inliner.size(stride))
        line = add(deep, mul(at, step))
        for r in range(shape.rows):
            value = Var(inliner.fresh("a"), total.dtype)
            body.append(Let(value, build.cast(Load(rows, add(base[r], place)), total.dtype)))
            n = inliner.loop("n")
            mask = None if mask_edge is None else build.less(add(mask_edge[0], n), mask_edge[1])
            other = build.cast(Load(panels, add(line, n), 1, mask), total.dtype)
            update = Update(total, add(n, const(r * shape.columns)), "add", build.call("mul", value, other))
            body.append(For(n, const(shape.columns), (update,), "vector"))
        return body

    inner += _unrolled(inliner, k, extent, one)
    for (size, _), var in zip(reversed(work.loops[:-1]), reversed(variables[:-1]), strict=True):
        inner = [For(var, inliner.size(size), tuple(inner))]
    return inner


def _unrolled(inliner, k: Var, extent: Dim, one: Callable[[Expr], list[Stmt]]) -> list[Stmt]:
    """The innermost loop, UNROLL steps at a time, and what is left of it."""
    if isinstance(extent, int) and extent < 2 * UNROLL:
        return (
            [s for i in range(extent) for s in one(const(i))]
            if extent <= UNROLL
            else [For(k, const(extent), tuple(one(k)))]
        )
    whole = extent // UNROLL * UNROLL
    body = [s for u in range(UNROLL) for s in one(add(k, const(u)))]
    result = [For(k, inliner.size(whole), tuple(body), "serial", const(0), UNROLL)]
    if whole != extent:
        rest = inliner.loop("k")
        result.append(For(rest, inliner.size(extent), tuple(one(rest)), "serial", inliner.size(whole)))
    return result


def _writing(
    inliner,
    group: Group,
    work,
    shape,
    total: Buffer,
    outer,
    row: Expr,
    r: int,
    first: Expr,
    edge: Expr | None,
) -> Stmt:
    """Row r of the tile through the epilogue into the results."""
    n = inliner.loop("n")
    column = add(first, n)
    body: list[Stmt] = []
    root = group.root.output

    def summed(index) -> Expr:
        return build.cast(Load(total, add(n, const(r * shape.columns))), root.dtype)

    scope = inliner.scope(body, {root: summed})
    index = work.result_index(inliner, outer, row, column)
    for value in group.outputs:
        scope.store(value, value.shape, index, scope.read(value, index))
    if edge is not None:
        body = [If(build.less(column, edge), tuple(body))]
    return For(n, const(shape.columns), tuple(body), "vector")
