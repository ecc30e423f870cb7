"""Rotary position embedding written out with the halves of the features exchanged."""

from __future__ import annotations

import numpy as np

from tallow.builder import Builder
from tallow.graph import Node, Value
from tallow.ops import OPS
from tallow.passes.simplify import Facts


def rotary(b: Builder, node: Node, facts: Facts) -> Value | None:
    """x * cos + concat(-x2, x1) * sin = rotary(x) for the halves x1, x2 of x and tables whose halves are equal."""
    for plain, turned in (node.inputs, reversed(node.inputs)):
        found = _turned(turned, facts)
        product = facts.made_by(plain, "mul")
        if found is None or product is None or not facts.single(plain):
            continue
        x, sine = found
        tables = [v for v in product.inputs if v is not x]
        if x.type != node.output.type or x.rank != 4 or len(tables) != 1 or not x.dtype.is_float:
            continue
        (cosine,) = tables
        if not _fits(cosine, x, facts) or not _fits(sine, x, facts):
            continue
        half = x.shape[3] // 2
        halves = [_part(b, table, half) for table in (cosine, sine)]
        return b.rotary(x, *halves, dims=x.shape[3], interleaved=False)
    return None


def _turned(value: Value, facts: Facts) -> tuple[Value, Value] | None:
    """x and sin of concat(-x2, x1) * sin, read by nothing else on the way."""
    product = facts.made_by(value, "mul")
    if product is None or not facts.single(value):
        return None
    for joined, sine in (product.inputs, reversed(product.inputs)):
        concat = facts.made_by(joined, "concat")
        if concat is None or not facts.single(joined) or len(concat.inputs) != 2:
            continue
        negated, first = facts.made_by(concat.inputs[0], "neg"), facts.made_by(concat.inputs[1], "slice")
        second = None if negated is None else facts.made_by(negated.inputs[0], "slice")
        if first is None or second is None or first.inputs[0] is not second.inputs[0]:
            continue
        x = first.inputs[0]
        if concat["axis"] == x.rank - 1 and _is_half(first, x, 0) and _is_half(second, x, 1):
            return x, sine
    return None


def _is_half(node: Node, x: Value, number: int) -> bool:
    """Whether a slice is the first or the second half of the last axis."""
    size = x.shape[-1]
    if not isinstance(size, int) or size % 2 or any(step != 1 for step in node["steps"]):
        return False
    starts = (*(0,) * (x.rank - 1), number * size // 2)
    return node["starts"] == starts and node.output.shape == (*x.shape[:-1], size // 2)


def _part(b: Builder, table: Value, half: int) -> Value:
    """The first half of a table, with one entry for each image, head and token that it has."""
    table = b.reshape(table, shape=(*(1,) * (4 - table.rank), *table.shape)) if table.rank < 4 else table
    return b.slice(table, starts=(0,) * 4, steps=(1,) * 4, shape=(*table.shape[:3], half))


def _fits(table: Value, x: Value, facts: Facts) -> bool:
    return 0 < table.rank <= 4 and table.shape[-1] == x.shape[3] and _repeats(table, facts)


def _repeats(value: Value, facts: Facts) -> bool:
    """Whether both halves of the last axis provably hold the same."""
    node = facts.maker.get(value)
    if node is None or not value.rank:
        return False
    match node.op:
        case "constant":
            first, second = np.split(node["value"], 2, axis=-1)
            return np.array_equal(first, second)
        case "concat":
            one, *others = node.inputs
            return node["axis"] == value.rank - 1 and len(others) == 1 and one is others[0]
        case "reshape" | "broadcast":
            return node.inputs[0].shape[-1:] == value.shape[-1:] and _repeats(node.inputs[0], facts)
        case "gather":
            along = node["axis"] < node.inputs[0].rank - 1
            return along and _repeats(node.inputs[0], facts)
    if OPS[node.op].kind != "pointwise":
        return False
    return all(
        v.type.size == 1 or (v.shape[-1:] == value.shape[-1:] and _repeats(v, facts)) for v in node.inputs
    )
