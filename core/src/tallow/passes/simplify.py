"""Algebraic simplification: rules that read like the laws they state, applied until none applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tallow.builder import Builder
from tallow.dim import product
from tallow.graph import Graph, Node, Value, walk
from tallow.passes.clean import remove_dead
from tallow.passes.fold import fold_constants
from tallow.passes.rewrite import rewrite

ROUNDS = 10


class Facts:
    """What rules may ask: who made a value, its contents if constant, how often it is read."""

    def __init__(self, graph: Graph):
        self.maker = {v: n for n in walk(graph) for v in n.outputs}
        self.uses: dict[Value, int] = {}
        for node in walk(graph):
            for v in node.inputs:
                self.uses[v] = self.uses.get(v, 0) + 1
        for v in graph.outputs:
            self.uses[v] = self.uses.get(v, 0) + 1

    def made_by(self, value: Value, op: str) -> Node | None:
        node = self.maker.get(value)
        return node if node is not None and node.op == op else None

    def constant(self, value: Value) -> np.ndarray | None:
        node = self.made_by(value, "constant")
        return None if node is None else node["value"]

    def scalar(self, value: Value) -> float | None:
        """The number of a constant of one element."""
        array = self.constant(value)
        if array is None or array.size != 1 or array.dtype == object:
            return None
        return array.reshape(-1)[0].item()

    def filled(self, value: Value) -> float | None:
        """The one number that every element of a constant is."""
        array = self.constant(value)
        if array is None or not array.size or array.dtype == object:
            return None
        first, last = array[(0,) * array.ndim], array[(-1,) * array.ndim]
        return first.item() if first == last and bool((array == first).all()) else None

    def single(self, value: Value) -> bool:
        return self.uses.get(value, 0) == 1


def reshape_of_reshape(b: Builder, node: Node, facts: Facts):
    """reshape(reshape(x)) = reshape(x); reshape to the same shape = x."""
    (x,) = node.inputs
    if x.shape == node.output.shape:
        return x
    inner = facts.made_by(x, "reshape")
    return b.reshape(inner.inputs[0], shape=node["shape"]) if inner else None


def reshape_of_product(b: Builder, node: Node, facts: Facts):
    """reshape(matmul(x, w)) = matmul(reshape(x), w) for a matrix w, when only rows are arranged anew."""
    (y,) = node.inputs
    made = facts.made_by(y, "matmul")
    if made is None or not facts.single(y) or made.inputs[1].rank != 2 or node.output.rank < 2:
        return None
    x, w = made.inputs
    *rows, columns = node.output.shape
    if columns != y.shape[-1] or product(rows) != product(y.shape[:-1]):
        return None
    return b.matmul(b.reshape(x, shape=(*rows, x.shape[-1])), w)


def reshape_of_bias(b: Builder, node: Node, facts: Facts):
    """reshape(matmul(x, w) + c) = reshape(matmul(x, w)) + c for a vector c, when only rows are arranged anew."""
    (y,) = node.inputs
    made = facts.made_by(y, "add")
    if made is None or not facts.single(y) or node.output.shape[-1:] != y.shape[-1:] or not y.rank:
        return None
    for x, c in (made.inputs, reversed(made.inputs)):
        if facts.made_by(x, "matmul") and c.rank == 1 and x.type == y.type:
            return b.add(b.reshape(x, shape=node.output.shape), c)
    return None


def transpose_of_transpose(b: Builder, node: Node, facts: Facts):
    """transpose(transpose(x, p), q) = transpose(x, p[q]); the identity permutation = x;
    moving only axes of size 1 = reshape."""
    (x,) = node.inputs
    order = node["permutation"]
    if order == tuple(range(x.rank)):
        return x
    inner = facts.made_by(x, "transpose")
    if inner:
        return b.transpose(inner.inputs[0], permutation=tuple(inner["permutation"][a] for a in order))
    moved = [a for a in order if x.shape[a] != 1]
    if moved == sorted(moved):
        return b.reshape(x, shape=node.output.shape)
    return None


def cast_of_same(b: Builder, node: Node, facts: Facts):
    """cast to the dtype it has = x."""
    return node.inputs[0] if node.inputs[0].dtype == node["dtype"] else None


def broadcast_of_same(b: Builder, node: Node, facts: Facts):
    """broadcast to the shape it has = x."""
    return node.inputs[0] if node.inputs[0].shape == node.output.shape else None


def slice_of_all(b: Builder, node: Node, facts: Facts):
    """A slice that takes everything = x."""
    (x,) = node.inputs
    whole = x.shape == node.output.shape and all(s == 1 for s in node["steps"])
    return x if whole and all(s == 0 for s in node["starts"]) else None


def concat_of_one(b: Builder, node: Node, facts: Facts):
    """concat(x) = x; operands of size 0 along the axis vanish, unless they alone tell a size."""
    kept = [v for v in node.inputs if v.shape[node["axis"]] != 0]
    if len(node.inputs) == 1:
        return node.inputs[0]
    if kept and len(kept) < len(node.inputs):
        joined = b.concat(*kept, axis=node["axis"]) if len(kept) > 1 else kept[0]
        return joined if joined.type == node.output.type else None
    return None


def neutral(number: float, *, left: bool):
    """x op number = x (and number op x = x when `left`)."""

    def law(b: Builder, node: Node, facts: Facts):
        x, y = node.inputs
        if x.type == node.output.type and facts.filled(y) == number:
            return x
        if left and y.type == node.output.type and facts.filled(x) == number:
            return y
        return None

    law.__doc__ = f"x op {number} = x"
    return law


def divide_by_constant(b: Builder, node: Node, facts: Facts):
    """x / c = x * (1 / c) when 1 / c is exact: c is a power of two."""
    x, y = node.inputs
    number = facts.scalar(y)
    if number is None or not node.output.dtype.is_float or number == 0 or not np.isfinite(number):
        return None
    mantissa, _ = np.frexp(number)
    if abs(mantissa) != 0.5 or not np.isfinite(1 / number) or y.rank > x.rank:
        return None
    return b.mul(x, 1 / number)


def scale_into_conv(b: Builder, node: Node, facts: Facts):
    """conv(x, w) * s = conv(x, w * s) for a constant s per channel (batch normalisation's scale)."""
    for x, s in (node.inputs, reversed(node.inputs)):
        conv = facts.made_by(x, "conv")
        factor = facts.constant(s)
        if conv is None or factor is None or not facts.single(x) or facts.constant(conv.inputs[1]) is None:
            continue
        shape = (1,) * (x.rank - factor.ndim) + factor.shape
        if (
            any(d != 1 for a, d in enumerate(shape) if a != 1)
            or node.output.shape != x.shape
            or not x.dtype.is_float
        ):
            continue
        w = conv.inputs[1]
        lined = b.reshape(s, shape=(shape[1], *(1,) * (w.rank - 1)))
        return b.conv(conv.inputs[0], b.mul(w, lined), **conv.attributes)
    return None


def scale_past_bias(b: Builder, node: Node, facts: Facts):
    """(conv(x, w) + c) * s = conv(x, w) * s + c * s for constants c and s."""
    for x, s in (node.inputs, reversed(node.inputs)):
        add = facts.made_by(x, "add")
        if add is None or facts.constant(s) is None or not facts.single(x) or not x.dtype.is_float:
            continue
        for y, c in (add.inputs, reversed(add.inputs)):
            if (
                facts.made_by(y, "conv")
                and facts.constant(c) is not None
                and facts.single(y)
                and y.type == node.output.type
            ):
                return b.add(b.mul(y, s), b.mul(c, s))
    return None


def join_added_constants(b: Builder, node: Node, facts: Facts):
    """(x + c) + d = x + (c + d) for constants c and d, after a convolution."""
    for x, d in (node.inputs, reversed(node.inputs)):
        inner = facts.made_by(x, "add")
        if inner is None or facts.constant(d) is None or not facts.single(x) or not x.dtype.is_float:
            continue
        for y, c in (inner.inputs, reversed(inner.inputs)):
            if facts.constant(c) is not None and facts.made_by(y, "conv") and y.type == node.output.type:
                return b.add(y, b.add(c, d))
    return None


def pad_into_window(b: Builder, node: Node, facts: Facts):
    """conv(pad(x, 0)) = conv(x) with larger pads."""
    pad = facts.made_by(node.inputs[0], "pad")
    if pad is None or pad["mode"] != "constant" or not facts.single(node.inputs[0]):
        return None
    if len(pad.inputs) > 1 and facts.scalar(pad.inputs[1]) != 0:
        return None
    before, after = pad["before"], pad["after"]
    if any(p != 0 for p in (*before[:2], *after[:2])):
        return None
    pads = tuple(
        (lo + b0, hi + a0) for (lo, hi), b0, a0 in zip(node["pads"], before[2:], after[2:], strict=True)
    )
    return b.conv(pad.inputs[0], node.inputs[1], **{**node.attributes, "pads": pads})


def maximum_by_axes(b: Builder, node: Node, facts: Facts):
    """The maximum of a window is that of its rows' maxima, where axis by axis takes less than half the work."""
    kernel, strides = node["kernel"], node["strides"]
    by_axes = sum(k * product(strides[:axis]) for axis, k in enumerate(kernel))
    if node["function"] != "max" or 2 * by_axes >= product(kernel):
        return None
    (x,) = node.inputs
    for axis in reversed(range(len(kernel))):
        alone = {
            key: tuple(n if i == axis else still for i, n in enumerate(node[key]))
            for key, still in (("kernel", 1), ("strides", 1), ("dilations", 1), ("pads", (0, 0)))
        }
        if _window_moves(alone):
            x = b.pool(x, function="max", **alone)
    return x


def _window_moves(window: Mapping) -> bool:
    """Whether a window is more than each element by itself."""
    return any(n > 1 for n in (*window["kernel"], *window["strides"])) or any(map(any, window["pads"]))


Law = Callable[[Builder, Node, Facts], Value | None]
LAWS: dict[str, tuple[Law, ...]] = {
    "reshape": (reshape_of_reshape, reshape_of_product, reshape_of_bias),
    "transpose": (transpose_of_transpose,),
    "cast": (cast_of_same,),
    "broadcast": (broadcast_of_same,),
    "slice": (slice_of_all,),
    "concat": (concat_of_one,),
    "add": (neutral(0, left=True), join_added_constants),
    "sub": (neutral(0, left=False),),
    "mul": (neutral(1, left=True), scale_into_conv, scale_past_bias),
    "div": (neutral(1, left=False), divide_by_constant),
    "conv": (pad_into_window,),
    "pool": (maximum_by_axes,),
}


def simplify(graph: Graph) -> Graph:
    """The graph after every law that applies, and what follows from it."""
    for _ in range(ROUNDS):
        facts = Facts(graph)

        def rule(builder: Builder, node: Node, facts: Facts = facts):
            for law in LAWS.get(node.op, ()):
                result = law(builder, node, facts)
                if result is not None:
                    return result
            return None

        simpler = rewrite(graph, rule)
        if simpler is graph:
            break
        graph = remove_dead(fold_constants(simpler))  # laws ask for constants and for single readers
    return graph
