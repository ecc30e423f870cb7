"""Constant folding: nodes whose operands are constants become constants."""

from __future__ import annotations

import numpy as np

from tallow.builder import Builder
from tallow.dim import Expr
from tallow.errors import TallowError
from tallow.graph import Graph, Node, Value, walk
from tallow.ops import OPS
from tallow.passes.rewrite import rewrite

GROWTH = 1 << 16  # elements that a fold may make beyond four times what its operands hold
_NEVER = {"constant", "if", "loop", "random_uniform", "random_normal", "bernoulli", "multinomial"}


def fold_constants(graph: Graph) -> Graph:
    """The graph with everything computed that needs no input. Broadcasts of little into much are kept,
    and an operator that fails on its constants is left to fail where the user can see it."""
    known: dict[Value, np.ndarray] = {n.output: n["value"] for n in walk(graph) if n.op == "constant"}

    def rule(builder: Builder, node: Node):
        if node.op in _NEVER or node.regions or node.defines or not node.outputs:
            return None
        if any(v not in known for v in node.inputs) or any(_symbolic(a) for a in node.attributes.values()):
            return None
        if not all(getattr(v.type, "is_static", False) for v in node.outputs):
            return None
        have = sum(known[v].size for v in node.inputs)
        if sum(v.type.size for v in node.outputs) > 4 * have + GROWTH:
            return None
        try:
            results = OPS[node.op].evaluate([known[v] for v in node.inputs], node.attributes)
        except (TallowError, ValueError, IndexError, ArithmeticError):
            return None
        values = []
        for old, array in zip(node.outputs, results, strict=True):
            array = np.asarray(array).reshape(old.shape)  # a view stays one: only what is kept is copied
            value = builder.constant(array, old.name)
            known[value] = array
            values.append(value)
        return values

    return rewrite(graph, rule)


def _symbolic(attribute) -> bool:
    if isinstance(attribute, tuple):
        return any(map(_symbolic, attribute))
    return isinstance(attribute, Expr)
