"""Recognition: activations and normalisations that exporters wrote out become one operator again.

A backend with a kernel for the operator uses it; for others it is decomposed into fewer and cheaper
steps than it came in (no division where a product does).
"""

from __future__ import annotations

import math

from tallow.builder import Builder
from tallow.graph import Graph, Node, Value
from tallow.passes.rewrite import rewrite
from tallow.passes.simplify import Facts

CLOSE = 1e-6  # relative; constants in files are rounded to f32


def _near(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=CLOSE)


def _with_constant(node: Node | None, facts: Facts) -> tuple[Value, float] | None:
    """The other operand and the number of a binary node with a scalar constant."""
    if node is None or len(node.inputs) != 2:
        return None
    for x, c in (node.inputs, reversed(node.inputs)):
        number = facts.scalar(c)
        if number is not None:
            return x, number
    return None


def _factors(value: Value, facts: Facts, top: bool = True) -> list[Value]:
    """The operands of a product of products that nothing else reads."""
    node = facts.made_by(value, "mul")
    if node is None or not (top or facts.single(value)):
        return [value]
    return [f for v in node.inputs for f in _factors(v, facts, False)]


def _erf_argument(value: Value, facts: Facts) -> Value | None:
    """x of erf(x / sqrt(2)) + 1."""
    shifted = _with_constant(facts.made_by(value, "add"), facts)
    if shifted is None or not _near(shifted[1], 1.0):
        return None
    erf = facts.made_by(shifted[0], "erf")
    if erf is None:
        return None
    divided = facts.made_by(erf.inputs[0], "div")
    if divided is not None and _near(facts.scalar(divided.inputs[1]), math.sqrt(2)):
        return divided.inputs[0]
    scaled = _with_constant(facts.made_by(erf.inputs[0], "mul"), facts)
    return scaled[0] if scaled is not None and _near(scaled[1], math.sqrt(0.5)) else None


def gelu(b: Builder, node: Node, facts: Facts) -> Value | None:
    """x * 0.5 * (erf(x / sqrt(2)) + 1) = gelu(x), in any order of the factors."""
    factors = _factors(node.output, facts)
    if len(factors) != 3 or not node.output.dtype.is_float:
        return None
    for last in factors:
        x = _erf_argument(last, facts)
        others = [f for f in factors if f is not last]
        halves = [f for f in others if _near(facts.scalar(f), 0.5)]
        if x is not None and x in others and len(halves) == 1 and x.type == node.output.type:
            return b.gelu(x, approximate="none")
    return None


def _mean_of(value: Value, facts: Facts) -> Value | None:
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
    return x if _near(facts.scalar(node.inputs[1]), wanted) else None


def layer_norm(b: Builder, node: Node, facts: Facts) -> Value | None:
    """d / sqrt(mean(d * d) + e) with d = x - mean(x), over the last axis, = layer_norm(x)."""
    d, root = node.inputs
    centred, spread = facts.made_by(d, "sub"), facts.made_by(root, "sqrt")
    if centred is None or spread is None:
        return None
    x, mean = centred.inputs
    shifted = _with_constant(facts.made_by(spread.inputs[0], "add"), facts)
    if shifted is None or _mean_of(mean, facts) is not x or node.output.type != x.type:
        return None
    squares = _mean_of(shifted[0], facts)
    product = None if squares is None else facts.made_by(squares, "mul")
    if product is None or any(v is not d for v in product.inputs):
        return None
    return b.layer_norm(x, axis=x.rank - 1, epsilon=shifted[1])


PATTERNS = {"mul": gelu, "div": layer_norm}


def recognise(graph: Graph) -> Graph:
    """The graph with every pattern replaced; what the patterns were made of dies if nothing else reads it."""
    facts = Facts(graph)

    def rule(builder: Builder, node: Node):
        pattern = PATTERNS.get(node.op)
        return pattern(builder, node, facts) if pattern else None

    return rewrite(graph, rule)
