"""Large products of two operands in memory: panels of the right one are copied as rows of the left one are.

Without that a tile reads a page for each of its steps, and rows that are a multiple of 4 KB apart evict
each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tallow.backend import Target
from tallow.dim import Dim, bounds
from tallow.graph import Node, Value
from tallow.kernel import build
from tallow.kernel.build import add, const, less, mul
from tallow.kernel.grammar import Buffer, Expr, For, Load, Stmt, Store
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.reduce import accumulator
from tallow.ops.pointwise import operand_index
from tallow_cpu.lowerings.blocked import Blocked
from tallow_cpu.lowerings.blocking import Contraction, Write
from tallow_cpu.lowerings.tile import lanes

LEAST_ROWS = 48  # that meet a panel which was copied


def is_large(node: Node, target: Target) -> bool:
    """Whether copies pay: the right operand is more than half of the second cache, and met by many rows."""
    columns, depth, rows = node.output.shape[-1], node.inputs[0].shape[-1], node.output.shape[-2]
    if not isinstance(columns, int) or not isinstance(depth, int) or columns < 4 * lanes(target):
        return False
    most = bounds(rows)[1]
    large = columns * depth * node.inputs[1].dtype.itemsize > target.limits.get("l2", 1 << 19) // 2
    return large and (most is None or most >= LEAST_ROWS)


def lower_gathered(group: Group, target: Target) -> Sequence[KernelCall]:
    """The kernel call of a matmul of two operands in memory, of known depth and columns."""
    a = group.root.inputs[0]
    result = group.root.output.shape

    def result_index(inliner, body, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        return (*outer, row, column)

    source = BatchRows(a, result)
    work = Contraction(result[:-2], result[-2], result[-1], source, lambda outer: const(0), result_index)
    return _Gathered(group, target, work).call("product")


@dataclass(frozen=True, slots=True)
class BatchRows:
    """Rows of the left operand of a matmul."""

    a: Value
    result: tuple[Dim, ...]
    taps: int = 1
    step: int | None = None

    @property
    def each(self) -> int:
        return self.a.shape[-1]

    def start(self, outer: Sequence[Expr], row: Expr, inliner: Inliner) -> tuple[Buffer, Expr]:
        raise NotImplementedError("rows of a product in memory are always copied")

    def locate(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], row: Expr):
        return (*operand_index(self.a.shape[:-2], self.result[:-2], tuple(outer)), row)

    def copy(self, inliner: Inliner, place, tap: Expr, first: Expr, count: Expr, write: Write) -> list[Stmt]:
        i = inliner.loop("i")
        body: list[Stmt] = []
        element = inliner.scope(body).read(self.a, (*place, add(first, i)))
        body.append(write(i, build.cast(element, accumulator(self.a.dtype))))
        return [For(i, count, tuple(body), "vector")]


class _Gathered(Blocked):
    gathers = True

    def panel_shape(self, target: Target) -> tuple[int, int, int]:
        columns, width = self.work.columns, 2 * lanes(target)
        return -(-columns // width), self.work.source.each, width

    def panel_memory(self) -> Buffer:
        size = self.blocking.panels * self.blocking.run * self.shape.columns
        return Buffer(self.inliner.fresh("panels"), self.kind, size, "local", True)

    def panel_start(self, outer, number: Expr, panel: Expr, start: Expr) -> Expr:
        return mul(number, const(self.blocking.run * self.shape.columns))

    def gather(self, outer, first_panel: Expr, panels: Expr, start: Expr, length: Expr) -> list[Stmt]:
        """A piece of the block's panels, row by row of the operand; columns beyond the last are zeros."""
        inliner, width, b = self.inliner, self.shape.columns, self.group.root.inputs[1]
        k, p, n = inliner.loop("k"), inliner.loop("p"), inliner.loop("n")
        columns = self.work.columns
        origin: list[Stmt] = []
        begin = inliner.let(
            origin, batch_start(b.shape, self.group.root.output.shape, inliner, outer), "begin"
        )
        body: list[Stmt] = []
        line = inliner.let(body, add(begin, mul(add(start, k), const(columns))), "line")
        inner: list[Stmt] = []
        first = inliner.let(inner, mul(add(first_panel, p), const(width)), "first")
        place = inliner.let(inner, mul(add(mul(p, const(self.blocking.run)), k), const(width)), "place")
        column = add(first, n)
        inside = None if columns % width == 0 else less(column, const(columns))
        element = Load(inliner.buffer(b), add(line, column), 1, inside)
        store = Store(self.weights, add(place, n), build.cast(element, self.kind))
        inner.append(For(n, const(width), (store,), "vector"))
        body.append(For(p, panels, tuple(inner)))
        return [*origin, For(k, length, tuple(body))]


def batch_start(shape: Sequence[Dim], result: Sequence[Dim], inliner: Inliner, outer: Sequence[Expr]) -> Expr:
    """Element where item `outer` of an operand starts, before its last two axes."""
    at = operand_index(shape[:-2], result[:-2], tuple(outer))
    flat: Expr = const(0)
    for dim, place in zip(shape[:-2], at, strict=True):
        flat = add(mul(flat, inliner.size(dim)), place)
    return mul(flat, inliner.size(shape[-2] * shape[-1]))
