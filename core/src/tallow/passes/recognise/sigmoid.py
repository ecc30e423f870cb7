"""The logistic function written out, alone or as silu."""

from __future__ import annotations

from tallow.builder import Builder
from tallow.graph import Node, Value
from tallow.passes.recognise.match import near, with_constant
from tallow.passes.simplify import Facts


def sigmoid(b: Builder, node: Node, facts: Facts) -> Value | None:
    """1 / (1 + exp(-x)) = sigmoid(x); y / (1 + exp(-x)) = y * sigmoid(x)."""
    top, bottom = node.inputs if node.op == "div" else (None, node.inputs[0])
    shifted = with_constant(facts.made_by(bottom, "add"), facts)
    if shifted is None or not near(shifted[1], 1.0) or not node.output.dtype.is_float:
        return None
    power = facts.made_by(shifted[0], "exp")
    negated = None if power is None else facts.made_by(power.inputs[0], "neg")
    if negated is None or bottom.type != node.output.type or not facts.single(bottom):
        return None
    logistic = b.sigmoid(negated.inputs[0])
    return logistic if top is None or facts.scalar(top) == 1 else b.mul(top, logistic)
