"""The Graph: what a model means, as immutable single-assignment nodes in execution order.

A node may read any value made earlier in its own graph or, inside a region, in an enclosing one.
Sizes are symbolic Dims. A size that only the run can tell (how many elements are nonzero) is a
fresh symbol, named in the attribute `defines` of the node that binds it; nodes and types after it
may mention it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Union

import numpy as np

from tallow.dim import Dim, Expr, symbols
from tallow.dtype import DType
from tallow.location import NOWHERE, Location
from tallow.types import Type, type_symbols


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One result; compared by identity. The name is for people and for the text form."""

    name: str
    type: Type

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def rank(self) -> int:
        return len(self.type.shape)

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


OUTER_SIZES = "tallow.sizes"  # metadata of a graph in another: sizes of both, with spaces between

Attribute = Union[int, float, bool, str, DType, Expr, tuple, np.ndarray, "Graph", None]


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """An application of the operator `op`. Attributes may hold Dims and, for control flow, Graphs."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    location: Location = NOWHERE

    @property
    def output(self) -> Value:
        """The only result."""
        (value,) = self.outputs
        return value

    @property
    def regions(self) -> dict[str, Graph]:
        return {name: a for name, a in self.attributes.items() if isinstance(a, Graph)}

    @property
    def defines(self) -> tuple[str, ...]:
        """Names of the size symbols that this node binds when it runs."""
        return self.attributes.get("defines", ())

    def __getitem__(self, attribute: str):
        return self.attributes[attribute]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A function from `inputs` to `outputs`; `nodes` are in an order in which they may run."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    output_names: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if not self.output_names:
            object.__setattr__(self, "output_names", tuple(value.name for value in self.outputs))


def producers(graph: Graph) -> dict[Value, Node]:
    """The node that makes each value of this graph (not of its regions)."""
    return {value: node for node in graph.nodes for value in node.outputs}


def captured(graph: Graph) -> tuple[Value, ...]:
    """Values of enclosing graphs that a region reads, in order of first use."""
    inside: set[Value] = set(graph.inputs)
    found: dict[Value, None] = {}
    for node in graph.nodes:
        needs = [*node.inputs, *(v for region in node.regions.values() for v in captured(region))]
        found.update((value, None) for value in needs if value not in inside)
        inside.update(node.outputs)
    found.update((value, None) for value in graph.outputs if value not in inside)
    return tuple(found)


def reads(node: Node) -> tuple[Value, ...]:
    """Everything a node needs: its inputs and what its regions capture."""
    return (*node.inputs, *(v for region in node.regions.values() for v in captured(region)))


def consumers(graph: Graph) -> dict[Value, list[Node]]:
    """The nodes of this graph that read each value, regions of a node counted as the node."""
    found: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in dict.fromkeys(reads(node)):
            found.setdefault(value, []).append(node)
    return found


def walk(graph: Graph) -> Iterator[Node]:
    """Every node, those of regions included, in order."""
    for node in graph.nodes:
        for region in node.regions.values():
            yield from walk(region)
        yield node


def outer_sizes(graph: Graph) -> frozenset[str]:
    """Names of the sizes that a graph shares with the one it stands in: bound there, or here for there."""
    return frozenset(graph.metadata.get(OUTER_SIZES, "").split())


def attribute_symbols(attribute: Attribute) -> set[str]:
    """Names of the size symbols in one attribute."""
    match attribute:
        case Expr():
            return set(symbols(attribute))
        case tuple():
            return {name for part in attribute for name in attribute_symbols(part)}
    return set()


def used_symbols(node: Node) -> set[str]:
    """Names of the size symbols that a node mentions, in attributes and result types."""
    names = {name for key, a in node.attributes.items() if key != "defines" for name in attribute_symbols(a)}
    for value in node.outputs:
        names |= set(type_symbols(value.type))
    for region in node.regions.values():
        for inner in region.nodes:
            names |= used_symbols(inner)
    return names
