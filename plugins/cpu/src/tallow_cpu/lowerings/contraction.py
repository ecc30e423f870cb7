"""Lowerings onto the register tile: products with packed and plain operands, convolutions with channels last."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.backend import Target
from tallow.dim import Dim, product
from tallow.dtype import bool_
from tallow.kernel.build import add, const, floordiv, mod, mul
from tallow.kernel.grammar import Expr
from tallow.lower.group import Declined, Group, KernelCall
from tallow.ops.pointwise import operand_index
from tallow_cpu.lowerings.tile import Contraction, Shape, choose_shape, lanes, lower_tile


def _batched(shape: Sequence[Dim], result: Sequence[Dim]):
    """Element where item `outer` of an operand with these leading axes starts, before its last two."""

    def start(inliner, outer: Sequence[Expr]) -> Expr:
        at = operand_index(shape[:-2], result[:-2], tuple(outer))
        flat: Expr = const(0)
        for dim, place in zip(shape[:-2], at, strict=True):
            flat = add(mul(flat, inliner.size(dim)), place)
        return mul(flat, inliner.size(shape[-2] * shape[-1]))

    return start


def lower_packed(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.matmul: any leading axes of the left operand are rows."""
    if group.prologue:
        return Declined("operands of a packed product must be in memory")
    a, packed = group.root.inputs
    *lead, k = a.shape
    rows, width, n = product(lead), packed.shape[3], group.root["n"]

    def result_index(inliner, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        index: list[Expr] = []
        for axis in range(len(lead) - 1, 0, -1):
            extent = inliner.size(lead[axis])
            index.append(mod(row, extent) if lead[axis] != 1 else const(0))
            row = floordiv(row, extent)
        return (*([row] if lead else []), *reversed(index), column)

    work = Contraction(
        (),
        rows,
        n,
        ((k, 1),),
        lambda inliner, statements, outer, row: mul(row, inliner.size(k)),
        lambda inliner, outer, panel: mul(panel, inliner.size(k * width)),
        lambda inliner: const(width),
        result_index,
    )
    return lower_tile(group, target, "matmul", choose_shape(rows, width, target), work)


def lower_matmul(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """matmul of two operands in memory; the right one is read row by row."""
    if group.prologue:
        return Declined("operands of a product must be in memory")
    a, b = group.root.inputs
    if a.dtype == bool_:
        return Declined("products of bool")
    result = group.root.output.shape
    m, k = a.shape[-2:]
    n = b.shape[-1]
    width = 2 * lanes(target) if not isinstance(n, int) or n > lanes(target) else lanes(target)
    start_a, start_b = _batched(a.shape, result), _batched(b.shape, result)
    work = Contraction(
        result[:-2],
        m,
        n,
        ((k, 1),),
        lambda inliner, statements, outer, row: add(start_a(inliner, outer), mul(row, inliner.size(k))),
        lambda inliner, outer, panel: add(start_b(inliner, outer), mul(panel, const(width))),
        lambda inliner: inliner.size(n),
        lambda inliner, outer, row, column: (*outer, row, column),
        masked=True,
    )
    return lower_tile(group, target, "matmul", choose_shape(m, width, target), work)


def lower_conv(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.conv: pixels are rows; the window and the channels are the summed index."""
    if group.prologue:
        return Declined("operands of a convolution must be in memory")
    node = group.root
    x, packed = node.inputs
    groups, n, width = node["groups"], node["n"], packed.shape[3]
    spatial, result = x.shape[1:-1], node.output.shape[1:-1]
    channels = x.shape[-1]
    each = packed.shape[2] // product(node["kernel"])
    strides = [product(spatial[i + 1 :]) * channels for i in range(len(spatial))]

    def row_start(inliner, statements, outer, row: Expr) -> Expr:
        image, group_at = outer
        flat = add(mul(image, inliner.size(product(spatial) * channels)), mul(group_at, const(each)))
        for axis in range(len(spatial) - 1, -1, -1):
            extent = inliner.size(result[axis])
            at = mod(row, extent) if axis else row
            row = floordiv(row, extent)
            flat = add(flat, mul(at, inliner.size(strides[axis] * node["strides"][axis])))
        return flat

    loops: list[tuple[Dim, Dim]] = [
        (k, strides[axis] * d)
        for axis, (k, d) in enumerate(zip(node["kernel"], node["dilations"], strict=True))
    ]
    if groups == 1 and node["dilations"][-1] == 1:
        loops[-1] = (node["kernel"][-1] * channels, 1)  # neighbours in the last axis lie side by side
    else:
        loops.append((each, 1))
    loops = [loop for loop in loops[:-1] if loop[0] != 1] + loops[-1:]
    panels = -(-n // width)

    def result_index(inliner, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        image, group_at = outer
        places: list[Expr] = []
        for axis in range(len(result) - 1, 0, -1):
            extent = inliner.size(result[axis])
            places.append(mod(row, extent))
            row = floordiv(row, extent)
        return (image, row, *reversed(places), add(mul(group_at, const(n)), column))

    size = packed.shape[2] * width
    work = Contraction(
        (x.shape[0], groups),
        product(result),
        n,
        tuple(loops),
        row_start,
        lambda inliner, outer, panel: add(mul(outer[1], const(panels * size)), mul(panel, const(size))),
        lambda inliner: const(width),
        result_index,
    )
    shape: Shape = choose_shape(product(result), width, target)
    return lower_tile(group, target, "conv", shape, work)
