"""gelu written out, with erf or with tanh."""

from __future__ import annotations

import math

from tallow.builder import Builder
from tallow.graph import Node, Value
from tallow.passes.recognise.match import factors, near, scaled, split_factors, with_constant
from tallow.passes.simplify import Facts

CUBE, WIDTH = 0.044715, math.sqrt(2 / math.pi)


def gelu(b: Builder, node: Node, facts: Facts) -> Value | None:
    """x * 0.5 * (erf(x / sqrt(2)) + 1) = gelu(x), in any order of the factors;
    x * 0.5 * (tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)) + 1) = gelu(x) approximated."""
    parts = factors(node.output, facts)
    if len(parts) != 3 or not node.output.dtype.is_float:
        return None
    for last in parts:
        others = [f for f in parts if f is not last]
        halves = [f for f in others if near(facts.scalar(f), 0.5)]
        shifted = with_constant(facts.made_by(last, "add"), facts)
        if len(halves) != 1 or len(others) != 2 or shifted is None or not near(shifted[1], 1.0):
            continue
        (x,) = (f for f in others if f is not halves[0])
        if x.type != node.output.type:
            continue
        if _is_exact(shifted[0], x, facts):
            return b.gelu(x, approximate="none")
        if _is_approximate(shifted[0], x, facts):
            return b.gelu(x, approximate="tanh")
    return None


def _is_exact(value: Value, x: Value, facts: Facts) -> bool:
    """erf(x / sqrt(2))."""
    erf = facts.made_by(value, "erf")
    inner = None if erf is None else scaled(erf.inputs[0], facts)
    return inner is not None and inner[0] is x and near(inner[1], math.sqrt(0.5))


def _is_approximate(value: Value, x: Value, facts: Facts) -> bool:
    """tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)), x also outside of the brackets."""
    tanh = facts.made_by(value, "tanh")
    if tanh is None:
        return False
    width, parts = split_factors(tanh.inputs[0], facts)
    sums = [p for p in parts if facts.made_by(p, "add")]
    if len(sums) != 1 or not near(width, WIDTH):
        return False
    outside = [p for p in parts if p is not sums[0]]
    one, other = facts.made_by(sums[0], "add").inputs
    for line, cube in ((one, other), (other, one)):
        number, powers = split_factors(cube, facts)
        if not near(number, CUBE) or any(p is not x for p in (*outside, *powers)):
            continue
        if not outside and line is x and len(powers) == 3:
            return True
        if len(outside) == 1 and near(facts.scalar(line), 1.0) and len(powers) == 2:
            return True
    return False
