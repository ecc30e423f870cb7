"""Weights packed for the register tile, by ordinary graph operators that fold at compile time."""

from __future__ import annotations

from tallow.backend import Target
from tallow.builder import Builder
from tallow.graph import Graph, Node, Value, walk
from tallow.passes.rewrite import rewrite
from tallow_cpu.lowerings.tile import panel_width


def pack(builder: Builder, matrices: Value, target: Target) -> Value:
    """[groups, K, n] as [groups, panels, K, width], filled with zeros to whole panels."""
    groups, k, n = matrices.shape
    width = panel_width(n, target)
    panels = -(-n // width)
    if panels * width != n:
        matrices = builder.pad(matrices, before=(0, 0, 0), after=(0, 0, panels * width - n), mode="constant")
    split = builder.reshape(matrices, shape=(groups, k, panels, width))
    return builder.transpose(split, permutation=(0, 2, 1, 3))


def pack_winograd(builder: Builder, w: Value, tile: int, stride: int, target: Target) -> Value:
    """[n, C, 3, 3] transformed for Winograd tiles, as [panels, kinds^2, C, width]."""
    width = panel_width(w.shape[0], target)
    return builder.emit("cpu.winograd_weights", w, tile=tile, stride=stride, width=width)


def pack_products(graph: Graph, target: Target) -> Graph:
    """matmul(a, w) with a constant matrix w becomes cpu.matmul(a, packed w)."""
    constants = {n.output for n in walk(graph) if n.op == "constant"}

    def rule(builder: Builder, node: Node):
        if node.op != "matmul" or node.inputs[1] not in constants:
            return None
        a, w = node.inputs
        if w.rank != 2 or 0 in w.shape or w.dtype.name not in ("f32", "f16", "bf16", "f64", "i32"):
            return None
        packed = pack(builder, builder.reshape(w, shape=(1, *w.shape)), target)
        return builder.emit("cpu.matmul", a, packed, n=w.shape[1])

    return rewrite(graph, rule)
