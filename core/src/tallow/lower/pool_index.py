"""Lowering of max_pool_with_index: the greatest element of each window and where it is in the tensor."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import Dim, bounds, product
from tallow.dtype import bool_, i64
from tallow.kernel import build
from tallow.kernel.build import add, const, less, logical_and, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Load, Stmt, Store
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, unravel
from tallow.lower.reduce import identity


def lower_pool_index(group: Group, target) -> Sequence[KernelCall]:
    """Vectors along the last axis of the result; the first of equal elements counts, NaN as greatest."""
    node = group.root
    x, (best, where) = node.inputs[0], node.outputs
    inliner = Inliner(group)
    item, statements = inliner.loop("g"), []
    outer = unravel(inliner, item, best.shape[:-1], statements)
    column, body = inliner.loop("i"), []
    index = (*outer, column)
    top = Buffer(inliner.fresh("top"), x.dtype, 1, "register", True)
    place = Buffer(inliner.fresh("place"), i64, 1, "register", True)
    found = Buffer(inliner.fresh("found"), bool_, 1, "register", True)
    zero = const(0)
    body += [Alloc(top), Alloc(place), Alloc(found)]
    body += [
        Store(top, zero, build.const(identity("max", x.dtype), x.dtype)),
        Store(place, zero, const(-1)),
        Store(found, zero, build.const(False, bool_)),
    ]
    body += _taps(inliner, group, index, (top, place, found))
    scope = inliner.scope(body)
    scope.store(best, best.shape, index, Load(top, zero))
    plane = add(mul(index[0], inliner.size(x.shape[1])), index[1])
    start = mul(plane, inliner.size(product(x.shape[2:])))
    scope.store(where, where.shape, index, add(start, Load(place, zero)))
    statements.append(For(column, inliner.size(best.shape[-1]), tuple(body), "vector"))
    grid = product(best.shape[:-1])
    work = (bounds(best.shape[-1])[1] or 64) * product(node["kernel"])
    loop = For(item, inliner.size(grid), tuple(statements), "grid")
    return [inliner.call(node.op, [loop], grid, max(1, GRAIN // max(1, work)))]


def _taps(inliner: Inliner, group: Group, index: tuple[Expr, ...], state) -> list[Stmt]:
    """Loops over the window that keep the best element inside the tensor."""
    node, x = group.root, group.root.inputs[0]
    top, place, found = state
    zero, taps = const(0), [inliner.loop("k") for _ in node["kernel"]]
    body: list[Stmt] = []
    scope = inliner.scope(body)
    inside: Expr = build.const(True, bool_)
    at: list[Expr] = []
    for axis, tap in enumerate(taps):
        start = sub(mul(index[2 + axis], const(node["strides"][axis])), inliner.size(node["pads"][axis][0]))
        position = scope.let(add(start, mul(tap, const(node["dilations"][axis]))), "at")
        fits = logical_and(less(const(-1), position), less(position, inliner.size(x.shape[2 + axis])))
        inside, at = logical_and(inside, fits), [*at, position]
    inside = scope.let(inside, "inside")
    element = scope.read(x, (index[0], index[1], *at), inside)
    held = Load(top, zero)
    better = build.call("gt", element, held)
    if x.dtype.is_float:
        nan = build.call("and", build.call("isnan", element), build.call("not", build.call("isnan", held)))
        better = build.call("or", better, nan)
    better = build.call("or", better, build.call("not", Load(found, zero)))
    flat = _position(inliner, x.shape[2:], at, node["column_major"])
    update = (
        Store(top, zero, element),
        Store(place, zero, flat),
        Store(found, zero, build.const(True, bool_)),
    )
    body.append(If(logical_and(inside, better), update))
    for tap, extent in zip(reversed(taps), reversed(node["kernel"]), strict=True):
        body = [For(tap, const(extent), tuple(body))]
    return body


def _position(inliner: Inliner, shape: Sequence[Dim], at: Sequence[Expr], column_major: bool) -> Expr:
    """The number of an element of a plane, counted along the last axis first, or along the first."""
    axes: list[int] = list(range(len(shape)))
    flat: Expr = const(0)
    for axis in reversed(axes) if column_major else axes:
        flat = add(mul(flat, inliner.size(shape[axis])), at[axis])
    return flat
