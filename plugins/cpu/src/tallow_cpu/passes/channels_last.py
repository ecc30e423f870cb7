"""Channels last: convolutions and pools compute on [N, ..., C], with transposes only at the edges.

A convolution becomes transpose, cpu.conv, transpose. Then the transposes after it sink through
whatever follows until they meet the next one and cancel. No second type system is needed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tallow.backend import Target
from tallow.builder import Builder
from tallow.graph import Graph, Node, Value, walk
from tallow.ops import OPS
from tallow.passes.rewrite import resolve, rewrite
from tallow.passes.simplify import simplify
from tallow_cpu.passes.algorithms import DIRECT, choose_tile
from tallow_cpu.passes.layout import is_product, to_first, to_last
from tallow_cpu.passes.pack import choose_width, pack, pack_winograd
from tallow_cpu.passes.shuffles import shuffle_of
from tallow_cpu.shuffle import to_runs

FLOATS = ("f32", "f16", "bf16", "f64", "i32")
ROUNDS = 200


def convert_windows(graph: Graph, target: Target) -> Graph:
    """Every convolution with constant weights, and every pool, on channels last."""
    made = {v: n for n in walk(graph) for v in n.outputs}

    def rule(builder: Builder, node: Node):
        if node.op == "conv" and node.output.dtype.name in FLOATS:
            weights = made.get(node.inputs[1])
            found = shuffle_of(node.inputs[0], made)
            if weights is None or weights.op != "constant":
                return None
            if found is not None and node["groups"] > 1:
                x = resolve(found[0], builder.replaced)
                return _conv(builder, node, target, x, weights["value"], found[1])
            return _conv(builder, node, target, node.inputs[0], weights["value"], 1)
        if node.op == "pool" and node.output.dtype.name in FLOATS:
            x = node.inputs[0]
            last = builder.transpose(x, permutation=to_last(x.rank))
            return builder.transpose(
                builder.emit("cpu.pool", last, **node.attributes), permutation=to_first(x.rank)
            )
        return None

    return rewrite(graph, rule)


def _conv(
    builder: Builder, node: Node, target: Target, x: Value, weights: np.ndarray, count: int
) -> Value | None:
    """A convolution of shuffle(x, count)."""
    w = node.inputs[1]
    groups, kernel, rank = node["groups"], w.shape[2:], x.rank
    if not isinstance(x.shape[1], int) or 0 in w.shape:
        return None
    if any(isinstance(p, int) and p < 0 for pair in node["pads"] for p in pair):
        return None
    last = builder.transpose(x, permutation=to_last(rank))
    if groups == x.shape[1] == w.shape[0] and rank == 4 and count == 1:
        taps = builder.transpose(
            builder.reshape(w, shape=(w.shape[0], *kernel)), permutation=(*range(1, rank - 1), 0)
        )
        spec = {key: node[key] for key in ("strides", "pads", "dilations")}
        return builder.transpose(
            builder.emit("cpu.depthwise", last, taps, **spec), permutation=to_first(rank)
        )
    tile = choose_tile(node, target)
    if tile != DIRECT:
        stride = node["strides"][0]
        packed = pack_winograd(builder, w, tile, stride, node, target)
        spec = {"tile": tile, "stride": stride, "n": w.shape[0], "pads": node["pads"]}
        result = builder.emit("cpu.winograd", last, packed, **spec)
        return builder.transpose(result, permutation=to_first(rank))
    each, n = w.shape[1], w.shape[0] // groups
    matrices = to_runs(weights.reshape(groups, n, each, -1), count)
    packed = pack(builder, builder.constant(matrices), choose_width(n, node, target))
    if is_product(node):
        result = builder.emit("cpu.matmul", last, packed, n=n)
    else:
        spec = {key: node[key] for key in ("strides", "pads", "dilations", "groups")}
        result = builder.emit("cpu.conv", last, packed, kernel=tuple(kernel), n=n, shuffle=count, **spec)
    return builder.transpose(result, permutation=to_first(rank))


# Sinking: op(transpose(a)) = transpose(op'(a)) ------------------------------------------------------


def sink_transposes(graph: Graph, target: Target) -> Graph:
    """Transposes back to channels first moved down as far as they go, cancelling where they meet."""
    for _ in range(ROUNDS):
        made = {v: n for n in walk(graph) for v in n.outputs}

        def rule(builder: Builder, node: Node, made=made):
            law = _SINKS.get(node.op) or (_pointwise if OPS[node.op].kind == "pointwise" else None)
            return law(builder, node, made) if law else None

        lowered = simplify(rewrite(graph, rule, made))
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
