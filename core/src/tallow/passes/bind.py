"""Binding of sizes before compilation: symbols become numbers or get bounds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from tallow.dim import Expr, substitute, symbol
from tallow.errors import GraphError
from tallow.graph import Graph, Node, Type, Value, replace_sizes, type_symbols


def bind_dims(graph: Graph, dims: Mapping[str, int | tuple[int, int]]) -> Graph:
    """The graph with sizes fixed (an int) or bounded (a pair); GraphError for a name it does not have."""
    have = {name for v in graph.inputs for name in type_symbols(v.type)}
    check_names(dims, have)
    bindings = {n: d if isinstance(d, int) else symbol(n, d[0], d[1]) for n, d in dims.items()}
    return _bind(graph, bindings, {}) if bindings else graph


def normal_dims(dims: Mapping[str, object]) -> dict[str, int | tuple[int, int | None]]:
    """Sizes as users give them: a number, or (least, greatest) where None is no limit; GraphError for
    anything else."""
    return {name: _normal(name, given) for name, given in dims.items()}


def _normal(name: str, given: object) -> int | tuple[int, int | None]:
    match given:
        case bool():
            pass
        case int() | np.integer() if given >= 0:
            return int(given)
        case (bool(), _) | (_, bool()):
            pass
        case (int() | np.integer() as low, None) if low >= 0:
            return int(low), None
        case (int() | np.integer() as low, int() | np.integer() as high) if 0 <= low <= high:
            return int(low), int(high)
    raise GraphError(
        f"dims: {name} = {given!r}: expected a size of 0 or more, or bounds (least, greatest) such as (1, 8)"
    )


def check_names(dims: Iterable[str], have: Collection[str]) -> None:
    """GraphError for a size that the inputs do not mention."""
    unknown = [n for n in dims if n not in have]
    if unknown:
        import difflib  # only errors need it

        near = difflib.get_close_matches(unknown[0], have, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise GraphError(
            f"no size named {unknown[0]!r}{hint}: the inputs have {', '.join(sorted(have)) or 'none'}"
        )


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
