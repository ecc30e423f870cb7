"""Cleaning: dead nodes removed, equal nodes merged."""

from __future__ import annotations

import numpy as np

from tallow.dim import symbols
from tallow.graph import Graph, Node, Value, outer_sizes, reads, used_symbols
from tallow.ops import OPS
from tallow.passes.rewrite import replaced, resolve

_IMPURE = {"random_uniform", "random_normal", "bernoulli", "multinomial"}


def remove_dead(graph: Graph) -> Graph:
    """The graph without nodes whose results nothing reads and whose sizes nothing mentions."""
    live: set[Value] = set(graph.outputs)
    sizes: set[str] = {
        s for v in (*graph.outputs, *graph.inputs) for d in getattr(v.type, "shape", ()) for s in _names(d)
    }
    sizes |= outer_sizes(graph)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if live.intersection(node.outputs) or sizes.intersection(node.defines):
            kept.append(_clean_regions(node))
            live.update(reads(kept[-1]))
            sizes |= used_symbols(kept[-1])
    if len(kept) == len(graph.nodes) and all(
        a is b for a, b in zip(reversed(kept), graph.nodes, strict=True)
    ):
        return graph
    return Graph(
        graph.name, graph.inputs, graph.outputs, tuple(reversed(kept)), graph.output_names, graph.metadata
    )


def _names(dim) -> set[str]:
    return set(symbols(dim))


def _clean_regions(node: Node) -> Node:
    attributes = dict(node.attributes)
    for name, region in node.regions.items():
        attributes[name] = remove_dead(region)
    if all(attributes[name] is region for name, region in node.regions.items()):
        return node
    return Node(node.op, node.inputs, node.outputs, attributes, node.location)


def merge_equal(graph: Graph) -> Graph:
    """The graph in which a node equal to an earlier one (op, operands, attributes) is that one."""
    seen: dict[tuple, Node] = {}
    mapping: dict[Value, Value] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(resolve(v, mapping) for v in node.inputs)
        if inputs != node.inputs:
            node = Node(node.op, inputs, node.outputs, node.attributes, node.location)
        key = _key(node)
        if key is not None and key in seen:
            mapping.update(zip(node.outputs, seen[key].outputs, strict=True))
            continue
        if key is not None:
            seen[key] = node
        kept.append(node)
    if not mapping:
        return graph
    kept = [replaced(node, mapping) for node in kept]
    outputs = tuple(resolve(v, mapping) for v in graph.outputs)
    return Graph(graph.name, graph.inputs, outputs, tuple(kept), graph.output_names, graph.metadata)


def _key(node: Node) -> tuple | None:
    """What makes two nodes the same; None for nodes that never are."""
    if (
        node.op in _IMPURE
        or node.regions
        or node.defines
        or OPS[node.op].kind == "control"
        or not node.outputs
    ):
        return None
    if node.op == "constant":
        value = node["value"]
        if value.size > 64 or value.dtype == object:
            return None
        return ("constant", value.dtype.str, str(value.dtype), value.shape, value.tobytes())
    attributes = []
    for name, a in sorted(node.attributes.items()):
        if isinstance(a, np.ndarray):
            return None
        attributes.append((name, repr(a)))
    return (node.op, tuple(id(v) for v in node.inputs), tuple(attributes))
