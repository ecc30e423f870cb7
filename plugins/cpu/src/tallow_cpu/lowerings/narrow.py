"""Index rules whose last axis is a few elements, as of pictures with channels last: whole vectors are written.

Vectors lie along the axis before. Those of all last elements are kept in registers and then written in the
order of memory, by shuffles, where the common lowering scatters each.
"""

from __future__ import annotations

from collections.abc import Sequence

from tallow.backend import Target
from tallow.dim import bounds, ceildiv, product
from tallow.graph import Value
from tallow.kernel import build
from tallow.kernel.build import add, const, minimum, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, Load, Stmt, Store
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, collapse, count_flops, is_narrow, lower_pointwise, rename, unravel
from tallow_cpu.lowerings.tile import lanes

WIDEST = 8  # last elements
PIECE = 2048  # of the axis before, of a grid iteration


def lower_elements(group: Group, target: Target) -> Sequence[KernelCall]:
    """A group of index rules."""
    merged, back = collapse(group)
    shape = merged.outputs[0].shape
    plain = all(v.dtype.kind != "string" and v.dtype.bits >= 8 for v in merged.outputs)
    if not plain or not is_narrow(shape):
        return lower_pointwise(group, target)
    return [rename(_Narrow(merged, target).call(), back, flops=count_flops(group))]


class _Narrow:
    """One kernel while it is written."""

    def __init__(self, group: Group, target: Target):
        self.group, self.inliner = group, Inliner(group)
        *self.lead, self.length, self.last = group.outputs[0].shape
        self.block = lanes(target)

    def call(self) -> KernelCall:
        inliner = self.inliner
        pieces = ceildiv(self.length, PIECE)
        item = inliner.loop("g")
        body: list[Stmt] = []
        *outer, piece = unravel(inliner, item, (*self.lead, pieces), body)
        start = inliner.let(body, mul(piece, const(PIECE)), "start")
        stop = inliner.let(body, minimum(add(start, const(PIECE)), inliner.size(self.length)), "stop")
        whole = mul(build.floordiv(sub(stop, start), const(self.block)), const(self.block))
        edge = inliner.let(body, add(start, whole), "edge")
        held = [self.registers(value) for value in self.group.outputs]
        at = inliner.loop("p")
        body += map(Alloc, held)
        body.append(For(at, edge, tuple(self.rows(outer, at, held)), "serial", start, self.block))
        body += [self.column(outer, last, edge, stop) for last in range(self.last)]
        grid = product(self.lead) * pieces
        work = min(bounds(self.length)[1] or PIECE, PIECE) * self.last
        loop = For(item, inliner.size(grid), tuple(body), "grid")
        return inliner.call("pointwise", [loop], grid, max(1, GRAIN // max(1, work)))

    def registers(self, value: Value) -> Buffer:
        return Buffer(self.inliner.fresh("held"), value.dtype, self.block * self.last, "register", True)

    def rows(self, outer: Sequence[Expr], at: Expr, held: Sequence[Buffer]) -> list[Stmt]:
        """A block of rows: what all last elements are, and then the results in their order."""
        inliner, body = self.inliner, []
        for last in range(self.last):
            lane = inliner.loop("i")
            inner: list[Stmt] = []
            scope = inliner.scope(inner)
            for value, buffer in zip(self.group.outputs, held, strict=True):
                element = scope.read(value, (*outer, add(at, lane), const(last)))
                inner.append(Store(buffer, add(const(last * self.block), lane), element))
            body.append(For(lane, const(self.block), tuple(inner), "vector"))
        for value, buffer in zip(self.group.outputs, held, strict=True):
            target = inliner.buffer(value, writable=True)
            begin = inliner.let(body, inliner.linear(value.shape, (*outer, at, const(0))), "begin")
            for v in range(self.last):
                lane = inliner.loop("i")
                place = add(const(v * self.block), lane)
                row, last = build.floordiv(place, const(self.last)), build.mod(place, const(self.last))
                element = Load(buffer, add(mul(last, const(self.block)), row))
                store = Store(target, add(begin, place), element)
                body.append(For(lane, const(self.block), (store,), "vector"))
        return body

    def column(self, outer: Sequence[Expr], last: int, start: Expr, stop: Expr) -> For:
        """The rows that are left, for one of the last elements."""
        lane = self.inliner.loop("i")
        body: list[Stmt] = []
        scope = self.inliner.scope(body)
        index = (*outer, lane, const(last))
        for value in self.group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))
        return For(lane, stop, tuple(body), "vector", start)
