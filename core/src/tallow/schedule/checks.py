"""Checks of what type rules could not prove: sizes that must agree when their values are known.

A type rule lets `[n, k] x [m, p]` pass as a product, since k may equal m. Kernels rely on it, so the run has
to make sure. Which nodes need that is found by trying their type rules on sample sizes: a rule that holds
for all of them relies on nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tallow.dim import Expr, substitute, symbols
from tallow.errors import GraphError, InputError
from tallow.location import Location
from tallow.types import TensorType, Type, type_symbols

if TYPE_CHECKING:
    from tallow.graph import Graph, Node

PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197)
UNTYPED = {"if", "loop", "on", "fail", "constant"}  # their types are stated, or follow from regions


class Check(NamedTuple):
    """A node whose type rule must hold for the sizes of the run."""

    op: str
    inputs: tuple[Type, ...]
    attributes: Mapping[str, object]
    outputs: tuple[Type, ...]
    location: Location

    @property
    def sizes(self) -> frozenset[str]:
        """Names of the sizes that must be known."""
        names = {name for t in (*self.inputs, *self.outputs) for name in type_symbols(t)}
        return frozenset(names | _names(self.attributes.values())) - set(self.attributes.get("defines", ()))


def checks_of(graph: Graph) -> tuple[Check, ...]:
    """The checks that the nodes of a graph need (not those of its regions)."""
    found: dict[tuple, Check] = {}
    for node in graph.nodes:
        if node.op in UNTYPED or not all(
            isinstance(v.type, TensorType) for v in (*node.inputs, *node.outputs)
        ):
            continue
        check = Check(
            node.op,
            tuple(v.type for v in node.inputs),
            node.attributes,
            tuple(v.type for v in node.outputs),
            node.location,
        )
        key = (node.op, check.inputs, check.outputs, _key(node))
        if check.sizes and key not in found:
            found[key] = check
    return tuple(check for check in found.values() if not _always_holds(check))


def _key(node: Node) -> tuple:
    return tuple((k, id(a) if isinstance(a, np.ndarray) else a) for k, a in node.attributes.items())


def verify_sizes(check: Check, sizes: Mapping[str, int]) -> None:
    """InputError, in the operator's words, when a node's type rule does not hold for these sizes."""
    from tallow.ops import OPS  # a program without checks runs without the operator table

    try:
        inputs = [_bound(t, sizes) for t in check.inputs]
        attributes = {k: _bound(a, sizes) if k != "defines" else a for k, a in check.attributes.items()}
        got = OPS[check.op].infer(inputs, attributes)
        wanted = tuple(_bound(t, sizes) for t in check.outputs)
    except (GraphError, ZeroDivisionError) as error:
        raise InputError(f"the inputs' sizes do not fit: {error} ({check.location})") from None
    if tuple(_bound(t, sizes) for t in got) != wanted:
        listed = [", ".join(map(str, types)) for types in (inputs, got, wanted)]
        raise InputError(
            f"the inputs' sizes do not fit: {check.op} of {listed[0]} gives {listed[1]}, "
            f"expected {listed[2]} ({check.location})"
        )


def _always_holds(check: Check) -> bool:
    try:
        for sample in _samples(check.sizes, _symbols(check)):
            verify_sizes(check, sample)
    except InputError:
        return False
    return True


def _samples(names: Iterable[str], known: Mapping[str, tuple[int, int | None]]) -> Iterable[dict[str, int]]:
    """Sizes to try: the least that are allowed, small ones, and two sets of different primes."""
    names = sorted(names)
    choices = [lambda n, i, small=small: small for small in (0, 1, 2, 7)]
    choices += [lambda n, i: PRIMES[i % len(PRIMES)], lambda n, i: 2 * PRIMES[-1 - i % len(PRIMES)]]
    for choose in choices:
        sample = {}
        for number, name in enumerate(names):
            low, high = known.get(name, (0, None))
            size = max(low, choose(name, number))
            sample[name] = size if high is None else min(size, high)
        yield sample


def _symbols(check: Check) -> dict[str, tuple[int, int | None]]:
    types = (*check.inputs, *check.outputs)
    return {name: (s.lower, s.upper) for t in types for name, s in type_symbols(t).items()}


def _bound(part, sizes: Mapping[str, int]):
    """A type or attribute with sizes in place of symbols."""
    match part:
        case TensorType():
            return TensorType(part.dtype, tuple(substitute(d, sizes) for d in part.shape))
        case Expr():
            return substitute(part, sizes)
        case tuple():
            return tuple(_bound(p, sizes) for p in part)
    return part


def _names(parts) -> set[str]:
    found: set[str] = set()
    for part in parts:
        match part:
            case Expr():
                found |= set(symbols(part))
            case tuple():
                found |= _names(part)
            case TensorType():
                found |= set(type_symbols(part))
    return found
