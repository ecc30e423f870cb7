"""Sizes: a Dim is an int or an integer polynomial over named symbols, kept in one normal form.

Two Dims are provably equal when they compare equal. Division, remainder, min, max and the
broadcast of two unknown sizes are opaque atoms of the polynomial, simplified where that is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce

from tallow.errors import GraphError
from tallow.scan import PLAIN, compiled

Bounds = tuple[int | None, int | None]
MOST_TERMS, MOST_FACTORS = 1 << 12, 1 << 8  # of a product; a model's sizes have a few


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named size; equal names are equal values. `lower..upper` (inclusive) is what is known of it."""

    name: str
    lower: int = field(default=0, compare=False)
    upper: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of Dims that is not a polynomial: floordiv, mod, min, max or broadcast."""

    function: str
    arguments: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.function}({', '.join(map(str, self.arguments))})"


Atom = Symbol | Apply
Monomial = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Expr:
    """A sum of integer multiples of products of atoms; never a plain constant (that is an int)."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _from_terms([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __mul__(self, other: Dim) -> Dim:
        terms = self.terms, _terms(other)
        factors = sum(max(len(atoms) for atoms, _ in each) for each in terms)
        if len(terms[0]) * len(terms[1]) > MOST_TERMS or factors > MOST_FACTORS:
            raise GraphError("a product of sizes is too long to be kept: give some of the sizes numbers")
        return _from_terms(
            (tuple(sorted((*left, *right), key=str)), a * b)
            for left, a in self.terms
            for right, b in _terms(other)
        )

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __str__(self) -> str:
        text = ""
        for atoms, factor in self.terms:
            body = "*".join(
                [*([str(abs(factor))] if abs(factor) != 1 or not atoms else []), *map(str, atoms)]
            )
            sign = "-" if factor < 0 else "+"
            text += f" {sign} {body}" if text else (f"-{body}" if factor < 0 else body)
        return text

    def __repr__(self) -> str:
        return str(self)


Dim = int | Expr


def symbol(name: str, lower: int = 0, upper: int | None = None) -> Expr:
    """The Dim that is one named symbol; GraphError for what is no name."""
    if not compiled(PLAIN).fullmatch(name):
        raise GraphError(f"a size cannot be called {name!r}: expected letters, digits, _ and dots")
    return Expr((((Symbol(name, lower, upper),), 1),))


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, Expr) else (((), int(dim)),)


def _from_terms(terms) -> Dim:
    total: dict[Monomial, int] = {}
    for atoms, factor in terms:
        total[atoms] = total.get(atoms, 0) + factor
    kept = {atoms: factor for atoms, factor in total.items() if factor}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Expr(tuple(sorted(kept.items(), key=lambda term: (not term[0], *map(str, term[0])))))


def _atom(function: str, *arguments: Dim) -> Dim:
    return Expr((((Apply(function, arguments),), 1),))


