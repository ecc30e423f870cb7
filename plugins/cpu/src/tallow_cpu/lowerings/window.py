"""Pools and depthwise convolutions with channels last: vectors of channels, windows as inner loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tallow.backend import Target
from tallow.dim import Dim, bounds, product
from tallow.dtype import bool_
from tallow.graph import Node
from tallow.kernel import build
from tallow.kernel.build import add, const, floordiv, maximum, minimum, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Let, Load, Stmt, Store, Update, Var
from tallow.kernel.vectorise import identity
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.tile import lanes

WRITTEN_OUT = 25  # taps of a window that become straight code


def _range(at: Expr, size: Expr, kernel: int, stride: int, low: Dim, dilation: int, inliner: Inliner):
    """First tap, end of taps and origin of the window at `at` that lie inside 0..size-1."""
    origin = sub(mul(at, const(stride)), inliner.size(low))
    if dilation == 1:
        first = maximum(sub(const(0), origin), const(0))
        stop = minimum(sub(size, origin), const(kernel))
    else:
        first = floordiv(add(maximum(sub(const(0), origin), const(0)), const(dilation - 1)), const(dilation))
        room = maximum(sub(size, origin), const(0))
        stop = minimum(floordiv(add(room, const(dilation - 1)), const(dilation)), const(kernel))
    return first, stop, origin


def lower_pool(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.pool: one grid iteration for each pixel."""
    return _window(group, target, group.root["kernel"], group.root["function"], None, "pool")


