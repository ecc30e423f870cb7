"""Graph: typed, immutable nodes over values with symbolic shapes; printer, parser and verifier beside it."""

from tallow.graph.graph import (
    NOWHERE,
    Attribute,
    Graph,
    Location,
    Node,
    Value,
    captured,
    consumers,
    producers,
    reads,
    used_symbols,
    walk,
)
from tallow.graph.parse import parse
from tallow.graph.text import print_graph
from tallow.graph.types import OptionalType, SequenceType, TensorType, Type, type_symbols

__all__ = [
    "NOWHERE",
    "Attribute",
    "Graph",
    "Location",
    "Node",
    "OptionalType",
    "SequenceType",
    "TensorType",
    "Type",
    "Value",
    "captured",
    "consumers",
    "parse",
    "print_graph",
    "producers",
    "reads",
    "type_symbols",
    "used_symbols",
    "walk",
]
