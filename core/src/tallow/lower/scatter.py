"""Lowering of scatters: a copy of the data, then the updates in their order wherever two may meet.

Updates meet only along the scattered axes, so the rest of the index is split over the grid and what is
left runs serially: results do not depend on threads. An update outside the data is not written.
"""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import Dim, bounds, ceildiv, product
from tallow.dtype import bool_, i64
from tallow.graph import Node
from tallow.kernel import build
from tallow.kernel.build import add, const, less, logical_and, minimum, mul, select
from tallow.kernel.grammar import Expr, For, If, Let, Load, Stmt, Store, Var
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner, Scope
from tallow.lower.pointwise import CHUNK, GRAIN, unravel

COLUMNS = 256  # elements of the last axis that one grid iteration updates


def lower_scatter(group: Group, target) -> Sequence[KernelCall] | Declined:
    """Both scatter_elements and scatter_nd."""
    node = group.root
    if node["reduction"] != "none" and node.output.dtype == bool_:
        return Declined("no sums and products of bool in kernels")
    update = _elements if node.op == "scatter_elements" else _tuples
    return [_copy(group), update(group, node)]


def _copy(group: Group) -> KernelCall:
    data, result = group.root.inputs[0], group.root.output
    inliner = Inliner(group)
    shape = data.shape or (1,)
    pieces = ceildiv(shape[-1], CHUNK)
    item, statements = inliner.loop("g"), []
    *outer, piece = unravel(inliner, item, (*shape[:-1], pieces), statements)
    start = mul(piece, const(CHUNK))
    stop = minimum(add(start, const(CHUNK)), inliner.size(shape[-1]))
    column, body = inliner.loop("i"), []
    scope = inliner.scope(body)
    index = (*outer, column)[: data.rank]
    scope.store(result, result.shape, index, scope.read(data, index))
    statements.append(For(column, stop, tuple(body), "vector", start))
    grid = product(shape[:-1]) * pieces
    each = min(bounds(shape[-1])[1] or CHUNK, CHUNK)
    loop = For(item, inliner.size(grid), tuple(statements), "grid")
    return inliner.call("scatter_copy", [loop], grid, max(1, GRAIN // max(1, each)))


def _split(
    inliner: Inliner, shape: Sequence[Dim], statements: list[Stmt], contiguous: bool = True
) -> tuple[Var, Dim, list[Expr], For | None]:
    """A grid over an index space, with a vector loop (its body empty) over a piece of the last axis, if
    neighbours along that lie side by side."""
    item = inliner.loop("g")
    if not shape or not contiguous:
        return item, product(shape), list(unravel(inliner, item, shape, statements)), None
    pieces = ceildiv(shape[-1], COLUMNS)
    *outer, piece = unravel(inliner, item, (*shape[:-1], pieces), statements)
    start = Var(inliner.fresh("start"))
    statements.append(Let(start, mul(piece, const(COLUMNS))))
    stop = minimum(add(start, const(COLUMNS)), inliner.size(shape[-1]))
    column = inliner.loop("i")
    return item, product(shape[:-1]) * pieces, [*outer, column], For(column, stop, (), "vector", start)


def _elements(group: Group, node: Node) -> KernelCall:
    _, indices, updates = node.inputs
    axis = node["axis"]
    inliner, statements = Inliner(group), []
    free = [d for a, d in enumerate(indices.shape) if a != axis]
    item, grid, index, columns = _split(inliner, free, statements, axis != indices.rank - 1)
    step, body = inliner.loop("u"), []
    index.insert(axis, step)
    scope = inliner.scope(body)
    at, inside = _place(inliner, scope.read(indices, tuple(index)), node.output.shape[axis])
    where = tuple(at if a == axis else e for a, e in enumerate(index))
    _write(inliner, scope, node, where, inside, scope.read(updates, tuple(index)))
    inner = (
        tuple(body)
        if columns is None
        else (For(columns.var, columns.stop, tuple(body), "vector", columns.start),)
    )
    statements.append(For(step, inliner.size(indices.shape[axis]), inner))
    return _finish(inliner, node, item, grid, statements, indices.shape[axis])


def _tuples(group: Group, node: Node) -> KernelCall:
    _, indices, updates = node.inputs
    depth, lead = indices.shape[-1], indices.shape[:-1]
    inliner, statements = Inliner(group), []
    item, grid, rest, columns = _split(inliner, node.output.shape[depth:], statements)
    steps = [inliner.loop("u") for _ in lead]
    body: list[Stmt] = []
    scope = inliner.scope(body)
    where, inside = [], build.const(True, bool_)
    for part in range(depth):
        found = scope.read(indices, (*steps, const(part)))
        at, fits = _place(inliner, found, node.output.shape[part])
        where.append(scope.let(at, "at"))
        inside = logical_and(inside, fits)
    work: list[Stmt] = []
    inner = inliner.scope(work)
    _write(inliner, inner, node, (*where, *rest), None, inner.read(updates, (*steps, *rest)))
    if columns is not None:
        work = [For(columns.var, columns.stop, tuple(work), "vector", columns.start)]
    body.append(If(inside, tuple(work)))
    for step, extent in zip(reversed(steps), reversed(lead), strict=True):
        body = [For(step, inliner.size(extent), tuple(body))]
    statements += body
    return _finish(inliner, node, item, grid, statements, product(lead))


def _place(inliner: Inliner, found: Expr, extent: Dim) -> tuple[Expr, Expr]:
    """An index counted from the start, and whether it is inside."""
    size, at = inliner.size(extent), build.cast(found, i64)
    at = select(less(at, const(0)), add(at, size), at)
    return at, logical_and(less(const(-1), at), less(at, size))


def _write(
    inliner: Inliner, scope: Scope, node: Node, where: tuple[Expr, ...], inside: Expr | None, element: Expr
) -> None:
    """One update, where it is inside."""
    result = node.output
    place = scope.let(inliner.linear(result.shape, where), "place")
    if node["reduction"] == "none":
        stored: list[Stmt] = [Store(inliner.buffer(result, writable=True), place, element)]
    else:
        buffer = inliner.buffer(result, writable=True)
        old = Var(inliner.fresh("old"), result.dtype)
        new = build.call(node["reduction"], old, element)
        stored = [Let(old, Load(buffer, place)), Store(buffer, place, new)]
    scope.statements += stored if inside is None else [If(inside, tuple(stored))]


def _finish(
    inliner: Inliner, node: Node, item: Var, grid: Dim, statements: list[Stmt], serial: Dim
) -> KernelCall:
    work = (bounds(serial)[1] or 256) * COLUMNS
    loop = For(item, inliner.size(grid), tuple(statements), "grid")
    return inliner.call(node.op, [loop], grid, max(1, GRAIN // max(1, work)))
