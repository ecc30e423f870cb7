"""Channels last: a convolution becomes transpose, cpu.conv, transpose, and the transposes sink until they cancel."""

from __future__ import annotations

from tallow.backend import Target
from tallow.builder import Builder
from tallow.dim import product
from tallow.graph import Graph, Node, Value, walk
from tallow.passes.layout import is_product, to_first, to_last
from tallow.passes.rewrite import rewrite
from tallow_cpu.passes.algorithms import DIRECT, choose_tile
from tallow_cpu.passes.pack import pack, pack_winograd

FLOATS = ("f32", "f16", "bf16", "f64", "i32")


def convert_windows(graph: Graph, target: Target) -> Graph:
    """Every convolution with constant weights, and every pool, on channels last."""
    constants = {n.output for n in walk(graph) if n.op == "constant"}

    def rule(builder: Builder, node: Node):
        if node.op == "conv" and node.inputs[1] in constants and node.output.dtype.name in FLOATS:
            return _conv(builder, node, target)
        if node.op == "pool" and node.output.dtype.name in FLOATS:
            x = node.inputs[0]
            last = builder.transpose(x, permutation=to_last(x.rank))
            return builder.transpose(
                builder.emit("cpu.pool", last, **node.attributes), permutation=to_first(x.rank)
            )
        return None

    return rewrite(graph, rule)


def _conv(builder: Builder, node: Node, target: Target) -> Value | None:
    x, w = node.inputs
    groups, kernel, rank = node["groups"], w.shape[2:], x.rank
    if not isinstance(x.shape[1], int) or 0 in w.shape:
        return None
    if any(isinstance(p, int) and p < 0 for pair in node["pads"] for p in pair):
        return None
    last = builder.transpose(x, permutation=to_last(rank))
    if groups == x.shape[1] == w.shape[0] and rank == 4:
        taps = builder.transpose(
            builder.reshape(w, shape=(w.shape[0], *kernel)), permutation=(*range(1, rank - 1), 0)
        )
        spec = {key: node[key] for key in ("strides", "pads", "dilations")}
        return builder.transpose(
            builder.emit("cpu.depthwise", last, taps, **spec), permutation=to_first(rank)
        )
    tile = choose_tile(node, target)
    if tile != DIRECT:
        packed = pack_winograd(builder, w, tile, target)
        result = builder.emit("cpu.winograd", last, packed, tile=tile, n=w.shape[0], pads=node["pads"])
        return builder.transpose(result, permutation=to_first(rank))
    each, n = w.shape[1], w.shape[0] // groups
    split = builder.reshape(w, shape=(groups, n, each, *kernel))
    order = (0, *range(3, 3 + len(kernel)), 2, 1)
    matrices = builder.reshape(
        builder.transpose(split, permutation=order), shape=(groups, product(kernel) * each, n)
    )
    packed = pack(builder, matrices, target)
    if is_product(node):
        result = builder.emit("cpu.matmul", last, packed, n=n)
    else:
        spec = {key: node[key] for key in ("strides", "pads", "dilations", "groups")}
        result = builder.emit("cpu.conv", last, packed, kernel=tuple(kernel), n=n, **spec)
    return builder.transpose(result, permutation=to_first(rank))
