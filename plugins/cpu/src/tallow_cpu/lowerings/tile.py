"""The register tile: rows of one operand against a panel of the other, all sums in registers.

Rows beyond the last are computed as the last once more, so there is no remainder code; columns beyond
the last are masked when they are written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tallow.backend import Target
from tallow.choices import Candidate
from tallow.dim import Dim, bounds
from tallow.kernel import build
from tallow.kernel.build import add, const
from tallow.kernel.grammar import Buffer, Const, Expr, For, Let, Load, Stmt, Store, Update, Var
from tallow.lower.inline import Inliner
from tallow_cpu.targets import abilities

STEPS = 4  # of a sum that small tiles take at a time
ENOUGH = 256  # sums of a tile whose single step hides the loop: more steps cost compile time and gain nothing
TALLEST = 14  # rows
SHORT = 64  # products of a sum beside which BESIDE rows' worth of other work is done for each tile
BESIDE = 2
MOST_VECTORS = 4  # of a panel's width
MOST_DOTS = 8  # columns for which vectors may lie along the sum
UNALIGNED = 1.5  # cycles of a load that crosses cache lines, as most do
ACROSS = 8  # cycles of adding up the lanes of a vector
NARROW = 1.05  # a narrower vector must win something
PARALLEL_FLOPS = 60_000  # arithmetic that is worth a thread of its own


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows and columns (elements) of a register tile."""

    rows: int
    columns: int


def lanes(target: Target) -> int:
    return max(target.vector_bytes // 4, 4)


def registers(target: Target) -> int:
    """Vector registers that sums may take; the rest hold operands (AVX-512 reads one of them from memory)
    and, where products are not fused with additions, products."""
    if is_roomy(target):
        return 28 if target.vector_bytes == 64 else 24
    return 12 if "fma" in abilities(target) else 8


def is_roomy(target: Target) -> bool:
    """Whether there are 32 vector registers, not 16."""
    return target.limits.get("registers", 16) >= 32


def panel_widths(n: int, target: Target) -> list[Candidate]:
    """Columns that a packed panel for n columns may have; two vectors are best where all cost the same."""
    width = lanes(target)
    if not is_roomy(target):
        return [Candidate(width if n <= width else 2 * width, 1.0)]
    tails = (0, width // 4, width // 2) if width >= 16 else (0,)
    widths = [v * width + t for v in range(MOST_VECTORS + 1) for t in tails if v or t]
    return [Candidate(w, panel_cost(n, w, target) + 1e-9 * abs(w - 2 * width)) for w in widths]


def panel_cost(n: int, width: int, target: Target) -> float:
    """Cycles of one row's step over all panels, by a model: a multiply-add each cycle, half of one for a
    narrower last vector; or the loads of a tile's operands, where those take longer."""
    vectors, tail = divmod(width, lanes(target))
    arithmetic = vectors + (0.5 * NARROW if tail else 0)
    rows = min(registers(target) // (vectors + bool(tail)), TALLEST)
    return -(-n // width) * max(arithmetic, 1 + (vectors + bool(tail)) / rows)


def dot_widths(n: int, taps: int, run: int, target: Target) -> list[Candidate]:
    """Panels of one column, where vectors lie along `taps` runs of `run` summed elements: a row's step costs
    a load for each vector and a multiply-add for each of its columns, and a column's lanes are added up."""
    vectors = taps * -(-run // lanes(target))
    cycles = vectors * (UNALIGNED + n) + n * ACROSS
    return [Candidate(1, cycles / (taps * run))] if n <= MOST_DOTS else []


def choose_shape(m: Dim, width: int, target: Target, depth: int = SHORT) -> Shape:
    """The tallest tile that fits the registers and wastes few rows, for sums of `depth` products."""
    return Shape(tile_heights(m, width, target, depth)[0], width)


def tile_heights(m: Dim, width: int, target: Target, depth: int = SHORT) -> list[int]:
    """Rows of tiles that fit the registers, from those that waste least on. What a tile costs beside its
    products is that of some rows, of few where sums are long."""
    most = max(1, registers(target) // -(-width // lanes(target)))
    low, high = bounds(m)
    if not isinstance(m, int):
        return [min(most, 8) if high is None or high > 8 else min(most, high)]
    tall = min(most, TALLEST)
    if m <= tall:
        return [max(m, 1)]
    beside = BESIDE * min(1, SHORT / depth)
    heights = range(max(tall // 2, 1), tall + 1)
    return sorted(heights, key=lambda r: (-(-m // r) * (r + beside), -r))


def over_sums(inliner: Inliner, shape: Shape, statement: Callable[[Expr], Stmt]) -> For:
    """statement(i) for each sum of a tile, as vectors of its rows."""
    r, n = inliner.loop("r"), inliner.loop("n")
    place = add(build.mul(r, const(shape.columns)), n)
    line = For(n, const(shape.columns), (statement(place),), "vector")
    return For(r, const(shape.rows), (line,), "unroll")


def multiply_rows(
    inliner: Inliner,
    shape: Shape,
    total: Buffer,
    length: Expr,
    row: Callable[[int, Expr], Expr],
    panel: Callable[[Expr, Expr], Expr],
    function: str = "mul",
) -> list[Stmt]:
    """total[r, n] += row(r, k) * panel(k, n) for k below `length`, some steps at a time and then what is
    left. With `function` "dot_bytes", each k is a word of four bytes and the product that of bytes."""

    def one(k: Expr) -> list[Stmt]:
        body: list[Stmt] = []
        for r in range(shape.rows):
            value = Var(inliner.fresh("a"), total.dtype)
            body.append(Let(value, build.cast(row(r, k), total.dtype)))
            n = inliner.loop("n")
            other = build.cast(panel(k, n), total.dtype)
            at = add(n, const(r * shape.columns))
            update: Stmt = Update(total, at, "add", build.call("mul", value, other))
            if function == "dot_bytes":
                update = Store(total, at, build.call(function, value, other, Load(total, at)))
            body.append(For(n, const(shape.columns), (update,), "vector"))
        return body

    k, steps = inliner.loop("k"), 1 if shape.rows * shape.columns >= ENOUGH else STEPS
    if isinstance(length, Const) and length.value <= steps:
        return [s for i in range(length.value) for s in one(const(i))]
    whole = build.mul(build.floordiv(length, const(steps)), const(steps))
    body = [s for u in range(steps) for s in one(add(k, const(u)))]
    result: list[Stmt] = [For(k, whole, tuple(body), "serial", const(0), steps)]
    if whole != length:
        rest = inliner.loop("k")
        result.append(For(rest, length, tuple(one(rest)), "serial", whole))
    return result
