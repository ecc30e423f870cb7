"""Normalisations written out, and the scale and shift that follow them."""

from __future__ import annotations

from tallow.builder import Builder
from tallow.graph import Node, Value
from tallow.passes.recognise.match import divided, mean_of, mean_square
from tallow.passes.simplify import Facts


def layer_norm(b: Builder, node: Node, facts: Facts) -> Value | None:
    """d / sqrt(mean(d * d) + e) with d = x - mean(x), over the last axis, = layer_norm(x)."""
    found = divided(node, facts)
    square = None if found is None else mean_square(found[1], facts)
    if square is None or square[0] is not found[0] or not node.output.dtype.is_float:
        return None
    centred = facts.made_by(found[0], "sub")
    if centred is None:
        return None
    x, mean = centred.inputs
    if mean_of(mean, facts) is not x or node.output.type != x.type:
        return None
    return b.layer_norm(x, axis=x.rank - 1, epsilon=square[1])


def rms_norm(b: Builder, node: Node, facts: Facts) -> Value | None:
    """x / sqrt(mean(x * x) + e), over the last axis, = rms_norm(x)."""
    found = divided(node, facts)
    square = None if found is None else mean_square(found[1], facts)
    if square is None or square[0] is not found[0] or not node.output.dtype.is_float:
        return None
    x, epsilon = square
    return b.rms_norm(x, axis=x.rank - 1, epsilon=epsilon) if node.output.type == x.type else None


def scale_of_norm(b: Builder, node: Node, facts: Facts) -> Value | None:
    """layer_norm(x) * w = layer_norm(x, w) and rms_norm(x) * w = rms_norm(x, w) for a vector w."""
    for value, w in (node.inputs, reversed(node.inputs)):
        norm = facts.made_by(value, "layer_norm") or facts.made_by(value, "rms_norm")
        if norm is not None and len(norm.inputs) == 1 and _fits(value, w, node, facts):
            return b.emit(norm.op, norm.inputs[0], w, **norm.attributes)
    return None


def shift_of_norm(b: Builder, node: Node, facts: Facts) -> Value | None:
    """layer_norm(x, w) + c = layer_norm(x, w, c) for a vector c."""
    for value, c in (node.inputs, reversed(node.inputs)):
        norm = facts.made_by(value, "layer_norm")
        if norm is not None and len(norm.inputs) == 2 and _fits(value, c, node, facts):
            return b.layer_norm(*norm.inputs, c, **norm.attributes)
    return None


def _fits(value: Value, vector: Value, node: Node, facts: Facts) -> bool:
    """Whether a vector runs along the last axis of a value that nothing else reads."""
    along = vector.rank == 1 and vector.shape[0] == value.shape[-1]
    return along and facts.single(value) and node.output.type == value.type
