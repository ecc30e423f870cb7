"""Recognition of products of 8-bit codes: what was dequantised only to be multiplied is multiplied in integers.

With a = (codes - zero) * scale for both operands, a product of real numbers is the exact integer product of
what remains without the scales, times both scales. Runs before constants are folded, while codes are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tallow.builder import Builder
from tallow.dim import product
from tallow.dtype import f32, i8, i32, u8
from tallow.graph import Graph, Node, Value
from tallow.passes.clean import remove_dead
from tallow.passes.rewrite import rewrite
from tallow.passes.simplify import Facts

DEEPEST = (1 << 31) // (255 * 255)  # products that a 32-bit sum surely holds


@dataclass(frozen=True, slots=True)
class Coded:
    """A real value (codes - zero) * scale; zero, of the codes' dtype, may be missing."""

    codes: Value
    zero: Value | None
    scale: Value


def recognise_codes(graph: Graph) -> Graph:
    """matmul and conv of dequantised 8-bit values, the right one constant, as integer products."""
    facts = Facts(graph)

    def rule(builder: Builder, node: Node):
        if node.op not in ("matmul", "conv") or node.output.dtype != f32:
            return None
        x, w = (coded(v, facts) for v in node.inputs)
        if x is None or w is None or facts.constant(w.codes) is None:
            return None
        if x.scale.type.size != 1 or (x.zero is not None and x.zero.type.size != 1):
            return None
        shape = w.codes.shape
        depth = shape[-2] if node.op == "matmul" else product(shape[1:])
        columns = _columns(builder, w.scale, node.op, len(shape))
        if columns is None or depth > DEEPEST:
            return None
        operands = (_centred(builder, each) for each in (x, w))
        total = builder.emit(node.op, *operands, **node.attributes)
        scale = builder.mul(builder.reshape(x.scale, shape=()), columns)
        return builder.mul(builder.cast(total, dtype=f32), scale)

    found = rewrite(graph, rule)
    return graph if found is graph else remove_dead(found)


def coded(value: Value, facts: Facts) -> Coded | None:
    """The codes of a dequantised value."""
    while (cast := facts.made_by(value, "cast")) is not None and cast.inputs[0].dtype == value.dtype:
        value = cast.inputs[0]
    scaled = facts.made_by(value, "mul")
    whole = None if scaled is None else facts.made_by(scaled.inputs[0], "cast")
    if whole is None or value.dtype != f32:
        return None
    inner, scale = whole.inputs[0], scaled.inputs[1]
    if inner.dtype in (u8, i8):
        return Coded(inner, None, scale)
    less = facts.made_by(inner, "sub")
    wide = (
        [facts.made_by(v, "cast") for v in less.inputs] if less is not None and inner.dtype == i32 else [None]
    )
    if None in wide or any(cast.inputs[0].dtype not in (u8, i8) for cast in wide):
        return None
    codes, zero = (cast.inputs[0] for cast in wide)
    return Coded(codes, zero, scale) if codes.shape == value.shape else None


def _columns(builder: Builder, scale: Value, op: str, rank: int) -> Value | None:
    """The scale of the weights as it meets the result: one, or one for each of its columns."""
    if scale.type.size == 1:
        return builder.reshape(scale, shape=())
    axis = rank - 1 if op == "matmul" else 0
    if scale.rank != rank or any(d != 1 for a, d in enumerate(scale.shape) if a != axis):
        return None
    count = scale.shape[axis]
    return builder.reshape(scale, shape=(count,) if op == "matmul" else (count, *(1,) * (rank - 2)))


def _centred(builder: Builder, value: Coded) -> Value:
    wide = builder.cast(value.codes, dtype=i32)
    return wide if value.zero is None else builder.sub(wide, builder.cast(value.zero, dtype=i32))
