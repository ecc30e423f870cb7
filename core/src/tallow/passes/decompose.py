"""Decomposition: composite operators are written out in simpler ones, unless a target keeps them."""

from __future__ import annotations

from collections.abc import Callable

from tallow.builder import Builder
from tallow.errors import GraphError
from tallow.graph import Graph, Node
from tallow.ops import OPS
from tallow.passes.rewrite import rewrite


def decompose(graph: Graph, keep: Callable[[Node], bool] = lambda node: False) -> Graph:
    """The graph without the composite operators that `keep` does not want, at any depth."""

    def rule(builder: Builder, node: Node):
        row = OPS[node.op]
        if row.decompose is None or keep(node):
            return None
        try:
            return row.decompose(builder, node)
        except (ValueError, ArithmeticError, LookupError) as error:  # attributes that mean nothing
            raise GraphError(
                f"{node.op} cannot be written in simpler operators: {error} ({node.location})"
            ) from error

    while True:
        simpler = rewrite(graph, rule)
        if simpler is graph:
            return graph
        graph = simpler
