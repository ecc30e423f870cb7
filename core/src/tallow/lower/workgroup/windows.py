"""Pools and depthwise convolutions, channels first or last: one result after another, all taps of its window."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import product
from tallow.dtype import bool_
from tallow.kernel import build
from tallow.kernel.build import add, const, logical_and, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Load, Stmt, Store, Update
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops
from tallow.lower.reduce import accumulator, identity
from tallow.lower.workgroup.elements import over_elements
from tallow.target import Target


def lower_pool(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """pool and pool_last."""
    node = group.root
    if group.prologue:
        return Declined("operands of a window operator must be in memory")
    return [_window(group, target, node["kernel"], node["function"], node.op == "pool_last")]


def lower_depthwise(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """conv_last where every channel is a group of its own."""
    node = group.root
    if group.prologue or node.output.dtype == bool_:
        return Declined("operands of a convolution must be in memory, and numbers")
    return [_window(group, target, node.inputs[1].shape[:-2], "add", True, taps=True)]


def _window(
    group: Group, target: Target, kernel: Sequence[int], function: str, last: bool, taps: bool = False
) -> KernelCall:
    node, inliner = group.root, Inliner(group)
    x, y = node.inputs[0], node.output
    kind = accumulator(x.dtype)
    axis = y.rank - 1 if last else 1
    spatial = [a for a in range(y.rank) if a not in (0, axis)]
    data = inliner.buffer(x)
    weights = inliner.buffer(node.inputs[1]) if taps else None

    def write(body: list[Stmt], index: tuple[Expr, ...]) -> None:
        total = Buffer(inliner.fresh("total"), kind, 1, "register", True)
        body += [Alloc(total), Store(total, const(0), const(identity(function, kind), kind))]
        place, inside, tap, loops = list(index), build.const(True, bool_), const(0), []
        inner: list[Stmt] = []
        for n, a in enumerate(spatial):
            k = inliner.loop("k")
            origin = sub(mul(index[a], const(node["strides"][n])), inliner.size(node["pads"][n][0]))
            at = inliner.let(inner, add(origin, mul(k, const(node["dilations"][n]))), "at")
            if tuple(node["pads"][n]) != (0, 0):
                inside = logical_and(inside, build.within(at, inliner.size(x.shape[a])))
            place[a] = at
            tap = add(mul(tap, const(kernel[n])), k)
            loops.append((k, kernel[n]))
        element: Expr = build.cast(Load(data, inliner.linear(x.shape, place)), kind)
        if weights is not None:
            at = add(mul(tap, inliner.size(y.shape[axis])), index[axis])
            element = build.call("mul", element, build.cast(Load(weights, at), kind))
        fold: Stmt = Update(total, const(0), function, element)
        inner.append(fold if isinstance(inside, build.Const) else If(inside, (fold,)))
        for k, size in reversed(loops):
            inner = [For(k, const(size), tuple(inner))]
        body += inner
        scope = inliner.scope(body, {y: lambda _: build.cast(Load(total, const(0)), y.dtype)})
        for value in group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))

    size = product(kernel)
    flops = y.type.size * size * (2 if taps else 1) + count_flops(group)
    return over_elements(inliner, target, "depthwise" if taps else "pool", y.shape, write, size, flops)