def exact_quotient(dim: Dim, divisor: Dim) -> Dim | None:
    """`dim / divisor` when the division provably leaves no remainder, else None."""
    parts = _terms(divisor)
    if len(parts) != 1 or parts[0][1] == 0:
        return _long_division(dim, divisor) if len(parts) > 1 else None
    (atoms, factor) = parts[0]
    result = []
    for have, coefficient in _terms(dim):
        rest = list(have)
        for atom in atoms:
            if atom not in rest:
                return 0 if coefficient == 0 else None
            rest.remove(atom)
        if coefficient % factor:
            return None
        result.append((tuple(rest), coefficient // factor))
    return _from_terms(result)


def _long_division(dim: Dim, divisor: Dim) -> Dim | None:
    """The quotient of polynomials, leading terms first (by degree, then by names), if none is left."""

    def leading(d: Dim):
        return min(_terms(d), key=lambda term: (-len(term[0]), [str(atom) for atom in term[0]]))

    quotient: Dim = 0
    for _ in range(len(_terms(dim))):
        part = exact_quotient(_from_terms([leading(dim)]), _from_terms([leading(divisor)]))
        if part is None:
            return None
        quotient, dim = quotient + part, dim - part * divisor
        if dim == 0:
            return quotient
    return None


def floordiv(a: Dim, b: Dim) -> Dim:
    """`a // b`, rounding towards minus infinity."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    exact = exact_quotient(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and b > 0:  # (k*b*x + r) // b = k*x + r // b
        whole = [(atoms, f) for atoms, f in _terms(a) if atoms and f % b == 0]
        rest = _from_terms((atoms, f) for atoms, f in _terms(a) if not (atoms and f % b == 0))
        if whole:
            return _from_terms((atoms, f // b) for atoms, f in whole) + floordiv(rest, b)
        constant = dict(_terms(a)).get((), 0)
        if constant // b:
            return floordiv(a - constant // b * b, b) + constant // b
    return _atom("floordiv", a, b)


def mod(a: Dim, b: Dim) -> Dim:
    """`a - b * (a // b)`."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if exact_quotient(a, b) is not None:
        return 0
    return _atom("mod", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """`a / b`, rounding towards plus infinity."""
    return -floordiv(-a, b) if isinstance(a, int) else floordiv(a + b - 1, b)


def minimum(a: Dim, b: Dim) -> Dim:
    low, high = bounds(a - b)
    if high is not None and high <= 0:
        return a
    if low is not None and low >= 0:
        return b
    return _atom("min", *sorted((a, b), key=str))


def maximum(a: Dim, b: Dim) -> Dim:
    low, high = bounds(a - b)
    if high is not None and high <= 0:
        return b
    if low is not None and low >= 0:
        return a
    return _atom("max", *sorted((a, b), key=str))


def broadcast(a: Dim, b: Dim) -> Dim:
    """The size that numpy gives two broadcast sizes; GraphError if they provably do not fit."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise GraphError(f"sizes {a} and {b} do not broadcast: expected equal sizes or a 1")
    if isinstance(a, int) and a > 1:
        return a  # the other must be 1 or a: its kernel reads element 0 when it is 1
    if isinstance(b, int) and b > 1:
        return b
    if bounds(a)[0] is not None and bounds(a)[0] >= 2:
        return a
    if bounds(b)[0] is not None and bounds(b)[0] >= 2:
        return b
    operands = sorted({*broadcast_operands(a), *broadcast_operands(b)}, key=str)
    return reduce(lambda x, y: _atom("broadcast", x, y), operands)


def broadcast_operands(dim: Dim) -> tuple[Dim, ...]:
    """The sizes inside nested broadcasts: their order and repetition mean nothing."""
    match dim:
        case Expr(terms=(((Apply("broadcast", (a, b)),), 1),)):
            return (*broadcast_operands(a), *broadcast_operands(b))
    return (dim,)


def product(dims) -> Dim:
    return reduce(lambda a, b: a * b, dims, 1)


def _atom_bounds(atom: Atom) -> Bounds:
    if isinstance(atom, Symbol):
        return atom.lower, atom.upper
    (a_low, a_high), (b_low, b_high) = map(bounds, atom.arguments)
    match atom.function:
        case "floordiv" if b_low is not None and b_low > 0:
            low = (
                None
                if a_low is None
                else (a_low // b_low if a_low < 0 else 0 if b_high is None else a_low // b_high)
            )
            high = (
                None
                if a_high is None
                else (a_high // b_low if a_high >= 0 else -1 if b_high is None else a_high // b_high)
            )
            return low, high
        case "mod" if b_low is not None and b_low > 0:
            return 0, None if b_high is None else b_high - 1
        case "min":
            highs = [h for h in (a_high, b_high) if h is not None]
            return None if None in (a_low, b_low) else min(a_low, b_low), min(highs, default=None)
        case "max":
            lows = [low for low in (a_low, b_low) if low is not None]
            return max(lows, default=None), None if None in (a_high, b_high) else max(a_high, b_high)
        case "broadcast":
            return 0, None if None in (a_high, b_high) else max(a_high, b_high)
    return None, None


def _times(a: Bounds, b: Bounds) -> Bounds:
    def corner(x: int | None, y: int | None, sign_x: int, sign_y: int) -> float:
        x_value = sign_x * math.inf if x is None else x
        y_value = sign_y * math.inf if y is None else y
        return 0 if 0 in (x_value, y_value) else x_value * y_value

    corners = [corner(a[i], b[j], (-1, 1)[i], (-1, 1)[j]) for i in (0, 1) for j in (0, 1)]
    low, high = min(corners), max(corners)
    return None if math.isinf(low) else int(low), None if math.isinf(high) else int(high)


def bounds(dim: Dim) -> Bounds:
    """Inclusive `(lower, upper)` of a Dim by interval arithmetic; None where nothing is known."""
    low: int | None = 0
    high: int | None = 0
    for atoms, factor in _terms(dim):
        part: Bounds = (factor, factor)
        for atom in atoms:
            part = _times(part, _atom_bounds(atom))
        low = None if low is None or part[0] is None else low + part[0]
        high = None if high is None or part[1] is None else high + part[1]
    return low, high


def _broadcast_values(a: int, b: int) -> int:
    if a != b and 1 not in (a, b):
        raise GraphError(f"sizes {a} and {b} do not broadcast: expected equal sizes or a 1")
    return b if a == 1 else a


FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
    "broadcast": _broadcast_values,
}
BUILD = {"floordiv": floordiv, "mod": mod, "min": minimum, "max": maximum, "broadcast": broadcast}


def substitute(dim: Dim, bindings: Mapping[str, Dim]) -> Dim:
    """`dim` with symbols replaced by other Dims, in normal form again."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for atoms, factor in dim.terms:
        part: Dim = factor
        for atom in atoms:
            if isinstance(atom, Symbol):
                part = part * bindings.get(atom.name, Expr((((atom,), 1),)))
            else:
                part = part * BUILD[atom.function](*(substitute(a, bindings) for a in atom.arguments))
        total = total + part
    return total


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """The value of a Dim; GraphError names the symbols that have no binding."""
    if isinstance(dim, int):
        return dim
    try:
        return _value(dim, bindings)
    except KeyError:
        value = substitute(dim, bindings)  # a size that is not known may be multiplied by 0
    if not isinstance(value, int):
        raise GraphError(f"size {dim} has no value: {', '.join(sorted(symbols(value)))} not bound")
    return value


def _value(dim: Dim, bindings: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    total = 0
    for atoms, factor in dim.terms:
        for atom in atoms:
            if isinstance(atom, Symbol):
                factor *= bindings[atom.name]
            else:
                a, b = atom.arguments
                factor *= FUNCTIONS[atom.function](_value(a, bindings), _value(b, bindings))
        total += factor
    return total


def name_of(dim: Dim) -> str | None:
    """The name of a Dim that is one symbol."""
    match dim:
        case Expr(terms=((((Symbol() as only),), 1),)):
            return only.name
    return None


def symbols(dim: Dim) -> dict[str, Symbol]:
    """Every symbol in a Dim, by name."""
    found: dict[str, Symbol] = {}
    for atoms, _ in _terms(dim):
        for atom in atoms:
            if isinstance(atom, Symbol):
                found[atom.name] = atom
            else:
                for argument in atom.arguments:
                    found |= symbols(argument)
    return found
