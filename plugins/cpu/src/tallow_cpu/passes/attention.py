"""Attention on views: heads are read and written where projections have them, without transposes."""

from __future__ import annotations

from tallow.backend import Target
from tallow.builder import Builder
from tallow.graph import Graph, Node, Value, consumers, walk
from tallow.passes.rewrite import rewrite
from tallow.passes.simplify import simplify
from tallow_cpu.passes.views import view_of, whole

WIDEST = 512  # features of a head: blocks of queries and results are in a thread's scratch memory
TOKENS_FIRST = (0, 2, 1, 3)


def view_attention(graph: Graph, target: Target) -> Graph:
    """attention(q, k, v) becomes cpu.attention on the values that q, k and v are views of; a transpose that
    puts tokens before heads becomes the order in which results are written."""
    made = {v: n for n in walk(graph) for v in n.outputs}
    readers = consumers(graph)

    def rule(builder: Builder, node: Node):
        if node.op != "attention" or not _fits(node):
            return None
        views = [view_of(v, made) for v in node.inputs[:3]]
        views[2] = views[2] if views[2].strides[3] == 1 else whole(node.inputs[2])
        spec = {name: (view.offset, view.strides) for name, view in zip("qkv", views, strict=True)}
        mask = [_keys_first(builder, m) for m in node.inputs[3:]]
        using = readers.get(node.output, [])
        turned = len(using) == 1 and using[0].op == "transpose" and using[0]["permutation"] == TOKENS_FIRST
        turned = turned and node.output not in graph.outputs
        q, k, v = (operand.shape for operand in node.inputs[:3])
        sizes = (*q[:2], k[1], q[2], k[2], q[3], v[3])
        attributes = {**node.attributes, **spec, "sizes": sizes, "tokens_first": turned}
        result = builder.emit("cpu.attention", *(view.base for view in views), *mask, **attributes)
        return builder.transpose(result, permutation=TOKENS_FIRST) if turned else result

    return simplify(rewrite(graph, rule))


def _fits(node: Node) -> bool:
    """Whether head sizes are constants that a kernel can keep in scratch memory."""
    depth, width = node.inputs[0].shape[3], node.inputs[2].shape[3]
    return all(isinstance(size, int) and 0 < size <= WIDEST for size in (depth, width))


def _keys_first(builder: Builder, mask: Value) -> Value:
    """The mask with keys before queries; an axis that repeats is left out of memory."""
    full = builder.reshape(mask, shape=(*(1,) * (4 - mask.rank), *mask.shape)) if mask.rank < 4 else mask
    return builder.transpose(full, permutation=(0, 1, 3, 2))
