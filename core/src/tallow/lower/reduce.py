"""Lowering of reductions: what feeds them and what follows element by element is inlined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tallow.dim import Dim, bounds, ceildiv, product
from tallow.dtype import DType, bf16, f16, f32, i64
from tallow.graph import Node
from tallow.kernel import build
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Let, Load, Stmt, Store, Update, Var
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, count_flops, unravel

COLUMNS = 64  # kept elements that one grid iteration reduces side by side


def identity(function: str, dtype: DType) -> float | int | bool:
    """The result of an empty reduction: 0, 1, the least or greatest value, True or False."""
    if function in ("add", "or"):
        return False if dtype.kind == "bool" else 0
    if function in ("mul", "and"):
        return True if dtype.kind == "bool" else 1
    if dtype.kind == "bool":
        return function == "min"
    if dtype.is_float:
        return -np.inf if function == "max" else np.inf
    info = np.iinfo(dtype.numpy)
    return int(info.min if function == "max" else info.max)


def accumulator(dtype: DType) -> DType:
    """What sums of a dtype are kept in: f32 for the narrow floats, else the dtype itself."""
    return f32 if dtype in (f16, bf16) or (dtype.is_float and dtype.bits < 16) else dtype


def lower_reduce(group: Group, target) -> Sequence[KernelCall]:
    """One kernel. Reducing the last axis runs along it; otherwise COLUMNS results at a time."""
    node = group.root
    axes = set(node["axes"])
    last_axis = node.inputs[0].rank - 1
    if last_axis in axes or not node.inputs[0].rank or len(axes) == node.inputs[0].rank:
        return _along(group, node, axes)
    return _across(group, node, axes)


def _along(group: Group, node: Node, axes: set[int]) -> Sequence[KernelCall]:
    inliner = Inliner(group)
    source = node.inputs[0]
    kept = [axis for axis in range(source.rank) if axis not in axes]
    grid = product(source.shape[axis] for axis in kept)
    row = inliner.loop("g")
    statements: list[Stmt] = []
    outer = unravel(inliner, row, [source.shape[axis] for axis in kept], statements)
    index: list[Expr] = [build.const(0)] * source.rank
    for axis, at in zip(kept, outer, strict=True):
        index[axis] = at
    store = accumulator(node.output.dtype)
    total = Buffer(inliner.fresh("acc"), store, 1, "register", True)
    statements += [
        Alloc(total),
        Store(total, build.const(0), build.const(identity(node["function"], store), store)),
    ]
    statements += _reduction_loops(inliner, node, sorted(axes), index, total, build.const(0))
    scope = inliner.scope(
        statements, {node.output: lambda _: build.cast(Load(total, build.const(0)), node.output.dtype)}
    )
    _write(scope, group, node, axes, index)
    work = bounds(product(source.shape[axis] for axis in axes))[1] or 1024
    return [_finish(inliner, group, "reduce", row, grid, statements, max(1, GRAIN // max(1, work)))]


def _reduction_loops(
    inliner: Inliner, node: Node, axes: list[int], index: list[Expr], total: Buffer, slot: Expr
) -> list[Stmt]:
    """Loops over the reduced axes that fold the operand into `total[slot]`; the innermost is a vector
    loop when it is the operand's last axis."""
    source = node.inputs[0]
    variables = {axis: inliner.loop("r") for axis in axes}
    at = tuple(variables.get(axis, index[axis]) for axis in range(source.rank))
    body: list[Stmt] = []
    element = inliner.scope(body).read(source, at)
    body.append(Update(total, slot, node["function"], build.cast(element, total.dtype)))
    for axis in reversed(axes):
        kind = "vector" if axis == source.rank - 1 else "serial"
        body = [For(variables[axis], inliner.size(source.shape[axis]), tuple(body), kind)]
    return body


