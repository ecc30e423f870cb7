"""Channels last: a convolution becomes transpose, cpu.conv, transpose, and the transposes sink until they cancel."""

from __future__ import annotations

import numpy as np

from tallow.backend import Target
from tallow.builder import Builder
from tallow.dim import product
from tallow.graph import Graph, Node, Value, walk
from tallow.passes.layout import is_product, to_first, to_last
from tallow.passes.rewrite import resolve, rewrite
from tallow_cpu.lowerings.grouped import block_of
from tallow_cpu.lowerings.tile import dot_widths
from tallow_cpu.passes.algorithms import DIRECT, choose_tile
from tallow_cpu.passes.pack import choose_width, pack, pack_winograd
from tallow_cpu.passes.shuffles import shuffle_of
from tallow_cpu.shuffle import to_runs

SUMMED = ("f32", "f16", "bf16", "f64", "i32")
POOLED = (*SUMMED, "i8", "u8", "i16", "u16", "u32", "i64", "u64")


def convert_windows(graph: Graph, target: Target) -> Graph:
    """Every convolution with weights of known sizes, and every pool, on channels last."""
    made = {v: n for n in walk(graph) for v in n.outputs}

    def rule(builder: Builder, node: Node):
        if node.op == "conv" and node.output.dtype.name in SUMMED:
            source = made.get(node.inputs[1])
            weights = source["value"] if source is not None and source.op == "constant" else None
            found = shuffle_of(node.inputs[0], made)
            if found is not None and node["groups"] > 1 and weights is not None:
                x = resolve(found[0], builder.replaced)
                return _conv(builder, node, target, x, weights, found[1])
            return _conv(builder, node, target, node.inputs[0], weights, 1)
        if node.op == "pool" and node.output.dtype.name in POOLED:
            x = node.inputs[0]
            last = builder.transpose(x, permutation=to_last(x.rank))
            return builder.transpose(
                builder.emit("cpu.pool", last, **node.attributes), permutation=to_first(x.rank)
            )
        return None

    return rewrite(graph, rule)


def _conv(
    builder: Builder, node: Node, target: Target, x: Value, weights: np.ndarray | None, count: int
) -> Value | None:
    """A convolution of shuffle(x, count); weights that are not constant are packed at each run."""
    w = node.inputs[1]
    groups, kernel, rank = node["groups"], w.shape[2:], x.rank
    if not all(isinstance(d, int) and d for d in w.shape) or not isinstance(x.shape[1], int):
        return None
    if any(isinstance(p, int) and p < 0 for pair in node["pads"] for p in pair):
        return None
    last = builder.transpose(x, permutation=to_last(rank))
    if 1 < groups == x.shape[1] == w.shape[0] and count == 1:
        taps = builder.transpose(
            builder.reshape(w, shape=(w.shape[0], *kernel)), permutation=(*range(1, rank - 1), 0)
        )
        spec = {key: node[key] for key in ("strides", "pads", "dilations")}
        return builder.transpose(
            builder.emit("cpu.depthwise", last, taps, **spec), permutation=to_first(rank)
        )
    each, n = w.shape[1], w.shape[0] // groups
    if groups > 1 and count == 1 and block_of(w.shape[0], groups, each, kernel[-1], w.dtype, target):
        taps = builder.transpose(w, permutation=(*range(2, rank), 1, 0))
        spec = {key: node[key] for key in ("strides", "pads", "dilations")}
        return builder.transpose(builder.emit("cpu.grouped", last, taps, **spec), permutation=to_first(rank))
    tile = DIRECT if weights is None else choose_tile(node, target)
    if tile != DIRECT:
        stride = node["strides"][0]
        packed = pack_winograd(builder, w, tile, stride, node, target)
        spec = {"tile": tile, "stride": stride, "n": w.shape[0], "pads": node["pads"]}
        spec["dilations"] = node["dilations"]
        result = builder.emit("cpu.winograd", last, packed, **spec)
        return builder.transpose(result, permutation=to_first(rank))
    if weights is None:
        matrices = _matrices(builder, w, groups)
    else:
        matrices = builder.constant(to_runs(weights.reshape(groups, n, each, -1), count))
    dots = []
    if count == 1:
        line = kernel[-1] if groups == 1 and node["dilations"][-1] == 1 else 1
        dots = dot_widths(n, product(kernel) // line, line * each, target)
    packed = pack(builder, matrices, choose_width(n, node, target, others=dots))
    if is_product(node):
        result = builder.emit("cpu.matmul", last, packed, n=n)
    else:
        spec = {key: node[key] for key in ("strides", "pads", "dilations", "groups")}
        result = builder.emit("cpu.conv", last, packed, kernel=tuple(kernel), n=n, shuffle=count, **spec)
    return builder.transpose(result, permutation=to_first(rank))


def _matrices(builder: Builder, w: Value, groups: int) -> Value:
    """Weights [M, C, *kernel] as [groups, taps * C, M / groups]."""
    n, each, taps = w.shape[0] // groups, w.shape[1], product(w.shape[2:])
    split = builder.reshape(w, shape=(groups, n, each, taps))
    return builder.reshape(builder.transpose(split, permutation=(0, 3, 2, 1)), shape=(groups, taps * each, n))