def lower_depthwise(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.depthwise: one grid iteration for each pixel; taps are read like the data."""
    weights = group.root.inputs[1]
    return _window(group, target, weights.shape[:-1], "add", weights, "depthwise")


def _window(
    group: Group, target: Target, kernel, function: str, weights, name: str
) -> Sequence[KernelCall] | Declined:
    if group.prologue:
        return Declined("operands of a window operator must be in memory")
    node = group.root
    inliner = Inliner(group)
    x = node.inputs[0]
    data = inliner.buffer(x)
    taps = None if weights is None else inliner.buffer(weights)
    result = node.output.shape
    channels = result[-1]
    grid = product(result[:-1])
    item = inliner.loop("g")
    statements: list[Stmt] = []
    image, *place = unravel(inliner, item, result[:-1], statements)
    spans = []
    for axis, at in enumerate(place):
        size = inliner.size(x.shape[1 + axis])
        low = node["pads"][axis][0]
        parts = _range(at, size, kernel[axis], node["strides"][axis], low, node["dilations"][axis], inliner)
        named = []
        for part, hint in zip(parts, ("first", "stop", "origin"), strict=True):
            var = Var(inliner.fresh(hint))
            statements.append(Let(var, part))
            named.append(var)
        spans.append(named)
    kind = accumulator(x.dtype)
    block = _block(channels, target)
    total = Buffer(inliner.fresh("acc"), kind, block, "register", True)
    start = inliner.loop("c")
    window = _Window(inliner, node, data, taps, total, tuple(kernel), function, spans, image, start)
    body: list[Stmt] = [Alloc(total), *_accumulate(window)]
    n = inliner.loop("n")
    column = add(start, n)
    write: list[Stmt] = []
    scope = inliner.scope(write, {node.output: lambda _: build.cast(Load(total, n), node.output.dtype)})
    index = (image, *place, column)
    for value in group.outputs:
        scope.store(value, value.shape, index, scope.read(value, index))
    body.append(_masked(n, column, write, channels, block, inliner))
    statements.append(For(start, inliner.size(channels), tuple(body), "serial", const(0), block))
    flops = node.output.type.size * product(kernel) * (2 if taps else 1) + count_flops(group)
    per = (bounds(channels)[1] or 64) * product(kernel)
    loop = For(item, inliner.size(grid), tuple(statements), "grid")
    return [inliner.call(name, [loop], grid, max(1, GRAIN // max(1, per)), flops)]


@dataclass(frozen=True, slots=True)
class _Window:
    """One window of a block of channels: where it stands and what folds it."""

    inliner: Inliner
    node: Node
    data: Buffer
    taps: Buffer | None
    total: Buffer
    kernel: tuple[int, ...]
    function: str
    spans: list  # per axis: first tap, end of taps and origin
    image: Expr
    start: Expr  # first channel

    def fold(self, place: Expr, tap: Expr) -> Stmt:
        """total += data[place..] (times taps[tap..]) for the block's channels."""
        kind, channels = self.total.dtype, self.node.inputs[0].shape[-1]
        n = self.inliner.loop("n")
        element = build.cast(Load(self.data, add(place, n)), kind)
        if self.taps is not None:
            element = build.call("mul", element, build.cast(Load(self.taps, add(tap, n)), kind))
        update = Update(self.total, n, self.function, element)
        return _masked(n, add(self.start, n), [update], channels, self.total.size, self.inliner)

    def position(self, at: Sequence[Expr]) -> Expr:
        """The element of the data at these coordinates, first channel of the block."""
        x, flat = self.node.inputs[0], self.image
        for axis, place in enumerate(at):
            flat = add(mul(flat, self.inliner.size(x.shape[1 + axis])), place)
        return add(mul(flat, self.inliner.size(x.shape[-1])), self.start)


def _accumulate(w: _Window) -> list[Stmt]:
    """Windows that lie inside take every tap, written out; those at the edges loop over the taps they have."""
    kind = w.total.dtype
    zero = w.inliner.loop("z")
    empty = const(0, kind) if w.function == "add" else build.const(identity("max", kind), kind)
    edge = _edge_taps(w)
    if product(w.kernel) <= WRITTEN_OUT:
        inside: Expr = const(True, bool_)
        for (first, stop, _), size in zip(w.spans, w.kernel, strict=True):
            inside = build.logical_and(inside, build.call("eq", first, const(0)))
            inside = build.logical_and(inside, build.call("eq", stop, const(size)))
        edge = [If(inside, tuple(_all_taps(w)), tuple(edge))]
    return [For(zero, const(w.total.size), (Store(w.total, zero, empty),), "vector"), *edge]


def _edge_taps(w: _Window) -> list[Stmt]:
    loops = [w.inliner.loop("k") for _ in w.kernel]
    at, tap = [], const(0)
    for axis, k in enumerate(loops):
        at.append(add(w.spans[axis][2], mul(k, const(w.node["dilations"][axis]))))
        tap = add(mul(tap, const(w.kernel[axis])), k)
    place, weight = Var(w.inliner.fresh("place")), Var(w.inliner.fresh("tap"))
    channels = w.inliner.size(w.node.inputs[0].shape[-1])
    inner: list[Stmt] = [Let(place, w.position(at)), Let(weight, add(mul(tap, channels), w.start))]
    inner.append(w.fold(place, weight))
    for axis in reversed(range(len(w.kernel))):
        first, stop, _ = w.spans[axis]
        inner = [For(loops[axis], stop, tuple(inner), "serial", first)]
    return inner


def _all_taps(w: _Window) -> list[Stmt]:
    x = w.node.inputs[0]
    base = Var(w.inliner.fresh("base"))
    result: list[Stmt] = [Let(base, w.position([origin for _, _, origin in w.spans]))]
    for number, taps in enumerate(np.ndindex(*w.kernel)):
        step: Dim = 0
        for axis, k in enumerate(taps):
            step = step * x.shape[1 + axis] + k * w.node["dilations"][axis]
        place = add(base, w.inliner.size(step * x.shape[-1]))
        weight = add(w.inliner.size(x.shape[-1] * number), w.start)
        result.append(w.fold(place, weight))
    return result


def _block(channels: Dim, target: Target) -> int:
    """Channels of one block: one to four vectors, the number that wastes least."""
    if not isinstance(channels, int):
        return 2 * lanes(target)
    vectors = -(-channels // lanes(target))
    return min((4, 3, 2, 1), key=lambda v: (-(-vectors // v) * v, -v)) * lanes(target)


def _masked(n: Var, column: Expr, body: list[Stmt], channels: Dim, block: int, inliner: Inliner) -> Stmt:
    if not (isinstance(channels, int) and channels % block == 0):
        body = [If(build.less(column, inliner.size(channels)), tuple(body))]
    return For(n, const(block), tuple(body), "vector")
