"""Matrix products and convolutions as contractions over the tile."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import product
from tallow.dtype import bool_
from tallow.graph import Value
from tallow.kernel.build import add, mul
from tallow.kernel.grammar import Expr
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import unravel
from tallow.lower.workgroup.contraction import Contraction, Filters, Matrix, Pixels
from tallow.lower.workgroup.tiled import lower_contraction
from tallow.target import Target


def lower_matmul(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """matmul of any operands, transposes before them read in place."""
    root = group.root
    if root.output.dtype == bool_:
        return Declined("products of bool")
    inliner = Inliner(group)
    a, b = root.inputs
    *batch, rows, columns = root.output.shape
    left = Matrix(a, tuple(batch), True, "line" if _turned(inliner, a) else "depth")
    right = Matrix(b, tuple(batch), False, "depth" if _turned(inliner, b) else "line")

    def result_index(inliner, body, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        return (*outer, row, column)

    work = Contraction(tuple(batch), rows, columns, 1, a.shape[-1], left, right, result_index)
    return lower_contraction(group, target, "matmul", inliner, work)


def _turned(inliner: Inliner, value: Value) -> bool:
    """Whether a transpose before the product has put the axis of neighbours in memory before the last."""
    node = inliner.producer.get(value)
    return node is not None and node.op == "transpose" and node["permutation"][-1] == value.rank - 2


def lower_conv(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """conv of any weights and any number of axes: pixels are rows, the window is the summed index."""
    node = group.root
    if group.prologue or node.output.dtype == bool_:
        return Declined("operands of a convolution must be in memory, and numbers")
    x, w = node.inputs
    groups, kernel, spatial = node["groups"], w.shape[2:], node.output.shape[2:]
    if any(not isinstance(k, int) for k in kernel) or not isinstance(w.shape[0], int):
        return Declined("weights of a convolution whose sizes are not constants")
    columns = w.shape[0] // groups

    def result_index(inliner, body, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        channel = add(mul(outer[1], inliner.size(columns)), column)
        return (outer[0], channel, *unravel(inliner, row, spatial, body))

    inliner = Inliner(group)
    left = Pixels(node, tuple(kernel), 1, w.shape[1])
    work = Contraction(
        (x.shape[0], groups),
        product(spatial),
        columns,
        product(kernel),
        w.shape[1],
        left,
        Filters(w, columns),
        result_index,
    )
    return lower_contraction(group, target, "conv", inliner, work)
