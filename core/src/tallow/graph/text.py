"""Printer of Graphs as text: one node a line, regions indented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tallow.graph.graph import Graph, Node

INLINE = 8  # elements of a constant that are written out


def print_graph(graph: Graph, depth: int = 0) -> str:
    """The whole graph; large constants by dtype and shape only."""
    pad = "  " * depth
    inputs = ", ".join(f"%{v.name}: {v.type}" for v in graph.inputs)
    lines = [f"{pad}graph {graph.name}({inputs})"]
    lines += [line for node in graph.nodes for line in _node(node, depth + 1)]
    outputs = ", ".join(f"{n} = %{v.name}" for n, v in zip(graph.output_names, graph.outputs, strict=True))
    return "\n".join([*lines, f"{pad}  return {outputs}"])


def print_nodes(nodes: Sequence[Node], marked: Node | None = None) -> str:
    """A few nodes, one of them marked."""
    return "\n".join(("> " if node is marked else "  ") + line for node in nodes for line in _node(node, 0))


def _node(node: Node, depth: int) -> list[str]:
    pad = "  " * depth
    results = ", ".join(f"%{v.name}: {v.type}" for v in node.outputs)
    operands = ", ".join(f"%{v.name}" for v in node.inputs)
    attributes = "".join(
        f" {k}={_attribute(a)}" for k, a in node.attributes.items() if not isinstance(a, Graph)
    )
    where = f"  # {node.location.name}" if node.location.name else ""
    lines = [f"{pad}{results + ' = ' if results else ''}{node.op}({operands}){attributes}{where}"]
    for name, region in node.regions.items():
        lines += [f"{pad}  {name}:", print_graph(region, depth + 2)]
    return lines


def _attribute(attribute) -> str:
    if isinstance(attribute, np.ndarray):
        if attribute.size > INLINE:
            return f"<{attribute.dtype}{list(attribute.shape)}>"
        return str(attribute.tolist())
    if isinstance(attribute, tuple):
        return f"({', '.join(map(str, attribute))})"
    return str(attribute)
