"""The driver of graph rewriting: one walk in order, a rule at each node.

A rule gets a Builder that stands where the node stood, and the node with its operands already
rewritten. It returns None to keep the node, or what replaces its results. Results keep their Values
unless a rule replaces them, so untouched nodes stay the very same objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tallow.builder import Builder
from tallow.errors import GraphError
from tallow.graph import Graph, Node, Value, walk

Rule = Callable[[Builder, Node], Value | Sequence[Value] | None]


def rewrite(graph: Graph, rule: Rule, made: dict[Value, Node] | None = None) -> Graph:
    """The graph with `rule` applied at every node, those of regions included but for regions of another
    device. What the rule makes is noted in `made`, value -> node, so that a rule that asks it sees how its
    operands were rewritten."""
    names = {v.name for v in graph.inputs} | {v.name for node in walk(graph) for v in node.outputs}
    names |= {v.name for node in walk(graph) for region in node.regions.values() for v in region.inputs}
    root = Builder(graph.name)
    root._names.update(names)
    return _rewrite(graph, rule, root, {}, {} if made is None else made)


def _rewrite(
    graph: Graph, rule: Rule, builder: Builder, mapping: dict[Value, Value], made: dict[Value, Node]
) -> Graph:
    builder.inputs = list(graph.inputs)
    builder.replaced = mapping
    for node in graph.nodes:
        builder.location = node.location
        current = _renew(node, rule, builder, mapping, made)
        before = len(builder.nodes)
        replacement = rule(builder, current)
        if replacement is None:
            del builder.nodes[before:]  # what a rule began and gave up
            builder.append(current)
            made.update((value, current) for value in current.outputs)
            continue
        made.update((value, new) for new in builder.nodes[before:] for value in new.outputs)
        values = (replacement,) if isinstance(replacement, Value) else tuple(replacement)
        for old, new in zip(node.outputs, values, strict=True):
            if old.type != new.type:
                raise GraphError(
                    f"rewriting {node.op} gave {new.type}, expected {old.type} ({node.location})"
                )
            new = resolve(new, mapping)
            if new is not old:
                mapping[old] = new
    outputs = tuple(resolve(v, mapping) for v in graph.outputs)
    unchanged = len(builder.nodes) == len(graph.nodes) and all(
        a is b for a, b in zip(builder.nodes, graph.nodes, strict=True)
    )
    if unchanged and outputs == graph.outputs:
        return graph
    return Graph(graph.name, graph.inputs, outputs, tuple(builder.nodes), graph.output_names, graph.metadata)


def _renew(
    node: Node, rule: Rule, builder: Builder, mapping: dict[Value, Value], made: dict[Value, Node]
) -> Node:
    """The node on rewritten operands and regions; itself if nothing changed."""
    inputs = tuple(resolve(v, mapping) for v in node.inputs)
    attributes: Mapping = node.attributes
    for name, region in node.regions.items() if node.op != "on" else ():
        inner = _rewrite(region, rule, Builder(region.name, builder), dict(mapping), made)
        if inner is not region:
            attributes = {**attributes, name: inner}
    if inputs == node.inputs and attributes is node.attributes:
        return node
    return Node(node.op, inputs, node.outputs, attributes, node.location)


def replaced(node: Node, mapping: Mapping[Value, Value]) -> Node:
    """The node, its regions included, with values replaced; itself if it has no regions and reads none of them."""
    inputs = tuple(resolve(v, mapping) for v in node.inputs)
    attributes = dict(node.attributes)
    for name, region in node.regions.items():
        nodes = tuple(replaced(each, mapping) for each in region.nodes)
        outputs = tuple(resolve(v, mapping) for v in region.outputs)
        attributes[name] = Graph(
            region.name, region.inputs, outputs, nodes, region.output_names, region.metadata
        )
    if inputs == node.inputs and not node.regions:
        return node
    return Node(node.op, inputs, node.outputs, attributes, node.location)


def resolve(value: Value, mapping: Mapping[Value, Value]) -> Value:
    """What a value has become after any number of replacements."""
    while value in mapping:
        value = mapping[value]
    return value
