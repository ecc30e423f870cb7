"""Parser of the text form of Graphs: what `print_graph` prints, read back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tallow.dim import Dim, Expr, symbol
from tallow.dim_text import scan_dim
from tallow.dtype import DTYPES, DType
from tallow.errors import GraphError
from tallow.graph.graph import Graph, Node, Value
from tallow.graph.text import CONTAINERS, parse_elements
from tallow.location import NOWHERE, Location
from tallow.scan import Scanner, Token, unquoted
from tallow.types import TensorType, Type

_WORDS = {"True": True, "False": False, "None": None, "inf": math.inf, "nan": math.nan}


def parse(text: str, arrays: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that a text writes. `arrays` holds those that the text names by digest.

    GraphError names line and column, what was expected and what came. Operators and types are not
    checked: `tallow.verify.verify` does that.
    """
    parser = _Parser(Scanner(text), arrays or {})
    try:
        parser.header()
        graph = parser.graph({})
        if parser.scanner.peek().kind != "end":
            raise parser.scanner.error("the end of the text")
    except RecursionError:
        raise GraphError("graph text is nested too deeply") from None
    return graph


class _Parser:
    """Reads one text; a scope maps the names of values to the values that a node may read."""

    def __init__(self, scanner: Scanner, arrays: Mapping[str, np.ndarray]):
        self.scanner, self.arrays = scanner, arrays
        self.source = ""
        self.bounds: dict[str, tuple[int, int | None]] = {}

    # Graphs and nodes --------------------------------------------------------------------------

    def graph(self, outer: Mapping[str, Value]) -> Graph:
        scanner, scope = self.scanner, dict(outer)
        scanner.want("graph")
        name = self.name("the graph's name")
        scanner.want("(")
        inputs = tuple(scanner.listed(lambda: self.made(scope), ")"))
        metadata = {}
        while scanner.at("metadata") and scanner.peek(1).kind == "string":
            scanner.next()
            key = self.string("a key")
            scanner.want("=")
            metadata[key] = self.string("a text")
        nodes = []
        while not scanner.at("return"):
            nodes.append(self.node(scope))
        scanner.next()
        results = self.results(scope)
        names, values = tuple(n for n, _ in results), tuple(v for _, v in results)
        return Graph(name, inputs, values, tuple(nodes), names, metadata)

    def header(self) -> None:
        """`source "NAME"` and `sizes NAME in LOW..HIGH, ...`, both of which may be absent."""
        scanner = self.scanner
        if scanner.take("source"):
            self.source = self.string("where nodes come from")
        if scanner.take("sizes"):
            self.size()
            while scanner.take(","):
                self.size()

    def size(self) -> None:
        scanner = self.scanner
        name = scanner.kind("name", "a size's name").text
        scanner.want("in")
        low = self.integer("the least size")
        scanner.want("..")
        high = self.integer("the greatest size") if scanner.peek().kind == "number" else None
        self.bounds[name] = (low, high)

    def integer(self, expected: str) -> int:
        if not self.scanner.peek().text.isdecimal():
            raise self.scanner.error(f"{expected}, an integer")
        return int(self.scanner.next().text)

    def results(self, scope: Mapping[str, Value]) -> list[tuple[str, Value]]:
        scanner, found = self.scanner, []
        while scanner.peek().kind in ("name", "string") and scanner.at("=", 1):
            name = self.name("a result's name")
            scanner.want("=")
            found.append((name, self.read(scope)))
            if not scanner.take(","):
                break
        return found

    def node(self, scope: dict[str, Value]) -> Node:
        scanner = self.scanner
        made: dict[str, Value] = {}
        while scanner.peek().kind == "value":
            self.made(made, scope)
            if not scanner.take(","):
                break
        if made:
            scanner.want("=")
        elif scanner.peek().kind not in ("name", "string"):
            raise scanner.error('a node or "return"')
        op = self.name("an operator")
        scanner.want("(")
        inputs = tuple(scanner.listed(lambda: self.read(scope), ")"))
        attributes: dict = {}
        while scanner.peek().kind in ("name", "string") and scanner.at("=", 1):
            key = self.name("an attribute")
            scanner.want("=")
            attributes[key] = self.attribute()
        location = self.location() if scanner.take("@") else NOWHERE
        while scanner.peek().kind in ("name", "string") and scanner.at(":", 1):
            key = self.name("a region")
            scanner.want(":")
            attributes[key] = self.graph(scope)
        scope.update(made)
        return Node(op, inputs, tuple(made.values()), attributes, location)

    def location(self) -> Location:
        scanner = self.scanner
        name, op, source = self.string("a node's name"), "", self.source
        if scanner.take("("):
            op = self.name("a source operator")
            scanner.want(")")
        if scanner.take("in"):
            source = self.string("a source")
        return Location(name, op, source)

    # Names -------------------------------------------------------------------------------------

    def name(self, expected: str) -> str:
        if self.scanner.peek().kind not in ("name", "string"):
            raise self.scanner.error(expected)
        return unquoted(self.scanner, self.scanner.next())

    def string(self, expected: str) -> str:
        return unquoted(self.scanner, self.scanner.kind("string", f"{expected} in quotes"))

    def made(self, into: dict[str, Value], also: Mapping[str, Value] | None = None) -> Value:
        """`%name: type` of a new value."""
        token = self.scanner.kind("value", "a value such as %x")
        name = unquoted(self.scanner, token)
        if name in into or name in (also or {}):
            raise self.scanner.fault(f"%{name} is made already: expected a new name", token)
        self.scanner.want(":")
        into[name] = Value(name, self.type())
        return into[name]

    def read(self, scope: Mapping[str, Value]) -> Value:
        token = self.scanner.kind("value", "a value such as %x")
        name = unquoted(self.scanner, token)
        if name not in scope:
            raise self.scanner.fault(f"%{name} is not made before it is read", token)
        return scope[name]

    # Types and attributes ----------------------------------------------------------------------

    def type(self) -> Type:
        scanner = self.scanner
        token = scanner.kind("name", "a type such as f32[2, n]")
        if token.text in CONTAINERS:
            made, are_dtypes = CONTAINERS[token.text]
            parts = []
            for position, is_dtype in enumerate(are_dtypes):
                scanner.want("," if position else "(")
                part = scanner.kind("name", "a dtype") if is_dtype else None
                parts.append(self.type() if part is None else self.dtype(part))
            scanner.want(")")
            return made(*parts)
        found = self.dtype(token)
        scanner.want("[")
        return TensorType(found, tuple(scanner.listed(self.dim, "]")))

    def dtype(self, token: Token) -> DType:
        if token.text not in DTYPES:
            raise self.scanner.fault(f"there is no dtype {token.text!r}: expected {', '.join(DTYPES)}", token)
        return DTYPES[token.text]

    def dim(self) -> Dim:
        token = self.scanner.peek()
        try:
            return scan_dim(self.scanner, lambda name: symbol(name, *self.bounds.get(name, (0, None))))
        except ZeroDivisionError:
            raise self.scanner.fault("a size is divided by zero", token) from None

    def attribute(self):
        scanner, token = self.scanner, self.scanner.peek()
        if token.kind == "string":
            return self.string("a text")
        if scanner.take("("):
            return tuple(scanner.listed(self.attribute, ")"))
        if token.kind == "number" or scanner.at("-"):
            return self.number()
        if token.kind != "name":
            raise scanner.error("an attribute: a number, text, size, dtype, array or (...)")
        if token.text in _WORDS:
            scanner.next()
            return _WORDS[token.text]
        if token.text in CONTAINERS and scanner.at("(", 1):
            return self.type()
        if token.text == "dim" and scanner.at("(", 1):
            scanner.next()
            scanner.want("(")
            dim = self.dim()
            scanner.want(")")
            return dim
        if token.text in DTYPES:
            if not scanner.at("[", 1):
                return DTYPES[scanner.next().text]
            type_ = self.type()
            return self.array(type_, token) if scanner.at("{") else type_
        return self.dim()

    def number(self) -> int | float | Expr:
        """An integer, a float, or a size that begins with a number or a sign."""
        scanner = self.scanner
        sign = int(scanner.at("-"))
        token = scanner.peek(sign)
        if token.kind == "number" and not token.text.isdecimal() or token.text in ("inf", "nan"):
            for _ in range(sign):
                scanner.next()
            return (-1.0 if sign else 1.0) * float(scanner.next().text)
        return self.dim()

    def array(self, type_: TensorType, token: Token) -> np.ndarray:
        """`dtype[shape]{...}`: elements, bytes, or the digest of an array in the mapping."""
        scanner = self.scanner
        if not type_.is_static:
            raise scanner.fault(f"an array of {type_}: expected a shape of numbers", token)
        scanner.want("{")
        if scanner.take("@"):
            flat = self.kept(type_)
        elif scanner.take("bytes"):
            flat = self.content(type_.dtype)
        elif scanner.at("..."):
            raise scanner.fault('this array was left out: print with large="hex" or a mapping', token)
        else:
            return self.elements(type_, token)
        scanner.want("}")
        return self.shaped(flat, type_, token)

    def kept(self, type_: TensorType) -> np.ndarray:
        token = self.scanner.peek()
        key = self.string("a digest")
        if key not in self.arrays:
            raise self.scanner.fault(f"array {key} is not among those given", token)
        array = self.arrays[key]
        if array.dtype != type_.dtype.numpy:
            raise self.scanner.fault(f"array {key} is of {array.dtype}, expected {type_}", token)
        return array

    def content(self, kind: DType) -> np.ndarray:
        token = self.scanner.peek()
        try:
            return np.frombuffer(bytes.fromhex(self.string("bytes in hex")), kind.numpy)
        except (ValueError, TypeError) as error:
            raise self.scanner.fault(f"bad bytes of {kind}: {error}", token) from None

    def elements(self, type_: TensorType, token: Token) -> np.ndarray:
        scanner, kind = self.scanner, type_.dtype
        if kind.kind == "string":
            texts = scanner.listed(lambda: self.string("a text"), "}")
            flat = np.empty(len(texts), object)
            flat[:] = texts
            return self.shaped(flat, type_, token)

        def element() -> str:
            sign = "-" if scanner.take("-") else ""
            if scanner.peek().kind not in ("number", "name"):
                raise scanner.error(f"a number of {kind}")
            return sign + scanner.next().text

        texts = scanner.listed(element, "}")
        try:
            flat = parse_elements(texts, kind)
        except (ValueError, OverflowError) as error:
            raise scanner.fault(f"bad elements of {kind}: {error}", token) from None
        return self.shaped(flat, type_, token)

    def shaped(self, flat: np.ndarray, type_: TensorType, token: Token) -> np.ndarray:
        if flat.size != type_.size:
            raise self.scanner.fault(f"{flat.size} elements do not fill {type_}", token)
        return flat.reshape(type_.shape)
