"""Convolutions in groups of few channels, with channels last: vectors of result channels, as of depthwise ones.

A vector of results belongs to several groups. What it is made from lies side by side, is loaded once, and
each product takes its elements from there by a shuffle of lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tallow.backend import Target
from tallow.dtype import DType
from tallow.kernel import build
from tallow.kernel.build import add, const, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, Load, Stmt, Store, Update
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.tile import is_roomy
from tallow_cpu.lowerings.window import Window

NARROWEST = 4  # lanes
MOST, FEW = 8, 4  # results of a strip with 32 vector registers, and with 16
WRITTEN_OUT = 64  # products of one result, at most, that are straight code


def block_of(channels: int, groups: int, each: int, taps: int, dtype: DType, target: Target) -> int:
    """How many neighbouring result channels make a vector of whole groups; 0 where they do not. `each`: data
    channels of a group; `taps`: of a line of the window."""
    n = channels // groups
    if each * taps > WRITTEN_OUT or each > 2 * n:
        return 0
    lanes = max(target.vector_bytes, 16) // accumulator(dtype).itemsize
    while lanes >= NARROWEST and lanes > n:
        if channels % lanes == 0 and lanes % n == 0:
            return lanes
        lanes //= 2
    return 0


def lower_grouped(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.grouped."""
    if any(n.op != "constant" for n in group.prologue):
        return Declined("operands of a window operator must be in memory")
    return _Grouped(group, target).call("grouped")


class _Grouped(Window):
    """One kernel while it is written."""

    def __init__(self, group: Group, target: Target):
        x, weights = group.root.inputs
        *kernel, self.each, channels = weights.shape
        super().__init__(group, target, tuple(kernel), "add", weights)
        groups = x.shape[-1] // self.each
        self.results = channels // groups
        self.block = block_of(channels, groups, self.each, kernel[-1], x.dtype, target)
        self.wide = self.block // self.results * self.each
        self.most = min(self.most, MOST if is_roomy(target) else FEW)

    @property
    def products(self) -> int:
        return 2 * self.each

    def strip(
        self, lead, spans, begin: Expr, count: int, start: Expr, stop: Expr, valid: Callable[[int, int], bool]
    ) -> For:
        """`count` neighbouring results from `begin` on, for all channels; valid(result, tap) tells what of
        the windows is inside."""
        inliner = self.inliner
        first = inliner.loop("c")
        total, held = self.buffers(count)
        inner: list[Stmt] = []
        loops, base, tap = self.outer_taps(inner, lead, spans)
        origin = sub(mul(begin, const(self.stride)), inliner.size(self.low))
        base = add(mul(base, inliner.size(self.x.shape[-2])), origin)
        base = inliner.let(inner, self.element_at(base, first), "base")
        tap = inliner.let(inner, self.weight_at(mul(tap, const(self.kernel[-1])), first), "tap")
        for place, readers in self.readers(count, valid):
            inner.append(self.hold(held, add(base, const(self.x.shape[-1] * place))))
            inner += self.multiply(total, held, tap, readers)
        body = [*self.begin(total, held), *self.nest(loops, inner)]
        for p in range(count):
            body += self.finish(total, p, (*lead, add(begin, const(p))), first)
        return For(first, stop, tuple(body), "serial", start, self.block)

    def single(self, lead, spans, at: Expr, start: Expr, stop: Expr) -> For:
        """One result at the end of a line, for all channels."""
        first = self.inliner.loop("c")
        total, held = self.buffers(1)
        inner: list[Stmt] = []
        loops, place, tap = self.outer_taps(inner, lead, spans)
        base = self.inliner.let(inner, self.element_at(place, first), "base")
        tap = self.inliner.let(inner, self.weight_at(tap, first), "tap")
        inner.append(self.hold(held, base))
        inner += self.multiply(total, held, tap, [(0, 0)])
        body = [*self.begin(total, held), *self.nest(loops, inner)]
        body += self.finish(total, 0, (*lead, at), first)
        return For(first, stop, tuple(body), "serial", start, self.block)

    # Parts ------------------------------------------------------------------------------------------

    def buffers(self, count: int) -> tuple[Buffer, Buffer]:
        """Sums of `count` vectors, and what one place of the picture has for them."""
        total = Buffer(self.inliner.fresh("acc"), self.kind, count * self.block, "register", True)
        return total, Buffer(self.inliner.fresh("held"), self.kind, self.wide, "register", True)

    def element_at(self, place: Expr, first: Expr) -> Expr:
        """Where the data of a block begin: `first` is a multiple of whole groups."""
        whole = mul(build.floordiv(first, const(self.results)), const(self.each))
        return add(mul(place, const(self.x.shape[-1])), whole)

    def weight_at(self, tap: Expr, first: Expr) -> Expr:
        return add(mul(tap, const(self.each * self.channels)), first)

    def begin(self, total: Buffer, held: Buffer) -> list[Stmt]:
        body: list[Stmt] = [Alloc(total), Alloc(held)]
        for p in range(0, total.size, self.block):
            lane = self.inliner.loop("i")
            zero = Store(total, add(const(p), lane), const(0, self.kind))
            body.append(For(lane, const(self.block), (zero,), "vector"))
        return body

    def hold(self, held: Buffer, base: Expr) -> For:
        lane = self.inliner.loop("i")
        value = build.cast(Load(self.data, add(base, lane)), self.kind)
        return For(lane, const(self.wide), (Store(held, lane, value),), "vector")

    def multiply(self, total: Buffer, held: Buffer, tap: Expr, readers) -> list[Stmt]:
        """Products of a place with the taps of each result that reads it: (result, tap) in `readers`."""
        loops: list[Stmt] = []
        for j in range(self.each):
            lane = self.inliner.loop("i")
            body: list[Stmt] = []
            own = mul(build.floordiv(lane, const(self.results)), const(self.each))
            value = self.inliner.let(body, Load(held, add(own, const(j))), "x")
            for p, k in readers:
                at = add(tap, const((k * self.each + j) * self.channels))
                weight = build.cast(Load(self.taps, add(at, lane)), self.kind)
                product = build.call("mul", value, weight)
                body.append(Update(total, add(const(p * self.block), lane), "add", product))
            loops.append(For(lane, const(self.block), tuple(body), "vector"))
        return loops

    def finish(self, total: Buffer, p: int, index, first: Expr) -> list[Stmt]:
        lane = self.inliner.loop("i")
        body = self.write(total, add(const(p * self.block), lane), (*index, add(first, lane)))
        return [For(lane, const(self.block), tuple(body), "vector")]
