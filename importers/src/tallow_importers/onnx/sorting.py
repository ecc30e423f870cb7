"""Execution order of ONNX nodes: kept when it is one, repaired when it is not, refused when there is none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import onnx

from tallow.errors import ImportFailed


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names a node needs, those that its subgraphs take from outside included."""
    names = {n for n in node.input if n}
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
        for graph in graphs:
            inside = {t.name for t in graph.initializer} | {i.name for i in graph.input}
            inside |= {o for inner in graph.node for o in inner.output}
            needed = {n for inner in graph.node for n in _reads(inner)} | {o.name for o in graph.output}
            names |= needed - inside
    return names


def in_order(nodes: Sequence[onnx.NodeProto], available: set[str], source: str) -> list[onnx.NodeProto]:
    """The nodes so that each comes after what it reads. A file out of order gets a warning; nodes that
    wait for each other are an error that names them."""
    makes = {o for node in nodes for o in node.output if o}
    done = set(available)
    pending = list(nodes)
    result: list[onnx.NodeProto] = []
    moved: onnx.NodeProto | None = None
    while pending:
        later = []
        for node in pending:
            if all(n in done or n not in makes for n in _reads(node)):
                result.append(node)
                done.update(node.output)
            else:
                later.append(node)
        if len(later) == len(pending):
            names = ", ".join(f'"{n.name or n.op_type}"' for n in later[:5])
            raise ImportFailed(f"{source}: nodes wait for each other in a cycle: {names}")
        moved = moved or next(iter(later), None)
        pending = later
    if moved is not None:
        first = f'{moved.op_type} node "{moved.name or next(iter(moved.output), "")}"'
        warnings.warn(
            f"{source}: nodes are not in execution order ({first} comes before what it reads); sorted",
            stacklevel=5,
        )
    return result
