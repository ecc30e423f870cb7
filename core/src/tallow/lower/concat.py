"""Lowering of concat: one kernel for each operand, written where it belongs in the result."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import Dim, bounds, product
from tallow.kernel import build
from tallow.kernel.grammar import Expr, For, Stmt
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, unravel


def lower_concat(group: Group, target) -> Sequence[KernelCall]:
    """Copies of the operands, whatever feeds them inlined; the group has no epilogue."""
    node = group.root
    axis, result = node["axis"], node.output
    calls: list[KernelCall] = []
    offset: Dim = 0
    for operand in node.inputs:
        inliner = Inliner(group)
        row = inliner.loop("g")
        statements: list[Stmt] = []
        outer = unravel(inliner, row, operand.shape[:-1], statements)
        column = inliner.loop("i")
        body: list[Stmt] = []
        scope = inliner.scope(body)
        index = (*outer, column)
        place: list[Expr] = list(index)
        place[axis] = build.add(index[axis], inliner.size(offset))
        scope.store(result, result.shape, tuple(place), scope.read(operand, index))
        statements.append(For(column, inliner.size(operand.shape[-1]), tuple(body), "vector"))
        grid = product(operand.shape[:-1])
        per_row = bounds(operand.shape[-1])[1] or 512
        loop = For(row, inliner.size(grid), tuple(statements), "grid")
        calls.append(inliner.call("concat", [loop], grid, max(1, GRAIN // max(1, per_row))))
        offset = offset + operand.shape[axis]
    return [call for call in calls if call.grid != 0] or calls[:1]
