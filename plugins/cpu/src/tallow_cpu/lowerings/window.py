"""Pools and depthwise convolutions with channels last: vectors of channels, windows as inner loops."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.backend import Target
from tallow.dim import Dim, bounds, product
from tallow.kernel import build
from tallow.kernel.build import add, const, floordiv, maximum, minimum, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Let, Load, Stmt, Store, Update, Var
from tallow.kernel.vectorise import identity
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.tile import lanes


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
    block = min(4 * lanes(target), 64)
    total = Buffer(inliner.fresh("acc"), kind, block, "register", True)
    start = inliner.loop("c")
    inner = _accumulate(
        inliner, node, x, data, taps, total, start, image, spans, kernel, function, block, channels, target
    )
    body: list[Stmt] = [Alloc(total), *inner]
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


def _accumulate(
    inliner, node, x, data, taps, total, start, image, spans, kernel, function, block, channels, target
) -> list[Stmt]:
    kind = total.dtype
    zero = inliner.loop("z")
    empty = const(0, kind) if function == "add" else build.const(identity("max", kind), kind)
    loops = [inliner.loop("k") for _ in kernel]
    flat: Expr = image
    tap: Expr = const(0)
    for axis, k in enumerate(loops):
        at = add(spans[axis][2], mul(k, const(node["dilations"][axis])))
        flat = add(mul(flat, inliner.size(x.shape[1 + axis])), at)
        tap = add(mul(tap, const(kernel[axis])), k)
    n = inliner.loop("n")
    size = inliner.size(channels)
    place, weight = Var(inliner.fresh("place")), Var(inliner.fresh("tap"))
    inner: list[Stmt] = [Let(place, add(mul(flat, size), start)), Let(weight, add(mul(tap, size), start))]
    element = build.cast(Load(data, add(place, n)), kind)
    if taps is not None:
        element = build.call("mul", element, build.cast(Load(taps, add(weight, n)), kind))
    update: list[Stmt] = [Update(total, n, function, element)]
    inner.append(_masked(n, add(start, n), update, channels, block, inliner))
    for axis in reversed(range(len(kernel))):
        first, stop, _ = spans[axis]
        inner = [For(loops[axis], stop, tuple(inner), "serial", first)]
    return [For(zero, const(block), (Store(total, zero, empty),), "vector"), *inner]


def _masked(n: Var, column: Expr, body: list[Stmt], channels: Dim, block: int, inliner: Inliner) -> Stmt:
    if not (isinstance(channels, int) and channels % block == 0):
        body = [If(build.less(column, inliner.size(channels)), tuple(body))]
    return For(n, const(block), tuple(body), "vector")
