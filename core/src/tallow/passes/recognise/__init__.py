"""Recognition: operators that exporters wrote out become one operator again, a file for each pattern.

A backend with a kernel for the operator uses it; for others it is decomposed into fewer and cheaper
steps than it came in (no division where a product does). Patterns are laws: they hold for any input,
and do not match where a value inside of them has other readers.
"""

from __future__ import annotations

from tallow.builder import Builder
from tallow.graph import Graph, Node
from tallow.passes.clean import remove_dead
from tallow.passes.recognise.attention import attention
from tallow.passes.recognise.gelu import gelu
from tallow.passes.recognise.norm import layer_norm, rms_norm, scale_of_norm, shift_of_norm
from tallow.passes.recognise.rotary import rotary
from tallow.passes.recognise.sigmoid import sigmoid
from tallow.passes.rewrite import rewrite
from tallow.passes.simplify import Facts, Law

PATTERNS: dict[str, tuple[Law, ...]] = {
    "add": (shift_of_norm, rotary),
    "div": (layer_norm, rms_norm, sigmoid),
    "matmul": (attention,),
    "mul": (gelu, layer_norm, rms_norm, scale_of_norm),
    "reciprocal": (sigmoid,),
}
ROUNDS = 4  # a pattern may be part of another: a norm, its scale, its shift


def recognise(graph: Graph) -> Graph:
    """The graph with every pattern replaced; what the patterns were made of dies if nothing else reads it."""
    for _ in range(ROUNDS):
        facts = Facts(graph)

        def rule(builder: Builder, node: Node, facts: Facts = facts):
            for pattern in PATTERNS.get(node.op, ()):
                found = pattern(builder, node, facts)
                if found is not None:
                    return found
            return None

        found = rewrite(graph, rule)
        if found is graph:
            break
        graph = remove_dead(found)
    return graph
