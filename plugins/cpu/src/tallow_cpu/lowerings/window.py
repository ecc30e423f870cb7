"""Pools and depthwise convolutions with channels last: strips of neighbouring results, vectors of channels.

A grid iteration makes one line of results. A strip keeps the sums of several neighbours in registers, so
that each element of the picture and each tap is loaded once for all of them. At the ends of a line of
known length the strips leave out the taps that fall outside; elsewhere the ends go result by result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from tallow.backend import Target
from tallow.choices import Candidate
from tallow.dim import Dim, bounds, ceildiv, floordiv, product
from tallow.graph import Value
from tallow.kernel import build
from tallow.kernel.build import add, const, maximum, minimum, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, Let, Load, Stmt, Store, Update, Var
from tallow.kernel.updates import identity
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.blocking import WORSE
from tallow_cpu.lowerings.tile import is_roomy

CHANNELS = 128  # of a grid iteration, where there are too few lines to share out
LINES = 16
LONGEST = 1 << 16  # results of a line whose strips are told apart one by one
MOST_TAPS = 64  # in a row, that strips write out one by one


def lower_pool(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.pool."""
    if group.prologue:
        return Declined("operands of a window operator must be in memory")
    return Window(group, target, group.root["kernel"], group.root["function"], None).call("pool")