def _across(group: Group, node: Node, axes: set[int]) -> Sequence[KernelCall]:
    inliner = Inliner(group)
    source = node.inputs[0]
    kept = [axis for axis in range(source.rank) if axis not in axes]
    width = source.shape[-1]
    blocks = ceildiv(width, COLUMNS)
    grid = product(source.shape[axis] for axis in kept[:-1]) * blocks
    row = inliner.loop("g")
    statements: list[Stmt] = []
    outer = unravel(inliner, row, [*(source.shape[axis] for axis in kept[:-1]), blocks], statements)
    start = Var(inliner.fresh("start"))
    statements.append(Let(start, build.mul(outer[-1], build.const(COLUMNS))))
    stop = Var(inliner.fresh("count"))
    rest = build.sub(inliner.size(width), start)
    statements.append(Let(stop, build.call("min", rest, build.const(COLUMNS))))
    index: list[Expr] = [build.const(0)] * source.rank
    for axis, position in zip(kept[:-1], outer[:-1], strict=True):
        index[axis] = position
    store = accumulator(node.output.dtype)
    total = Buffer(inliner.fresh("acc"), store, COLUMNS, "local", True)
    fill, fold, write = inliner.loop("c"), inliner.loop("c"), inliner.loop("c")
    empty = build.const(identity(node["function"], store), store)
    statements += [Alloc(total), For(fill, build.const(COLUMNS), (Store(total, fill, empty),), "vector")]
    index[-1] = build.add(start, fold)
    variables = {axis: inliner.loop("r") for axis in sorted(axes)}
    at = tuple(variables.get(axis, index[axis]) for axis in range(source.rank))
    body: list[Stmt] = []
    element = inliner.scope(body).read(source, at)
    body.append(Update(total, fold, node["function"], build.cast(element, store)))
    body = [For(fold, stop, tuple(body), "vector")]
    for axis in sorted(axes, reverse=True):
        body = [For(variables[axis], inliner.size(source.shape[axis]), tuple(body))]
    statements += body
    index[-1] = build.add(start, write)
    body = []
    scope = inliner.scope(body, {node.output: lambda _: build.cast(Load(total, write), node.output.dtype)})
    _write(scope, group, node, axes, index)
    statements.append(For(write, stop, tuple(body), "vector"))
    work = COLUMNS * (bounds(product(source.shape[axis] for axis in axes))[1] or 256)
    return [_finish(inliner, group, "reduce", row, grid, statements, max(1, GRAIN // work))]


def _write(scope, group: Group, node: Node, axes: set[int], index: list[Expr]) -> None:
    """Store the group's results at the kept part of `index`."""
    if node["keepdims"]:
        at = tuple(build.const(0) if axis in axes else e for axis, e in enumerate(index))
    else:
        at = tuple(e for axis, e in enumerate(index) if axis not in axes)
    for value in group.outputs:
        scope.store(value, value.shape, at, scope.read(value, at))


def _finish(
    inliner: Inliner, group: Group, name: str, row: Var, grid: Dim, statements: list[Stmt], grain: int
) -> KernelCall:
    flops = count_flops(group) + group.root.inputs[0].type.size
    return inliner.call(name, [For(row, inliner.size(grid), tuple(statements), "grid")], grid, grain, flops)


def lower_arg(group: Group, target) -> Sequence[KernelCall]:
    """argmax and argmin: one pass that keeps the best value and its place; NaN counts as best."""
    node = group.root
    source, axis = node.inputs[0], node["axis"]
    inliner = Inliner(group)
    kept = [a for a in range(source.rank) if a != axis]
    grid = product(source.shape[a] for a in kept)
    row = inliner.loop("g")
    statements: list[Stmt] = []
    outer = unravel(inliner, row, [source.shape[a] for a in kept], statements)
    index: list[Expr] = [build.const(0)] * source.rank
    for a, position in zip(kept, outer, strict=True):
        index[a] = position
    best = Buffer(inliner.fresh("best"), source.dtype, 1, "register", True)
    place = Buffer(inliner.fresh("place"), i64, 1, "register", True)
    zero = build.const(0)
    first = inliner.scope(statements).read(source, tuple(index))
    statements += [Alloc(best), Alloc(place), Store(best, zero, first), Store(place, zero, zero)]
    step = inliner.loop("r")
    index[axis] = step
    body: list[Stmt] = []
    scope = inliner.scope(body)
    element = scope.let(scope.read(source, tuple(index)), "e")
    body.append(
        If(_better(node, element, Load(best, zero)), (Store(best, zero, element), Store(place, zero, step)))
    )
    statements.append(For(step, inliner.size(source.shape[axis]), tuple(body), start=build.const(1)))
    final = inliner.scope(statements, {node.output: lambda _: Load(place, zero)})
    index[axis] = zero
    _write(final, group, node, {axis}, index)
    work = bounds(source.shape[axis])[1] or 1024
    return [_finish(inliner, group, node.op, row, grid, statements, max(1, GRAIN // max(1, work)))]


def _better(node: Node, element: Expr, best: Expr) -> Expr:
    compare = {
        ("argmax", False): "gt",
        ("argmax", True): "ge",
        ("argmin", False): "lt",
        ("argmin", True): "le",
    }
    better = build.call(compare[node.op, bool(node.attributes.get("last", False))], element, best)
    if not element.dtype.is_float:
        return better
    new_nan, old_nan = build.call("isnan", element), build.call("isnan", best)
    if node.attributes.get("last", False):
        return build.call("or", better, new_nan)
    return build.call("and", build.call("or", better, new_nan), build.call("not", old_nan))


def lower_cumulative(group: Group, target) -> Sequence[KernelCall]:
    """Running sums or products: serial along the axis, one grid iteration for each other index."""
    node = group.root
    source, axis = node.inputs[0], node["axis"]
    inliner = Inliner(group)
    kept = [a for a in range(source.rank) if a != axis]
    grid = product(source.shape[a] for a in kept)
    row = inliner.loop("g")
    statements: list[Stmt] = []
    outer = unravel(inliner, row, [source.shape[a] for a in kept], statements)
    index: list[Expr] = [build.const(0)] * source.rank
    for a, position in zip(kept, outer, strict=True):
        index[a] = position
    store = accumulator(source.dtype)
    total = Buffer(inliner.fresh("acc"), store, 1, "register", True)
    zero = build.const(0)
    statements += [Alloc(total), Store(total, zero, build.const(identity(node["function"], store), store))]
    step = inliner.loop("r")
    extent = inliner.size(source.shape[axis])
    index[axis] = build.sub(build.sub(extent, build.const(1)), step) if node["reverse"] else step
    at = tuple(index)
    body: list[Stmt] = []
    scope = inliner.scope(body)
    element = build.cast(scope.read(source, at), store)
    update = Update(total, zero, node["function"], element)
    if not node["exclusive"]:
        body.append(update)
    result = scope.let(build.cast(Load(total, zero), node.output.dtype), "sum")
    if node["exclusive"]:
        body.append(update)
    written = inliner.scope(body, {node.output: lambda _: result})
    for value in group.outputs:
        written.store(value, value.shape, at, written.read(value, at))
    statements.append(For(step, extent, tuple(body)))
    return [_finish(inliner, group, "cumulative", row, grid, statements, 1)]
