"""Graph passes of devices with work-groups: convolutions and pools on channels last."""

from __future__ import annotations

from tallow.builder import Builder
from tallow.graph import Graph, Node, Value, walk
from tallow.passes.layout import is_product, to_first, to_last
from tallow.passes.rewrite import rewrite

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
