"""Lowering of groups that are index rules all through: one kernel, each result element once."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import Dim, bounds, ceildiv, product
from tallow.graph import Node, TensorType, Value
from tallow.kernel import build
from tallow.kernel.grammar import Expr, For, Let, Stmt, Var
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.ops import OPS, op
from tallow.scalar import SCALAR

CHUNK = 2048  # elements of the innermost axis that one grid iteration covers
NARROW = 8  # elements of a last axis that is not worth a vector
GRAIN = 8192  # elements that are worth a thread of its own


def lower_pointwise(group: Group, target) -> Sequence[KernelCall]:
    """One kernel for any number of results of one shape."""
    merged, back = collapse(group)
    inliner = Inliner(merged)
    shape = merged.outputs[0].shape or (1,)
    inner = shape[-1]
    long = bounds(inner)[1] is None or bounds(inner)[1] > 2 * CHUNK
    pieces: Dim = ceildiv(inner, CHUNK) if long else 1
    grid_var = inliner.loop("g")
    statements: list[Stmt] = []
    row: Expr = grid_var
    start, stop = build.const(0), inliner.size(inner)
    if long:
        count = inliner.size(pieces)
        piece = Var(inliner.fresh("piece"))
        statements.append(Let(piece, build.mod(grid_var, count)))
        row = Var(inliner.fresh("row"))
        statements.append(Let(row, build.floordiv(grid_var, count)))
        start = build.mul(piece, build.const(CHUNK))
        stop = build.call("min", build.add(start, build.const(CHUNK)), stop)
    narrow = is_narrow(shape)
    lead = shape[:-2] if narrow else shape[:-1]
    outer = unravel(inliner, row, lead, statements)
    if narrow:  # a vector along the axis before, for each of the few last elements
        for last in range(inner):
            stop = inliner.size(shape[-2])
            statements.append(
                _column(inliner, merged, start, stop, lambda i, last=last: (*outer, i, build.const(last)))
            )
    else:
        statements.append(_column(inliner, merged, start, stop, lambda i: (*outer, i)))
    grid = product(lead) * pieces
    per_row = min(bounds(product(shape[len(lead) :]))[1] or CHUNK, CHUNK)
    call = inliner.call(
        "pointwise",
        [For(grid_var, inliner.size(grid), tuple(statements), "grid")],
        grid,
        max(1, GRAIN // max(1, per_row)),
    )
    return [rename(call, back, flops=count_flops(group))]


def is_narrow(shape: Sequence[Dim]) -> bool:
    """Whether the last axis is too short for vectors and the one before is longer."""
    if len(shape) < 2 or not isinstance(shape[-1], int) or not 1 < shape[-1] <= NARROW:
        return False
    return not isinstance(shape[-2], int) or shape[-2] > shape[-1]


def _column(inliner: Inliner, group: Group, start: Expr, stop: Expr, index_of) -> For:
    """A vector loop that computes and stores every result at `index_of(position)`."""
    column = inliner.loop("i")
    body: list[Stmt] = []
    scope = inliner.scope(body)
    for value in group.outputs:
        at = index_of(column) if value.rank else ()
        scope.store(value, value.shape, at, scope.read(value, at))
    return For(column, stop, tuple(body), "vector", start)


def unravel(inliner: Inliner, row: Expr, shape: Sequence[Dim], statements: list[Stmt]) -> tuple[Expr, ...]:
    """The index of flat position `row` in `shape`, its parts as `Let`s appended to `statements`."""
    index: list[Expr] = []
    for axis in range(len(shape) - 1, 0, -1):
        extent = inliner.size(shape[axis])
        part, rest = Var(inliner.fresh("a")), Var(inliner.fresh("a"))
        if shape[axis] == 1:
            index.append(build.const(0))
            continue
        statements.append(Let(part, build.mod(row, extent)))
        statements.append(Let(rest, build.floordiv(row, extent)))
        index.append(part)
        row = rest
    if shape:
        index.append(build.const(0) if shape[0] == 1 else row)
    return tuple(reversed(index))


def rename(call: KernelCall, back: dict[Value, Value], flops: Dim) -> KernelCall:
    """The call with the values of the original group for arguments."""
    arguments = tuple(back.get(a, a) for a in call.arguments)
    return KernelCall(call.kernel, arguments, call.sizes, call.grid, call.grain, flops)


def count_flops(group: Group) -> Dim:
    """Scalar arithmetic of the pointwise nodes of a group."""
    total: Dim = 0
    for node in group.nodes:
        row = SCALAR.get(node.op)
        if row is not None and node.output.dtype.is_float:
            total = total + node.output.type.size * row.flops
    return total


def collapse(group: Group) -> tuple[Group, dict[Value, Value]]:
    """The group over as few axes as its broadcasting allows, and its values' originals.

    Neighbouring axes merge when every value has both in full or neither; only groups that are
    pointwise all through can (index rules of movement ops know about axes).
    """
    values = list(dict.fromkeys(v for node in group.nodes for v in (*node.inputs, *node.outputs)))
    shape = group.outputs[0].shape
    pointwise = all(node.op == "constant" or OPS[node.op].kind == "pointwise" for node in group.nodes)
    if not pointwise or len(shape) < 2:
        return group, {}
    rank = len(shape)
    patterns = [_pattern(value.shape, shape) for value in values]
    if any(pattern is None for pattern in patterns):
        return group, {}
    runs: list[list[int]] = [[0]]
    for axis in range(1, rank):
        wide = [a for a in runs[-1] if shape[a] != 1]  # an axis of one element is in full and broadcast
        if shape[axis] == 1 or not wide or all(p[axis] == p[wide[-1]] for p in patterns):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) == rank:
        return group, {}
    clone = {
        v: Value(v.name, TensorType(v.dtype, _merge(v, p, shape, runs)))
        for v, p in zip(values, patterns, strict=True)
    }
    nodes = tuple(
        Node(
            n.op,
            tuple(clone[v] for v in n.inputs),
            tuple(clone[v] for v in n.outputs),
            n.attributes,
            n.location,
        )
        for n in group.nodes
    )
    inputs = tuple(clone[v] for v in group.inputs)
    outputs = tuple(clone[v] for v in group.outputs)
    return Group(None, nodes, (), inputs, outputs), {new: old for old, new in clone.items()}


def _pattern(have: Sequence[Dim], shape: Sequence[Dim]) -> tuple[bool, ...] | None:
    """Per axis of `shape`: whether the value has it in full (True) or is broadcast (False)."""
    padded = (1,) * (len(shape) - len(have)) + tuple(have)
    pattern = []
    for mine, full in zip(padded, shape, strict=True):
        if mine == full:
            pattern.append(True)
        elif mine == 1:
            pattern.append(False)
        else:
            return None
    return tuple(pattern)


def _merge(
    value: Value, pattern: tuple[bool, ...], shape: Sequence[Dim], runs: list[list[int]]
) -> tuple[Dim, ...]:
    if not any(pattern):
        return ()
    return tuple(
        product(shape[a] for a in run if pattern[a]) if any(pattern[a] for a in run) else 1 for run in runs
    )


def is_inlinable(node: Node) -> bool:
    """Whether a node can be part of another's kernel."""
    if node.op == "constant":
        return node["value"].size == 1 and node.output.dtype.kind != "string"
    return len(node.outputs) == 1 and op(node.op).index is not None
