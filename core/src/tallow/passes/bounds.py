"""Bounds of sizes that a graph implies: a value that only fits up to some size bounds the size."""

from __future__ import annotations

from collections.abc import Iterator

from tallow.dim import Apply, Dim, Expr, Symbol, broadcast_operands
from tallow.graph import Graph, TensorType, type_symbols
from tallow.passes.bind import bind_dims


def bound_sizes(graph: Graph) -> Graph:
    """The graph with s at most c where s and min(c, s) broadcast together (a table of c positions cut to
    s rows and added to s rows): a larger s would fail there, and now fails at the input that binds it."""
    limits: dict[str, int] = {}
    for node in graph.nodes:
        for value in node.outputs:
            for dim in value.type.shape if isinstance(value.type, TensorType) else ():
                for name, limit in _limits(dim):
                    limits[name] = min(limit, limits.get(name, limit))
    have = {name: s for value in graph.inputs for name, s in type_symbols(value.type).items()}
    fitting = {n: (have[n].lower, c) for n, c in limits.items() if n in have and have[n].lower <= c}
    return bind_dims(graph, fitting) if fitting else graph


def _limits(dim: Dim) -> Iterator[tuple[str, int]]:
    """(s, c) of each broadcast of s with min(c, s) in a size, c > 1: then min(c, s) is 1 only if s is."""
    for atoms, _ in dim.terms if isinstance(dim, Expr) else ():
        for atom in atoms:
            if not isinstance(atom, Apply):
                continue
            for argument in atom.arguments:
                yield from _limits(argument)
            if atom.function == "broadcast":
                yield from _cuts([part for a in atom.arguments for part in broadcast_operands(a)])


def _cuts(operands: list[Dim]) -> Iterator[tuple[str, int]]:
    for cut in operands:
        match cut:
            case Expr(terms=(((Apply("min", (a, b)),), 1),)):
                for limit, size in ((a, b), (b, a)):
                    match size:
                        case Expr(terms=(((Symbol(name),), 1),)) if isinstance(limit, int) and limit > 1:
                            yield from [(name, limit)] if size in operands else []
