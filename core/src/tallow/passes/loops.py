"""Loops: carried values that no iteration changes are captured instead, so that constants are seen as such."""

from __future__ import annotations

from tallow.builder import Builder
from tallow.graph import Graph, Node
from tallow.passes.rewrite import replaced, resolve, rewrite


def capture_unchanged(graph: Graph) -> Graph:
    """The graph with loops that carry only what their bodies change."""
    return rewrite(graph, _rule)


def _rule(builder: Builder, node: Node):
    if node.op != "loop":
        return None
    body, starts = node["body"], node.inputs[2:]
    same = [
        given is result and given.type == start.type == final.type
        for given, result, start, final in zip(
            body.inputs[2:], body.outputs[1:], starts, node.outputs, strict=False
        )
    ]
    if not any(same):
        return None
    kept = [number for number, unchanged in enumerate(same) if not unchanged]
    mapping = {body.inputs[2 + n]: starts[n] for n, unchanged in enumerate(same) if unchanged}
    outputs = [body.outputs[0], *(body.outputs[1 + n] for n in kept), *body.outputs[1 + len(starts) :]]
    inner = Graph(
        body.name,
        (*body.inputs[:2], *(body.inputs[2 + n] for n in kept)),
        tuple(resolve(v, mapping) for v in outputs),
        tuple(replaced(each, mapping) for each in body.nodes),
        (),
        body.metadata,
    )
    positions = [*kept, *range(len(starts), len(node.outputs))]
    attributes = {**node.attributes, "body": inner, "types": tuple(node.outputs[p].type for p in positions)}
    results = iter(())
    if positions or node.defines:
        names = [node.outputs[p].name for p in positions]
        made = builder.emit("loop", *node.inputs[:2], *(starts[n] for n in kept), names=names, **attributes)
        results = iter(made if isinstance(made, tuple) else (made,))
    unchanged = {n: start for n, (start, is_same) in enumerate(zip(starts, same, strict=True)) if is_same}
    return [unchanged[n] if n in unchanged else next(results) for n in range(len(node.outputs))]
