"""Graph: typed, immutable nodes over values with symbolic shapes; printer, parser and verifier beside it."""

from tallow.graph.graph import (
    OUTER_SIZES,
    Attribute,
    Graph,
    Node,
    Value,
    captured,
    consumers,
    outer_sizes,
    producers,
    reads,
    used_symbols,
    walk,
)
from tallow.graph.parse import parse
from tallow.graph.text import print_graph
from tallow.location import NOWHERE, Location
from tallow.types import (
    VARIES,
    MapType,
    NothingType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnrankedType,
    cover,
    replace_sizes,
    type_symbols,
)

__all__ = [
    "NOWHERE",
    "OUTER_SIZES",
    "VARIES",
    "Attribute",
    "Graph",
    "Location",
    "MapType",
    "Node",
    "NothingType",
    "OptionalType",
    "SequenceType",
    "TensorType",
    "Type",
    "UnrankedType",
    "Value",
    "captured",
    "consumers",
    "cover",
    "outer_sizes",
    "parse",
    "print_graph",
    "producers",
    "reads",
    "replace_sizes",
    "type_symbols",
    "used_symbols",
    "walk",
]
