"""Projections of one value for attention as one product: it reads the value once, and heads are views of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tallow.backend import Target
from tallow.builder import Builder
from tallow.graph import Graph, Node, TensorType, Value, consumers, walk
from tallow.passes.rewrite import rewrite
from tallow_cpu.passes.views import view_of


@dataclass(frozen=True, slots=True)
class _Linear:
    """x w + c as `value`, with constants w, a matrix, and c, a vector (or none)."""

    value: Value
    x: Value
    w: np.ndarray
    c: np.ndarray | None


@dataclass(slots=True, eq=False)
class _Together:
    """Projections of one value; `columns` is where each starts in the product of all."""

    parts: list[_Linear]
    merged: Value | None = None

    def columns(self, value: Value) -> int:
        names = [part.value for part in self.parts]
        return sum(part.w.shape[1] for part in self.parts[: names.index(value)])

    @property
    def width(self) -> int:
        return sum(part.w.shape[1] for part in self.parts)


def merge_projections(graph: Graph, target: Target) -> Graph:
    """slice(x [w1 w2 w3] + [c1 c2 c3]) for each x wi + ci that one attention reads through views."""
    made = {v: n for n in walk(graph) for v in n.outputs}
    readers = consumers(graph)
    plan: dict[Value, _Together] = {}
    for node in graph.nodes:
        if node.op == "attention":
            for together in _candidates(node, made, readers, graph):
                plan.update((part.value, together) for part in together.parts)

    def rule(builder: Builder, node: Node):
        together = plan.get(node.outputs[0]) if node.outputs else None
        if together is None:
            return None
        if together.merged is None:
            together.merged = _product(builder, together)
        starts = (*(0,) * (node.output.rank - 1), together.columns(node.output))
        steps = (1,) * node.output.rank
        return builder.slice(together.merged, starts=starts, steps=steps, shape=node.output.shape)

    return rewrite(graph, rule)


def _product(builder: Builder, together: _Together) -> Value:
    parts = together.parts
    w = builder.constant(np.concatenate([part.w for part in parts], axis=1))
    y = builder.matmul(parts[0].x, w)
    if all(part.c is None for part in parts):
        return y
    vectors = [np.zeros(p.w.shape[1], p.w.dtype) if p.c is None else p.c for p in parts]
    return builder.add(y, builder.constant(np.concatenate(vectors)))


def _candidates(node: Node, made, readers, graph: Graph) -> list[_Together]:
    """Sets of at least two projections of one value among the operands of an attention."""
    found: dict[Value, list[_Linear]] = {}
    for operand in node.inputs[:3]:
        base = view_of(operand, made).base
        linear = _linear(base, made)
        lonely = base not in graph.outputs and len(readers.get(base, ())) == 1
        if linear is not None and lonely and all(p.value is not base for p in found.get(linear.x, ())):
            found.setdefault(linear.x, []).append(linear)
    sets = [_Together(parts) for parts in found.values() if len(parts) > 1]
    return [t for t in sets if len({p.w.dtype for p in t.parts}) == 1 and _stay_views(node, t, made)]


def _linear(value: Value, made: Mapping[Value, Node]) -> _Linear | None:
    node = made.get(value)
    c = None
    if node is not None and node.op == "add":
        for y, vector in (node.inputs, reversed(node.inputs)):
            constant = _constant(vector, made)
            if constant is not None and constant.shape == (value.shape[-1],) and y.type == value.type:
                node, c = made.get(y), constant
                break
    if node is None or node.op != "matmul":
        return None
    w = _constant(node.inputs[1], made)
    return _Linear(value, node.inputs[0], w, c) if w is not None and w.ndim == 2 else None


def _constant(value: Value, made: Mapping[Value, Node]) -> np.ndarray | None:
    node = made.get(value)
    return node["value"] if node is not None and node.op == "constant" else None


def _stay_views(node: Node, together: _Together, made: Mapping[Value, Node]) -> bool:
    """Whether the operands are still views when their projections are slices of one product."""
    like = together.parts[0].value
    merged = Value("merged", TensorType(like.dtype, (*like.shape[:-1], together.width)))
    slices = dict(made)
    for part in together.parts:
        starts = (*(0,) * (part.value.rank - 1), together.columns(part.value))
        steps = (1,) * part.value.rank
        attributes = {"starts": starts, "steps": steps, "shape": part.value.shape}
        slices[part.value] = Node("slice", (merged,), (part.value,), attributes)
    bases = [view_of(operand, made).base for operand in node.inputs[:3]]
    values = [part.value for part in together.parts]
    return all(
        view_of(operand, slices).base is merged
        for operand, base in zip(node.inputs[:3], bases, strict=True)
        if base in values
    )
