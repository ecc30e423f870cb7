"""Words that patterns are written in: numbers, scaled values, products of factors, means."""

from __future__ import annotations

import math

from tallow.graph import Node, Value
from tallow.passes.simplify import Facts

CLOSE = 1e-6  # relative; constants in files are rounded to f32


def near(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=CLOSE)


def with_constant(node: Node | None, facts: Facts) -> tuple[Value, float] | None:
    """The other operand and the number of a binary node with a scalar constant."""
    if node is None or len(node.inputs) != 2:
        return None
    for x, c in (node.inputs, reversed(node.inputs)):
        number = facts.scalar(c)
        if number is not None:
            return x, number
    return None


def one_scale(value: Value, facts: Facts) -> tuple[Value, float] | None:
    """x and c of x * c for a scalar constant c; a division by one is such a product."""
    quotient = facts.made_by(value, "div")
    number = None if quotient is None else facts.scalar(quotient.inputs[1])
    found = (quotient.inputs[0], 1 / number) if number else with_constant(facts.made_by(value, "mul"), facts)
    return found if found is not None and found[0].type == value.type else None


def scaled(value: Value, facts: Facts) -> tuple[Value, float]:
    """x and c of x * c, through any number of scales."""
    factor = 1.0
    while (found := one_scale(value, facts)) is not None:
        value, factor = found[0], factor * found[1]
    return value, factor


def factors(value: Value, facts: Facts, top: bool = True) -> list[Value]:
    """The operands of a product of products that nothing else reads."""
    node = facts.made_by(value, "mul")
    if node is None or not (top or facts.single(value)):
        return [value]
    return [f for v in node.inputs for f in factors(v, facts, False)]


def split_factors(value: Value, facts: Facts) -> tuple[float, list[Value]]:
    """The product of the scalar constants among the factors of a value, and the other factors."""
    number, others = 1.0, []
    for factor in factors(value, facts):
        constant = facts.scalar(factor)
        if constant is None:
            others.append(factor)
        else:
            number *= constant
    return number, others


def mean_of(value: Value, facts: Facts) -> Value | None:
    """x of the mean of x over its last axis, kept with size 1."""
    node = facts.made_by(value, "div") or facts.made_by(value, "mul")
    total = None if node is None else facts.made_by(node.inputs[0], "reduce")
    if total is None or total["function"] != "add" or not total["keepdims"]:
        return None
    x = total.inputs[0]
    count = x.shape[-1]
    if total["axes"] != (x.rank - 1,) or not isinstance(count, int) or count == 0:
        return None
    wanted = count if node.op == "div" else 1 / count
    return x if near(facts.scalar(node.inputs[1]), wanted) else None


def divided(node: Node, facts: Facts) -> tuple[Value, Value] | None:
    """x and s of x / sqrt(s), however it is written."""
    if node.op == "div":
        root = facts.made_by(node.inputs[1], "sqrt")
        return None if root is None else (node.inputs[0], root.inputs[0])
    for x, inverse in (node.inputs, reversed(node.inputs)):
        made = facts.made_by(inverse, "rsqrt")
        if made is not None:
            return x, made.inputs[0]
        flipped = facts.made_by(inverse, "reciprocal") or facts.made_by(inverse, "div")
        if flipped is None or (flipped.op == "div" and facts.scalar(flipped.inputs[0]) != 1):
            continue
        root = facts.made_by(flipped.inputs[-1], "sqrt")
        if root is not None:
            return x, root.inputs[0]
    return None


def mean_square(value: Value, facts: Facts) -> tuple[Value, float] | None:
    """x and e of mean(x * x) + e over the last axis."""
    shifted = with_constant(facts.made_by(value, "add"), facts)
    squares = None if shifted is None else mean_of(shifted[0], facts)
    product = None if squares is None else facts.made_by(squares, "mul")
    if product is None or product.inputs[0] is not product.inputs[1]:
        return None
    return product.inputs[0], shifted[1]
