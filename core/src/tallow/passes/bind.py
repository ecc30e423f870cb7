"""Binding of sizes before compilation: symbols become numbers or get bounds."""

from __future__ import annotations

from collections.abc import Mapping

from tallow.dim import Expr, substitute, symbol
from tallow.graph import Graph, Node, Type, Value, replace_sizes, type_symbols
from tallow.sizes import check_names


def bind_dims(graph: Graph, dims: Mapping[str, int | tuple[int, int]]) -> Graph:
    """The graph with sizes fixed (an int) or bounded (a pair); GraphError for a name it does not have."""
    have = {name for v in graph.inputs for name in type_symbols(v.type)}
    check_names(dims, have)
    bindings = {n: d if isinstance(d, int) else symbol(n, d[0], d[1]) for n, d in dims.items()}
    return _bind(graph, bindings, {}) if bindings else graph


def copied(graph: Graph) -> Graph:
    """The same graph on values of its own."""
    return _bind(graph, {}, {})


def _bind(graph: Graph, bindings: Mapping, values: dict[Value, Value]) -> Graph:
    for value in graph.inputs:
        values[value] = Value(value.name, _type(value.type, bindings))
    nodes = []
    for node in graph.nodes:
        attributes = {name: _attribute(a, bindings, values) for name, a in node.attributes.items()}
        for value in node.outputs:
            values[value] = Value(value.name, _type(value.type, bindings))
        inputs = tuple(values[v] for v in node.inputs)
        nodes.append(Node(node.op, inputs, tuple(values[v] for v in node.outputs), attributes, node.location))
    inputs, outputs = (tuple(values[v] for v in group) for group in (graph.inputs, graph.outputs))
    return Graph(graph.name, inputs, outputs, tuple(nodes), graph.output_names, graph.metadata)


def _type(type_: Type, bindings: Mapping) -> Type:
    return replace_sizes(type_, lambda dim: substitute(dim, bindings))


def _attribute(attribute, bindings: Mapping, values: dict[Value, Value]):
    match attribute:
        case Expr():
            return substitute(attribute, bindings)
        case tuple():
            return tuple(_attribute(part, bindings, values) for part in attribute)
        case _ if isinstance(attribute, Type):
            return _type(attribute, bindings)
        case Graph():
            return _bind(attribute, bindings, dict(values))
    return attribute
