"""verify: whether a Graph keeps its own rules; run after every pass where TALLOW_VERIFY is set, as in tests."""

from __future__ import annotations

import os
from collections.abc import Callable

from tallow.errors import GraphError, VerifyError
from tallow.graph import Graph, Node, Value, outer_sizes, type_symbols, used_symbols
from tallow.graph.text import print_nodes
from tallow.ops import OPS, op

AROUND = 5  # nodes printed before and after a fault


def verify(graph: Graph) -> Graph:
    """The graph itself; VerifyError shows the faulty node among its neighbours.

    Checked: operands are made before they are read, values are made once, operators exist and get as many
    operands as they take, result types are those that the operator infers, and sizes are bound before
    they are mentioned.
    """
    _verify(graph, set(), set())
    return graph


def checked(step: Callable[..., Graph], graph: Graph, *arguments) -> Graph:
    """The graph after a pass, verified where TALLOW_VERIFY is set; VerifyError names the pass."""
    return verify_after(f"pass {step.__name__}", step(graph, *arguments))


def verify_after(what: str, graph: Graph) -> Graph:
    """The graph itself, verified where TALLOW_VERIFY is set; VerifyError names what made it."""
    if os.environ.get("TALLOW_VERIFY"):
        try:
            verify(graph)
        except VerifyError as error:
            raise VerifyError(f"after {what}: {error}") from None
    return graph


def _verify(graph: Graph, visible: set[Value], sizes: set[str]) -> None:
    known = visible | set(graph.inputs)
    bound = sizes | outer_sizes(graph) | {name for v in graph.inputs for name in type_symbols(v.type)}
    made: set[Value] = set(graph.inputs)
    for number, node in enumerate(graph.nodes):
        problem = _problem(node, known, bound, made)
        if problem:
            neighbours = graph.nodes[max(0, number - AROUND) : number + AROUND + 1]
            raise VerifyError(f"{problem} ({node.location})\n{print_nodes(neighbours, marked=node)}")
        for region in node.regions.values():
            _verify(region, known, bound)
        known.update(node.outputs)
        made.update(node.outputs)
        bound.update(node.defines)
    missing = [v.name for v in graph.outputs if v not in known]
    if missing:
        raise VerifyError(f"graph {graph.name} returns {', '.join(missing)}, which nothing makes")
    if len(graph.output_names) != len(graph.outputs):
        raise VerifyError(
            f"graph {graph.name} has {len(graph.outputs)} results and {len(graph.output_names)} names"
        )


def _problem(node: Node, known: set[Value], bound: set[str], made: set[Value]) -> str | None:
    if node.op not in OPS:
        return f"there is no operator {node.op!r}"
    early = [v.name for v in node.inputs if v not in known]
    if early:
        return f"{node.op} reads {', '.join(early)} before it is made"
    again = [v.name for v in node.outputs if v in made]
    if again:
        return f"{node.op} makes {', '.join(again)} a second time"
    low, high = op(node.op).arity
    if len(node.inputs) < low or (high is not None and len(node.inputs) > high):
        return f"{node.op} has {len(node.inputs)} operands, expected {low} to {high}"
    unbound = used_symbols(node) - bound - set(node.defines)
    if unbound and not node.regions:
        return f"{node.op} mentions {', '.join(sorted(unbound))}, which nothing has bound yet"
    try:
        types = op(node.op).infer([v.type for v in node.inputs], node.attributes)
    except GraphError as error:
        return str(error)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return f"{node.op} cannot be typed with attributes {_listed(node)} ({type(error).__name__}: {error})"
    have = tuple(v.type for v in node.outputs)
    if types != have:
        return f"{node.op} gives {', '.join(map(str, types))}, the graph says {', '.join(map(str, have))}"
    return None


def _listed(node: Node) -> str:
    return ", ".join(node.attributes) or "none"
