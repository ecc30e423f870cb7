"""Graph passes of devices with work-groups: convolutions and pools on channels last, weights packed for tiles."""

from __future__ import annotations

from tallow.builder import Builder
from tallow.graph import Graph, Node, Value, walk
from tallow.lower.reduce import accumulator
from tallow.lower.workgroup.tile import panel_width
from tallow.passes.layout import is_product, to_first, to_last
from tallow.passes.rewrite import rewrite
from tallow.target import Target

FLOATS = ("f32", "f16", "bf16", "f64", "i32")


def convert_windows(graph: Graph, target: object) -> Graph:
    """Every convolution with constant weights, and every pool, on channels last; a convolution that looks at
    single pixels becomes a product."""
    constants = {n.output for n in walk(graph) if n.op == "constant"}

    def rule(builder: Builder, node: Node):
        if node.op not in ("conv", "pool") or node.output.dtype.name not in FLOATS:
            return None
        if node.op == "conv" and (node.inputs[1] not in constants or 0 in node.inputs[1].shape):
            return None
        last = builder.transpose(node.inputs[0], permutation=to_last(node.output.rank))
        if node.op == "pool":
            result = builder.emit("pool_last", last, **node.attributes)
        else:
            result = _conv(builder, node, last)
        return builder.transpose(result, permutation=to_first(node.output.rank))

    return rewrite(graph, rule)


def _conv(builder: Builder, node: Node, last: Value) -> Value:
    w, rank = node.inputs[1], node.output.rank
    if is_product(node):
        matrix = builder.reshape(w, shape=w.shape[:2])
        return builder.matmul(last, builder.transpose(matrix, permutation=(1, 0)))
    weights = builder.transpose(w, permutation=(*range(2, rank), 1, 0))
    return builder.emit("conv_last", last, weights, **node.attributes)


def pack_weights(graph: Graph, target: Target) -> Graph:
    """For devices with vectors: constant weights as panels of a tile's columns, by operators that fold."""
    if not target.vector_bytes:
        return graph
    constants = {n.output for n in walk(graph) if n.op == "constant"}

    def rule(builder: Builder, node: Node):
        if (
            node.op not in ("matmul", "conv_last")
            or node.inputs[1] not in constants
            or 0 in node.inputs[1].shape
        ):
            return None
        (x, w), groups = node.inputs, node.attributes.get("groups", 1)
        if (
            node.output.dtype.name not in FLOATS
            or (node.op == "matmul" and w.rank != 2)
            or groups == w.shape[-1] > 1
        ):
            return None
        n = w.shape[-1] // groups
        packed = _panels(builder, w, groups, panel_width(n, accumulator(w.dtype).itemsize, target))
        if node.op == "matmul":
            return builder.emit("matmul_panels", x, builder.reshape(packed, shape=packed.shape[1:]), n=n)
        spec = {key: node[key] for key in ("strides", "pads", "dilations")}
        return builder.emit("conv_panels", x, packed, n=n, **spec)

    return rewrite(graph, rule)


def _panels(builder: Builder, w: Value, groups: int, width: int) -> Value:
    """[*kernel, C, groups * n] as [groups, panels, *kernel, C, width], filled up with zeros."""
    *rest, columns = w.shape
    n, rank = columns // groups, len(rest)
    count = -(-n // width)
    split = builder.reshape(w, shape=(*rest, groups, n))
    if count * width != n:
        after = (*(0 for _ in rest), 0, count * width - n)
        split = builder.pad(split, before=(0,) * (rank + 2), after=after, mode="constant")
    split = builder.reshape(split, shape=(*rest, groups, count, width))
    return builder.transpose(split, permutation=(rank, rank + 1, *range(rank), rank + 2))
