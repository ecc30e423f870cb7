"""Matrix products and convolutions as contractions over the tile."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import Dim, product
from tallow.dtype import bool_
from tallow.graph import Value
from tallow.kernel.build import add, const, mul
from tallow.kernel.grammar import Expr, Stmt
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import unravel
from tallow.lower.reduce import accumulator
from tallow.lower.workgroup.contraction import Contraction, Filters, Matrix, Operand, Panels, Pixels
from tallow.lower.workgroup.fragments import Fragments
from tallow.lower.workgroup.tile import choose_block, choose_tile
from tallow.lower.workgroup.tiled import Single, Staged
from tallow.lower.workgroup.windows import lower_depthwise
from tallow.target import Target


def lower_contraction(
    group: Group, target: Target, name: str, inliner: Inliner, work: Contraction
) -> Sequence[KernelCall]:
    """The kernel of a contraction; each grid iteration is one tile."""
    dtype, outer = group.root.inputs[0].dtype, product(work.outer)
    block = choose_block(outer, work.rows, work.columns, work.each, dtype, target)
    if block is not None:
        return Fragments(group, inliner, work, block, dtype).call(name)
    kind = accumulator(dtype)
    tile = choose_tile(outer, work.rows, work.columns, kind.itemsize, target)
    writer = Single if tile.depth == 0 else Staged
    return writer(group, inliner, work, tile, kind).call(name)


def lower_matmul(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """matmul of any operands, transposes before them read in place; where all items share the right operand,
    the axes before are rows like the last."""
    root = group.root
    if root.output.dtype == bool_:
        return Declined("products of bool")
    inliner = Inliner(group)
    a, b = root.inputs
    *batch, rows, columns = root.output.shape
    lead: tuple[Dim, ...] = (rows,)
    packed = root.op == "matmul_panels"
    if batch and (packed or all(d == 1 for d in b.shape[:-2])) and a not in inliner.producer:
        if a.shape[:-2] == tuple(batch):
            batch, lead = [], (*batch, rows)
    flat = is_flat(epilogue_values(group), lead, 1)
    left = Matrix(a, tuple(batch), True, "line" if _turned(inliner, a) else "depth")
    right: Operand = Matrix(b, tuple(batch), False, "depth" if _turned(inliner, b) else "line")
    if packed:
        right = Panels(b, None)

    def result_index(inliner, body, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        return (*outer, *line_index(inliner, body, lead, row, flat), column)

    work = Contraction(tuple(batch), product(lead), columns, 1, a.shape[-1], left, right, result_index)
    return lower_contraction(group, target, "matmul", inliner, work)


def epilogue_values(group: Group) -> tuple[Value, ...]:
    return (*group.outputs, *(v for node in group.epilogue for v in (*node.inputs, *node.outputs)))


def is_flat(values: Sequence[Value], lead: Sequence[Dim], tail: int) -> bool:
    """Whether a line's number places it in each value: the axes that correspond to `lead`, before the last
    `tail`, are all there in full or are all of size 1."""
    for value in values:
        axes = value.shape[: max(0, value.rank - tail)][-len(lead) :]
        if axes != tuple(lead) and any(d != 1 for d in axes):
            return False
    return True


def line_index(
    inliner: Inliner, body: list[Stmt], lead: Sequence[Dim], line: Expr, flat: bool
) -> tuple[Expr, ...]:
    """A line's index on the axes `lead`: all of it on the last that is not of size 1 where it is flat."""
    if not flat:
        return unravel(inliner, line, lead, body)
    wide = max((axis for axis, d in enumerate(lead) if d != 1), default=len(lead) - 1)
    return tuple(line if axis == wide else const(0) for axis in range(len(lead)))


def _turned(inliner: Inliner, value: Value) -> bool:
    """Whether a transpose before the product has put the axis of neighbours in memory before the last."""
    node = inliner.producer.get(value)
    return node is not None and node.op == "transpose" and node["permutation"][-1] == value.rank - 2


def lower_conv(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """conv, conv_last and conv_panels of any weights and any number of axes: pixels are rows, the window is the summed index."""
    node = group.root
    if group.prologue or node.output.dtype == bool_:
        return Declined("operands of a convolution must be in memory, and numbers")
    x, w = node.inputs
    last, packed = node.op != "conv", node.op == "conv_panels"
    axis = x.rank - 1 if last else 1
    kernel, each = (w.shape[2 * packed : -2], w.shape[-2]) if last else (w.shape[2:], w.shape[1])
    channels, groups = node.output.shape[axis], w.shape[0] if packed else node["groups"]
    if any(not isinstance(k, int) for k in kernel) or not isinstance(channels, int):
        return Declined("a convolution by weights whose sizes are not constants")
    if node.op == "conv_last" and groups == channels == x.shape[axis] and groups > 1:
        return lower_depthwise(group, target)
    columns = channels // groups
    left, inliner = Pixels(node, tuple(kernel), axis, each), Inliner(group)
    spatial = left.spatial(node.output)
    flat = last and is_flat(epilogue_values(group), spatial, 1)

    def result_index(inliner, body, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        channel = add(mul(outer[1], inliner.size(columns)), column)
        index = line_index(inliner, body, spatial, row, flat)
        return (outer[0], *index, channel) if last else (outer[0], channel, *index)

    right = Panels(w, 1) if packed else Filters(w, columns, last)
    outer = (x.shape[0], groups)
    work = Contraction(outer, product(spatial), columns, product(kernel), each, left, right, result_index)
    return lower_contraction(group, target, "conv", inliner, work)
