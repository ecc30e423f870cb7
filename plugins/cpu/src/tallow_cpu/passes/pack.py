"""Weights packed for the register tile, by ordinary graph operators that fold at compile time."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.backend import Target
from tallow.builder import Builder
from tallow.choices import Candidate
from tallow.graph import Graph, Node, Value, walk
from tallow.passes.rewrite import rewrite
from tallow_cpu.lowerings.tile import dot_widths, panel_widths


def usual_width(n: int, target: Target) -> int:
    """Columns of a panel by estimate."""
    return min(panel_widths(n, target), key=lambda c: c.estimate).value


def choose_width(
    n: int, node: Node, target: Target, what: str = "panel", others: Sequence[Candidate] = ()
) -> int:
    """Columns of a panel of the weights of a node: by the widths of register tiles or `others`."""
    return target.choices.choose(what, node, [*panel_widths(n, target), *others])


def pack(builder: Builder, matrices: Value, width: int) -> Value:
    """[groups, K, n] as [groups, panels, K, width], filled with zeros to whole panels."""
    groups, k, n = matrices.shape
    panels = -(-n // width)
    if panels * width != n:
        matrices = builder.pad(matrices, before=(0, 0, 0), after=(0, 0, panels * width - n), mode="constant")
    split = builder.reshape(matrices, shape=(groups, k, panels, width))
    return builder.transpose(split, permutation=(0, 2, 1, 3))


def pack_winograd(builder: Builder, w: Value, tile: int, stride: int, node: Node, target: Target) -> Value:
    """[n, C, 3, 3] transformed for Winograd tiles, as [panels, kinds^2, C, width]."""
    width = choose_width(w.shape[0], node, target, f"panel of F({tile}, 3)")
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
        depth, n = w.shape
        dots = dot_widths(n, 1, depth, target) if a.shape[-1] == depth else []
        width = choose_width(n, node, target, others=dots)
        packed = pack(builder, builder.reshape(w, shape=(1, depth, n)), width)
        return builder.emit("cpu.matmul", a, packed, n=n)

    return rewrite(graph, rule)
