"""Lanes of vectors that are known when a kernel is printed: what a shuffle needs."""

from __future__ import annotations

import operator

from tallow.kernel.grammar import Call, Const, Expr, Ramp, Splat

_ARITHMETIC = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.floordiv,
    "fmod": operator.mod,
}


def known_lanes(e: Expr) -> list[int] | None:
    """The number in each lane of an index that is made of constants, none of them negative."""
    match e:
        case Const(value, lanes=lanes):
            return [value] * lanes
        case Ramp(lanes):
            return list(range(lanes))
        case Splat(value, lanes):
            known = known_lanes(value)
            return known and known * lanes
        case Call(function, (a, b)) if function in _ARITHMETIC:
            left, right = known_lanes(a), known_lanes(b)
            if left is None or right is None:
                return None
            return [_ARITHMETIC[function](x, y) for x, y in zip(left, right, strict=True)]
    return None
