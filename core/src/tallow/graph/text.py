"""Printer of Graphs as text, one node a line, regions indented; `parse` reads it back.

    source "net.onnx"
    sizes batch in 1..8
    graph net(%x: f32[batch, 4])
      %w: f32[4] = constant() value=f32[4]{1.0, 2.0, 3.0, 4.0}
      %y: f32[batch, 4] = mul(%x, %w) @ "scale" (Mul)
      return y = %y

Names are quoted when they are more than letters, digits and a few signs. `source` is where nodes come
from that do not say otherwise. An array of more than INLINE elements is written as `large` says.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, MutableMapping, Sequence

import numpy as np

from tallow.dim import Expr, symbols
from tallow.dtype import DTYPES, DType, dtype
from tallow.errors import GraphError
from tallow.graph.graph import Graph, Node, Value, walk
from tallow.location import NOWHERE, Location
from tallow.scan import PLAIN_VALUE, quoted
from tallow.types import (
    MapType,
    NothingType,
    OptionalType,
    SequenceType,
    Type,
    UnrankedType,
    type_symbols,
)

INLINE = 8  # elements of an array that are written out
CONTAINERS = {  # types as they are written, and whether their parts are dtypes (else types)
    "seq": (SequenceType, (False,)),
    "optional": (OptionalType, (False,)),
    "map": (MapType, (True, False)),
    "unranked": (UnrankedType, (True,)),
    "nothing": (NothingType, (True,)),
}
RESERVED = {*DTYPES, *CONTAINERS, "True", "False", "None", "inf", "nan", "dim"}

Large = str | MutableMapping[str, np.ndarray]


def print_graph(graph: Graph, large: Large = "elide") -> str:
    """The whole graph. Large arrays are left out ("elide", which cannot be parsed), written as "hex",
    or put into a mapping by their digest, which the text names and `parse` is given again."""
    if isinstance(large, str) and large not in ("elide", "hex"):
        raise GraphError(f'large arrays: expected "elide", "hex" or a mapping, got {large!r}')
    source = next((n.location.source for n in walk(graph) if n.location != NOWHERE), "")
    header = [f"source {_string(source)}"] if source else []
    sizes = [f"{name} in {low}..{'' if high is None else high}" for name, (low, high) in _bounded(graph)]
    header += [f"sizes {', '.join(sizes)}"] if sizes else []
    return "\n".join([*header, *_Printer(large, source).graph(graph, 0)])


def print_nodes(nodes: Sequence[Node], marked: Node | None = None) -> str:
    """A few nodes, one of them marked."""
    printer = _Printer("elide", "")
    return "\n".join(
        ("> " if node is marked else "  ") + line for node in nodes for line in printer.node(node, 0)
    )


class _Printer:
    """Writes nodes; knows what each value is called. Values in sight of each other that share a name are
    numbered."""

    def __init__(self, large: Large, source: str):
        self.large, self.source = large, source
        self.names: dict[Value, str] = {}
        self.taken: Counter[str] = Counter()

    def name(self, value: Value) -> str:
        if value not in self.names:
            name = value.name
            while name in self.taken:
                self.taken[value.name] += 1
                name = f"{value.name}.{self.taken[value.name]}"
            self.taken[name] += 0
            self.names[value] = name
        return f"%{quoted(self.names[value], PLAIN_VALUE)}"

    def graph(self, graph: Graph, depth: int) -> list[str]:
        pad, outside = "  " * depth, Counter(self.taken)
        inputs = ", ".join(f"{self.name(v)}: {v.type}" for v in graph.inputs)
        lines = [f"{pad}graph {quoted(graph.name)}({inputs})"]
        lines += [f"{pad}  metadata {_string(k)} = {_string(v)}" for k, v in graph.metadata.items()]
        for node in graph.nodes:
            lines += self.node(node, depth + 1)
        results = zip(graph.output_names, graph.outputs, strict=True)
        outputs = ", ".join(f"{quoted(n)} = {self.name(v)}" for n, v in results)
        self.taken = outside
        return [*lines, f"{pad}  return {outputs}".rstrip()]

    def node(self, node: Node, depth: int) -> list[str]:
        pad = "  " * depth
        operands = ", ".join(map(self.name, node.inputs))
        regions = {k: self.graph(region, depth + 2) for k, region in node.regions.items()}
        results = ", ".join(f"{self.name(v)}: {v.type}" for v in node.outputs)
        attributes = "".join(
            f" {quoted(k)}={self.attribute(a)}" for k, a in node.attributes.items() if k not in regions
        )
        head = f"{pad}{results + ' = ' if results else ''}{quoted(node.op)}({operands}){attributes}"
        lines = [head + self.location(node.location)]
        for name, region in regions.items():
            lines += [f"{pad}  {quoted(name)}:", *region]
        return lines

    def location(self, location: Location) -> str:
        if location == NOWHERE:
            return ""
        op = f" ({quoted(location.op)})" if location.op else ""
        source = f" in {_string(location.source)}" if location.source != self.source else ""
        return f" @ {_string(location.name)}{op}{source}"

    def attribute(self, attribute) -> str:
        match attribute:
            case None | bool() | np.bool_() | DType():
                return str(attribute)
            case _ if isinstance(attribute, Type):
                return str(attribute)
            case str():
                return _string(attribute)
            case int() | np.integer():
                return str(int(attribute))
            case float() | np.floating():
                return repr(float(attribute))
            case Expr():
                return f"dim({attribute})" if set(symbols(attribute)) & RESERVED else str(attribute)
            case tuple() | list():
                parts = [self.attribute(part) for part in attribute]
                return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
            case np.ndarray():
                return self.array(attribute)
        raise GraphError(f"an attribute cannot be a {type(attribute).__name__}")

    def array(self, array: np.ndarray) -> str:
        kind = dtype(array.dtype)
        array = np.ascontiguousarray(array, kind.numpy).reshape(array.shape)
        head = f"{kind}[{', '.join(map(str, array.shape))}]"
        if array.size <= INLINE or (kind.kind == "string" and self.large == "hex"):
            return f"{head}{{{_elements(array, kind)}}}"
        if isinstance(self.large, str):
            return f"{head}{{{'...' if self.large == 'elide' else _hex(array)}}}"
        key = digest(array)
        self.large[key] = array
        return f"{head}{{@{_string(key)}}}"


def digest(array: np.ndarray) -> str:
    """The name of an array in a mapping of large ones."""
    content = "\0".join(array.reshape(-1)).encode() if array.dtype == object else array.tobytes()
    facts = f"{dtype(array.dtype)}{list(array.shape)}".encode()
    return hashlib.sha256(facts + content).hexdigest()[:32]


def parse_elements(texts: Sequence[str], kind: DType) -> np.ndarray:
    """Elements of an array from their decimal texts; ValueError for a text that is none."""
    match kind.kind:
        case "bool":
            if not set(texts) <= {"True", "False"}:
                raise ValueError("expected True or False")
            return np.array([t == "True" for t in texts], kind.numpy)
        case "float":
            return np.array([float(t) for t in texts], np.float64).astype(kind.numpy)
    wide = np.array([int(t) for t in texts], np.uint64 if kind.kind == "uint" else np.int64)
    array = wide.astype(kind.numpy)
    if not np.array_equal(array.astype(wide.dtype), wide):
        raise ValueError(f"a number is out of the range of {kind}")
    return array


def _elements(array: np.ndarray, kind: DType) -> str:
    """The elements in decimal, or as bytes where that would lose a bit."""
    flat = array.reshape(-1)
    if kind.kind == "string":
        return ", ".join(_string(str(v)) for v in flat)
    if kind.kind != "complex":
        texts = [_number(v, kind) for v in flat]
        with np.errstate(all="ignore"):
            if parse_elements(texts, kind).tobytes() == flat.tobytes():
                return ", ".join(texts)
    return _hex(array)


def _number(value, kind: DType) -> str:
    if not kind.is_float:
        return str(bool(value)) if kind.kind == "bool" else str(int(value))
    shortest = str(value) if kind.name in ("f32", "f16") else repr(float(value))
    return shortest if float(shortest) == float(value) or kind.name == "f32" else repr(float(value))


def _hex(array: np.ndarray) -> str:
    return f'bytes "{array.tobytes().hex()}"'


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _bounded(graph: Graph) -> list[tuple[str, tuple[int, int | None]]]:
    """Every size with bounds of its own: the tightest that any mention of it states."""
    found: dict[str, tuple[int, int | None]] = {}
    for symbol in _mentioned(graph):
        low, high = found.get(symbol.name, (0, None))
        highs = [h for h in (high, symbol.upper) if h is not None]
        found[symbol.name] = max(low, symbol.lower), min(highs, default=None)
    return [(name, limits) for name, limits in found.items() if limits != (0, None)]


def _mentioned(graph: Graph) -> Iterable:
    for value in graph.inputs:
        yield from type_symbols(value.type).values()
    for node in graph.nodes:
        for attribute in node.attributes.values():
            yield from _symbols_of(attribute)
        for value in node.outputs:
            yield from type_symbols(value.type).values()


def _symbols_of(attribute) -> Iterable:
    match attribute:
        case Expr():
            yield from symbols(attribute).values()
        case tuple() | list():
            for part in attribute:
                yield from _symbols_of(part)
        case _ if isinstance(attribute, Type):
            yield from type_symbols(attribute).values()
        case Graph():
            yield from _mentioned(attribute)