def lower_depthwise(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.depthwise and cpu.depthwise_bytes: taps are read like the data."""
    if any(n.op != "constant" for n in group.prologue):
        return Declined("operands of a window operator must be in memory")
    weights = group.root.inputs[1]
    return Window(group, target, weights.shape[:-1], "add", weights).call("depthwise")


def span(
    inliner: Inliner, body: list[Stmt], size: Dim, at: Expr, low: Dim, stride: int, dilation: int, taps: int
) -> tuple[Expr, Expr, Expr]:
    """First tap, end of taps and origin of the window at `at` that lie inside an axis of `size` elements."""
    origin = inliner.let(body, sub(mul(at, const(stride)), inliner.size(low)), "origin")
    first = maximum(sub(const(0), origin), const(0))
    room = maximum(sub(inliner.size(size), origin), const(0))
    if dilation != 1:
        first = build.floordiv(add(first, const(dilation - 1)), const(dilation))
        room = build.floordiv(add(room, const(dilation - 1)), const(dilation))
    stop = minimum(room, const(taps))
    return inliner.let(body, first, "first"), inliner.let(body, stop, "stop"), origin


def interior(inliner: Inliner, size: Dim, width: Dim, low: Dim, stride: int, reach: int) -> tuple[Expr, Expr]:
    """First and end of the windows of an axis that lie inside, where there are any: of `width` windows that
    reach `reach` elements beyond their first."""
    most = inliner.size(width)
    begin = minimum(inliner.size(ceildiv(low, stride)), most)
    return begin, minimum(inliner.size(floordiv(size + low - 1 - reach + stride, stride)), most)


class Window:
    """One kernel while it is written. Of the window's axes, `outer` ones are loops; the last is in strips."""

    def __init__(
        self, group: Group, target: Target, kernel: tuple[int, ...], function: str, taps: Value | None
    ):
        self.group, self.node, self.function = group, group.root, function
        self.inliner = inliner = Inliner(group)
        self.x = self.node.inputs[0]
        self.kernel = tuple(kernel)
        self.data = inliner.buffer(self.x)
        self.taps = None if taps is None else inliner.buffer(taps)
        self.kind = accumulator(self.node.output.dtype)
        self.zero: Expr | None = None
        *self.lead, self.width, self.channels = self.node.output.shape
        (self.low, _), self.stride, self.dilation = (
            self.node[key][-1] for key in ("pads", "strides", "dilations")
        )
        registers = 26 if is_roomy(target) else 12
        most = max(1, min(8, registers - (self.kernel[-1] if taps is not None else 0)))
        strips = [Candidate(n, 1 + (most - n) * WORSE) for n in (most, 6, 4) if n <= most]
        constants = () if taps is None else (1,)
        self.most = target.choices.choose("strip", self.node, strips, constants)

    # The kernel -------------------------------------------------------------------------------------

    def call(self, name: str) -> Sequence[KernelCall]:
        inliner = self.inliner
        lines = product(self.lead)
        pieces, start, stop = 1, const(0), inliner.size(self.channels)
        if isinstance(lines, int) and lines < LINES and isinstance(self.channels, int):
            pieces = max(1, -(-self.channels // CHANNELS))
        item = inliner.loop("g")
        body: list[Stmt] = []
        *lead, piece = unravel(inliner, item, (*self.lead, pieces), body)
        if self.taps is not None and len(self.node.inputs) > 2:
            self.zero = inliner.let(body, inliner.scope(body).read(self.node.inputs[2], ()), "zero")
        if pieces > 1:
            start = self.inliner.let(body, mul(piece, const(CHANNELS)), "start")
            stop = self.inliner.let(body, minimum(add(start, const(CHANNELS)), stop), "stop")
        spans = [self.span(body, axis, at) for axis, at in enumerate(lead[1:])]
        body += self.line(lead, spans, start, stop)
        per_result = product(self.kernel) * self.products
        flops = self.node.output.type.size * per_result + count_flops(self.group)
        work = (
            (bounds(self.width)[1] or 64) * (bounds(self.channels)[1] or 64) * product(self.kernel) // pieces
        )
        loop = For(item, inliner.size(lines * pieces), tuple(body), "grid")
        return [inliner.call(name, [loop], lines * pieces, max(1, 4 * GRAIN // max(1, work)), flops)]

    @property
    def products(self) -> int:
        """Operations of a result for each place of its window."""
        return 2 if self.taps else 1

    def span(self, body: list[Stmt], axis: int, at: Expr) -> tuple[Expr, Expr, Expr]:
        """First tap, end of taps and origin of the window at `at` that lie inside an axis."""
        (low, _), stride, dilation = (self.node[key][axis] for key in ("pads", "strides", "dilations"))
        size = self.x.shape[1 + axis]
        return span(self.inliner, body, size, at, low, stride, dilation, self.kernel[axis])

    # A line of results ------------------------------------------------------------------------------

    def line(self, lead, spans, start: Expr, stop: Expr) -> list[Stmt]:
        known = (
            isinstance(self.width, int) and isinstance(self.x.shape[-2], int) and isinstance(self.low, int)
        )
        if self.kernel[-1] > MOST_TAPS:
            return [self.singles(lead, spans, const(0), self.inliner.size(self.width), start, stop)]
        if known and 0 < self.width <= LONGEST:
            return self.known_line(lead, spans, start, stop)
        inliner = self.inliner
        body: list[Stmt] = []
        reach = (self.kernel[-1] - 1) * self.dilation
        width = inliner.size(self.width)
        begin, end = interior(inliner, self.x.shape[-2], self.width, self.low, self.stride, reach)
        begin = inliner.let(body, begin, "begin")
        end = inliner.let(body, maximum(end, begin), "end")
        whole = build.floordiv(sub(end, begin), const(self.most))
        after = self.inliner.let(body, add(begin, mul(whole, const(self.most))), "after")
        at = inliner.loop("w")
        strip = self.strip(lead, spans, at, self.most, start, stop, lambda p, k: True)
        body.append(For(at, after, (strip,), "serial", begin, self.most))
        for first, last in ((const(0), begin), (after, width)):
            body.append(self.singles(lead, spans, first, last, start, stop))
        return body

    def known_line(self, lead, spans, start: Expr, stop: Expr) -> list[Stmt]:
        """Strips of a line of known length: those whose windows lie inside share one loop."""
        size, width = self.x.shape[-2], self.width
        length = -(-width // -(-width // self.most))
        begins = [min(b, width - length) for b in range(0, width, length)]

        def inside(begin: int, p: int, k: int) -> bool:
            return 0 <= (begin + p) * self.stride - self.low + k * self.dilation < size

        body: list[Stmt] = []
        shared = []
        for begin in begins:
            if all(inside(begin, p, k) for p in range(length) for k in range(self.kernel[-1])):
                shared.append(begin)
                continue
            valid = functools.partial(inside, begin)
            body.append(self.strip(lead, spans, const(begin), length, start, stop, valid))
        if shared:
            at, begin = self.inliner.loop("w"), Var(self.inliner.fresh("begin"))
            let = Let(begin, minimum(at, const(shared[-1])))
            strip = self.strip(lead, spans, begin, length, start, stop, lambda p, k: True)
            end = const(shared[0] + length * len(shared))
            body.append(For(at, end, (let, strip), "serial", const(shared[0]), length))
        return body

    def strip(
        self, lead, spans, begin: Expr, count: int, start: Expr, stop: Expr, valid: Callable[[int, int], bool]
    ) -> For:
        """`count` neighbouring results from `begin` on, for all channels; valid(result, tap) tells what of
        the windows is inside."""
        inliner = self.inliner
        channel = inliner.loop("c")
        total = Buffer(inliner.fresh("acc"), self.kind, count, "register", True)
        body: list[Stmt] = self.empty(total)
        inner: list[Stmt] = []
        loops, base, tap = self.outer_taps(inner, lead, spans)
        origin = sub(mul(begin, const(self.stride)), inliner.size(self.low))
        base = mul(add(mul(base, inliner.size(self.x.shape[-2])), origin), inliner.size(self.channels))
        base = self.inliner.let(inner, add(base, channel), "base")
        taps = [
            self.tap(inner, add(mul(tap, const(self.kernel[-1])), const(k)), channel)
            for k in range(self.kernel[-1])
        ]
        for place, readers in self.readers(count, valid):
            at = add(base, inliner.size(self.channels * place))
            element = self.element(inner, at)
            inner += [self.fold(total, p, element, taps[k]) for p, k in readers]
        body += self.nest(loops, inner)
        for p in range(count):
            body += self.write(total, const(p), (*lead, add(begin, const(p)), channel))
        return For(channel, stop, tuple(body), "vector", start)

    def singles(self, lead, spans, first: Expr, last: Expr, start: Expr, stop: Expr) -> For:
        """Results of a line one by one."""
        at = self.inliner.loop("w")
        inner: list[Stmt] = []
        last_span = self.span(inner, len(self.kernel) - 1, at)
        inner.append(self.single(lead, [*spans, last_span], at, start, stop))
        return For(at, last, tuple(inner), "serial", first)

    def single(self, lead, spans, at: Expr, start: Expr, stop: Expr) -> For:
        """One result of a line, for all channels."""
        channel = self.inliner.loop("c")
        total = Buffer(self.inliner.fresh("acc"), self.kind, 1, "register", True)
        inner: list[Stmt] = []
        loops, base, tap = self.outer_taps(inner, lead, spans)
        place = add(mul(base, self.inliner.size(self.channels)), channel)
        element = self.element(inner, place)
        inner.append(self.fold(total, 0, element, self.tap(inner, tap, channel)))
        body = [
            *self.empty(total),
            *self.nest(loops, inner),
            *self.write(total, const(0), (*lead, at, channel)),
        ]
        return For(channel, stop, tuple(body), "vector", start)

    # Parts ------------------------------------------------------------------------------------------

    def readers(self, count: int, valid: Callable[[int, int], bool]):
        """The places of a line, from the first one on, that `count` neighbouring results read, each with the
        (result, tap) that do."""
        for place in range((count - 1) * self.stride + (self.kernel[-1] - 1) * self.dilation + 1):
            found = [
                (p, k)
                for p in range(count)
                for k in range(self.kernel[-1])
                if p * self.stride + k * self.dilation == place and valid(p, k)
            ]
            if found:
                yield place, found

    def outer_taps(self, body: list[Stmt], lead, spans):
        """Loops over the taps of some axes; the place they make in the picture, and the tap's number."""
        base, tap, loops = lead[0], const(0), []
        for axis, (first, stop, origin) in enumerate(spans):
            k = self.inliner.loop("k")
            at = add(origin, mul(k, const(self.node["dilations"][axis])))
            base = add(mul(base, self.inliner.size(self.x.shape[1 + axis])), at)
            tap = add(mul(tap, const(self.kernel[axis])), k)
            loops.append((k, first, stop))
        return loops, self.inliner.let(body, base, "place"), tap

    def nest(self, loops, body: list[Stmt]) -> list[Stmt]:
        for var, first, stop in reversed(loops):
            body = [For(var, stop, tuple(body), "serial", first)]
        return body

    def empty(self, total: Buffer) -> list[Stmt]:
        zero = const(0, self.kind) if self.function == "add" else const(identity("max", self.kind), self.kind)
        return [Alloc(total), *(Store(total, const(p), zero) for p in range(total.size))]

    def tap(self, body: list[Stmt], tap: Expr, channel: Expr) -> Expr | None:
        if self.taps is None:
            return None
        place = add(mul(tap, self.inliner.size(self.channels)), channel)
        return self.inliner.let(body, build.cast(Load(self.taps, place), self.kind), "tap")

    def element(self, body: list[Stmt], place: Expr) -> Expr:
        value = build.cast(Load(self.data, place), self.kind)
        return self.inliner.let(body, value if self.zero is None else sub(value, self.zero), "x")

    def fold(self, total: Buffer, p: int, element: Expr, tap: Expr | None) -> Update:
        value = element if tap is None else build.call("mul", element, tap)
        return Update(total, const(p), self.function, value)

    def write(self, total: Buffer, place: Expr, index) -> list[Stmt]:
        """The sum at a place of `total` through the epilogue into the results."""
        body: list[Stmt] = []
        root = self.node.output
        scope = self.inliner.scope(body, {root: lambda _: build.cast(Load(total, place), root.dtype)})
        for value in self.group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))
        return body
