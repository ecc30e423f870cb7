"""Element by element: a thread for each result, neighbours beside each other; or vectors of the last axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tallow.dim import Dim, bounds, product
from tallow.kernel.grammar import Expr, For, Stmt
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, collapse, count_flops, lower_pointwise, rename, unravel
from tallow.target import Target

Write = Callable[[list[Stmt], tuple[Expr, ...]], None]  # (body, index): the statements of one element


def over_elements(
    inliner: Inliner, target: Target, name: str, shape: Sequence[Dim], write: Write, cost: int, flops: Dim
) -> KernelCall:
    """The kernel that runs `write` for each index of a shape; `cost` is arithmetic of one element."""
    item = inliner.loop("g")
    body: list[Stmt] = []
    shape = tuple(shape) or (1,)
    if not target.vector_bytes:
        write(body, unravel(inliner, item, shape, body))
        loop = For(item, inliner.size(product(shape)), tuple(body), "grid")
        return inliner.call(name, [loop], product(shape), 1, flops)
    outer = unravel(inliner, item, shape[:-1], body)
    column = inliner.loop("i")
    inner: list[Stmt] = []
    write(inner, (*outer, column))
    body.append(For(column, inliner.size(shape[-1]), tuple(inner), "vector"))
    grid = product(shape[:-1])
    work = (bounds(shape[-1])[1] or 256) * cost
    loop = For(item, inliner.size(grid), tuple(body), "grid")
    return inliner.call(name, [loop], grid, max(1, GRAIN // max(1, work)), flops)


def lower_elements(group: Group, target: Target) -> Sequence[KernelCall]:
    """Groups that are index rules all through."""
    if target.vector_bytes:
        return lower_pointwise(group, target)
    merged, back = collapse(group)
    inliner = Inliner(merged)

    def write(body: list[Stmt], index: tuple[Expr, ...]) -> None:
        scope = inliner.scope(body)
        for value in merged.outputs:
            at = index if value.rank else ()
            scope.store(value, value.shape, at, scope.read(value, at))

    flops = count_flops(group)
    call = over_elements(inliner, target, "pointwise", merged.outputs[0].shape, write, 1, flops)
    return [rename(call, back, flops=flops)]
