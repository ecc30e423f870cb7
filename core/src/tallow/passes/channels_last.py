"""Channels last: values [N, ..., C] with transposes only at the edges.

A backend computes windows on channels last, between transposes. Then the transposes after them sink through
whatever follows until they meet the next one and cancel. No second type system is needed.
"""

from __future__ import annotations

from collections.abc import Callable

from tallow.builder import Builder
from tallow.graph import Graph, Node, Value, walk
from tallow.ops import OPS
from tallow.passes.layout import to_first, to_last
from tallow.passes.rewrite import rewrite
from tallow.passes.simplify import simplify

ROUNDS = 200


# Sinking: op(transpose(a)) = transpose(op'(a)) ------------------------------------------------------


def sink_transposes(graph: Graph, target: object = None) -> Graph:
    """Transposes back to channels first moved down as far as they go, cancelling where they meet."""
    for _ in range(ROUNDS):
        made = {v: n for n in walk(graph) for v in n.outputs}

        def rule(builder: Builder, node: Node, made=made):
            law = _SINKS.get(node.op) or (_pointwise if OPS[node.op].kind == "pointwise" else None)
            return law(builder, node, made) if law else None

        lowered = simplify(rewrite(graph, rule))
        if lowered is graph:
            break
        graph = lowered
    return graph


def _origin(value: Value, made: dict[Value, Node]) -> Value | None:
    """a, if the value is transpose(a) back to channels first."""
    node = made.get(value)
    if (
        node is None
        or node.op != "transpose"
        or value.rank < 3
        or node["permutation"] != to_first(value.rank)
    ):
        return None
    return node.inputs[0]


def _pointwise(builder: Builder, node: Node, made) -> Value | None:
    rank = node.output.rank
    origins = [_origin(v, made) for v in node.inputs]
    found = [
        o for v, o in zip(node.inputs, origins, strict=True) if o is not None and v.shape == node.output.shape
    ]
    if not found:
        return None
    operands = []
    for value, origin in zip(node.inputs, origins, strict=True):
        if origin is not None:
            operands.append(origin)
        elif value.type.size == 1:
            operands.append(value if value.rank == 0 else builder.reshape(value, shape=()))
        elif made.get(value) is not None and (made[value].op == "constant" or _few(value, node)):
            full = builder.reshape(value, shape=(*(1,) * (rank - value.rank), *value.shape))
            operands.append(builder.transpose(full, permutation=to_last(rank)))
        else:
            return None
    attributes = dict(node.attributes)
    return builder.transpose(builder.emit(node.op, *operands, **attributes), permutation=to_first(rank))


def _few(value: Value, node: Node) -> bool:
    """Whether an operand is one element for each channel (or image), as in squeeze-and-excitation."""
    shape = (1,) * (node.output.rank - value.rank) + value.shape
    return all(d == 1 for d in shape[2:])


def _reduce(builder: Builder, node: Node, made) -> Value | None:
    origin = _origin(node.inputs[0], made)
    if origin is None or 1 in node["axes"] or 0 in node["axes"]:
        return None
    rank = origin.rank
    axes = tuple(a - 1 for a in node["axes"])
    result = builder.reduce(origin, function=node["function"], axes=axes, keepdims=True)
    first = builder.transpose(result, permutation=to_first(rank))
    return first if node["keepdims"] else builder.reshape(first, shape=node.output.shape)


def _place(axis: int, rank: int) -> int:
    """Where an axis of the channels-first value is in the channels-last one."""
    return to_first(rank)[axis]


def _concat(builder: Builder, node: Node, made) -> Value | None:
    origins = [_origin(v, made) for v in node.inputs]
    if any(o is None for o in origins):
        return None
    rank = node.output.rank
    joined = builder.concat(*origins, axis=_place(node["axis"], rank))
    return builder.transpose(joined, permutation=to_first(rank))


def _reordered(parts: tuple, rank: int) -> tuple:
    return tuple(parts[a] for a in to_last(rank))


def _pad(builder: Builder, node: Node, made) -> Value | None:
    origin = _origin(node.inputs[0], made)
    if origin is None:
        return None
    before, after = (_reordered(node[key], origin.rank) for key in ("before", "after"))
    padded = builder.pad(origin, *node.inputs[1:], before=before, after=after, mode=node["mode"])
    return builder.transpose(padded, permutation=to_first(origin.rank))


def _slice(builder: Builder, node: Node, made) -> Value | None:
    origin = _origin(node.inputs[0], made)
    if origin is None:
        return None
    parts = {key: _reordered(node[key], origin.rank) for key in ("starts", "steps", "shape")}
    return builder.transpose(builder.slice(origin, **parts), permutation=to_first(origin.rank))


def _gather(builder: Builder, node: Node, made) -> Value | None:
    origin = _origin(node.inputs[0], made)
    if origin is None or node.inputs[1].rank != 1:
        return None
    picked = builder.gather(origin, node.inputs[1], axis=_place(node["axis"], origin.rank))
    return builder.transpose(picked, permutation=to_first(origin.rank))


_SINKS: dict[str, Callable] = {
    "reduce": _reduce,
    "concat": _concat,
    "pad": _pad,
    "slice": _slice,
    "gather": _gather,
}
