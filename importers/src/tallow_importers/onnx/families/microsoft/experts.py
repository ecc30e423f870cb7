"""Mixtures of experts of the com.microsoft domain: each expert sees the tokens that were routed to it, no others."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tallow.dim import product
from tallow.dtype import bool_, f32, i32, i64, u8
from tallow.graph import Value
from tallow_importers.onnx.axes import read_shape
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.microsoft.attention import part
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.families.microsoft.gates import halves, swiglu, widened
from tallow_importers.onnx.families.microsoft.quantization import unpacked
from tallow_importers.onnx.registry import onnx_op

Expert = Callable[[int, Value], Value]


@onnx_op("MoE", domain=MS)
def mixture_of_experts(context: Context, node: NodeView) -> Value:
    b, x, router = context.builder, node.input(0), node.input(1)
    weights = [node.input(i) for i in (2, 4, 6)]
    biases = [node.input(i) for i in (3, 5, 7)]

    def layer(number: int, expert: int, rows: Value) -> Value:
        w = _entry(context, weights[number], expert)
        y = b.matmul(rows, b.transpose(w, permutation=(1, 0)))
        return y if biases[number] is None else b.add(y, _entry(context, biases[number], expert))

    return _mixed(context, node, x, router, None, layer, weights[2] is not None)


def _mixed(
    context: Context, node: NodeView, x: Value, router: Value, mixing: Value | None, layer, third: bool
):
    """Tokens [tokens, width] or [batch, steps, width] through experts of two layers, or three."""
    b, gated = context.builder, _activation(context, node, third)

    def expert(number: int, rows: Value) -> Value:
        up = layer(2, number, rows) if third else None
        return layer(1, number, gated(layer(0, number, rows), up))

    count = router.shape[1]
    if not isinstance(count, int):
        context.unsupported("a number of experts that is not known while importing")
    rows = b.reshape(x, shape=(product(x.shape[:-1]), x.shape[-1]))
    chosen, shares = _chosen(context, node, router, mixing)
    return b.reshape(_routed(context, rows, chosen, shares, count, expert), shape=x.shape)


def _chosen(context: Context, node: NodeView, router: Value, mixing: Value | None) -> tuple[Value, Value]:
    """The experts of each token, i64 [tokens, k], and what each adds to the sum, f32 [tokens, k]."""
    b, k = context.builder, node.attribute("k", 1)
    if node.attribute("use_sparse_mixer", 0):
        if k != 2:
            context.unsupported(f"use_sparse_mixer with k={k}: 2")
        shares, chosen = _sparsely_mixed(context, widened(context, router))
    else:
        scores = b.softmax(widened(context, router), axis=1)
        shares, chosen = b.topk(scores, k=k, axis=1, largest=True, sorted=True)
    if mixing is not None:
        shares = b.gather_elements(widened(context, mixing), chosen, axis=1)
    if node.attribute("normalize_routing_weights", 0):
        shares = b.div(shares, b.reduce(shares, function="add", axes=(1,), keepdims=True))
    return chosen, shares


_JITTER = 0.01


def _sparsely_mixed(context: Context, scores: Value) -> tuple[Value, Value]:
    """The shares and numbers of two experts, one after the other, each among those with scores near its own
    (Liu et al., 2023: SparseMixer). onnxruntime's CPU provider does without."""
    b, count = context.builder, scores.shape[1]
    number = b.iota(shape=(1, count), axis=1, dtype=i64)
    left, found = scores, []
    for _ in range(2):
        best, chosen = b.topk(left, k=1, axis=1, largest=True, sorted=True)
        far = b.gt(b.div(b.sub(best, scores), b.max(b.abs(scores), best)), 2 * _JITTER)
        shares = b.softmax(b.select(far, -math.inf, left), axis=1)
        found.append((b.gather_elements(shares, chosen, axis=1), chosen))
        left = b.select(b.eq(number, chosen), -math.inf, left)
    shares, chosen = (b.concat(*pair, axis=1) for pair in zip(*found, strict=True))
    return shares, chosen


def _routed(context: Context, x: Value, chosen: Value, shares: Value, count: int, expert: Expert) -> Value:
    """The sum of the experts' results for each row of x. Rows are sorted by expert; how many each has is
    read by the run, once for all of them."""
    b, (tokens, k) = context.builder, chosen.shape
    pairs = (tokens * k,)
    ids = b.reshape(chosen, shape=(tokens * k, 1))
    hits = b.cast(b.eq(ids, b.iota(shape=(1, count), axis=1, dtype=i64)), dtype=i32)
    totals = b.reduce(hits, function="add", axes=(0,), keepdims=False)
    before = b.cumulative(totals, axis=0, function="add", exclusive=True, reverse=False)
    earlier = b.cumulative(hits, axis=0, function="add", exclusive=True, reverse=False)
    place = b.add(b.gather_elements(earlier, ids, axis=1), b.gather(before, ids, axis=0))
    place = b.reshape(place, shape=pairs)
    token = b.div(b.iota(shape=pairs, axis=0, dtype=i32), b.cast(context.size(k), dtype=i32))
    nothing = b.broadcast(b.scalar(0, i32), shape=pairs)
    sorted_ = b.scatter_elements(nothing, place, token, axis=0, reduction="none")
    results = []
    for number, size in enumerate(read_shape(context, b.cast(totals, dtype=i64))):
        at = b.add(b.iota(shape=(size,), axis=0, dtype=i32), part(context, before, 0, number, 1))
        rows = b.gather(x, b.gather(sorted_, at, axis=0), axis=0)
        results.append(expert(number, rows))
    spread = b.gather(b.concat(*results, axis=0), place, axis=0)
    width = spread.shape[1]
    weighted = b.mul(
        widened(context, b.reshape(spread, shape=(tokens, k, width))), b.reshape(shares, shape=(tokens, k, 1))
    )
    return b.cast(b.reduce(weighted, function="add", axes=(1,), keepdims=False), dtype=x.dtype)


def _entry(context: Context, stacked: Value, number: int) -> Value:
    """What one expert has of a tensor of all experts."""
    return context.builder.reshape(part(context, stacked, 0, number, 1), shape=stacked.shape[1:])


@onnx_op("MoEGroupRouter", domain=MS)
def group_router(context: Context, node: NodeView):
    """Scores of experts, of which the best in the best groups are chosen; or the scores themselves."""
    b, logits, bias, projection = context.builder, node.input(0), node.input(1), node.input(2)
    if projection is not None:
        wide = widened(context, projection)
        logits = b.matmul(widened(context, logits), b.transpose(wide, permutation=(1, 0)))
    count = logits.shape[-1]
    flat = b.reshape(logits, shape=(product(logits.shape[:-1]), count))
    scores = b.sigmoid(widened(context, flat))
    shifted = b.add(scores, bias)
    if node.wants(1) or node.wants(2):
        if node.wants(0):
            context.unsupported("router_probs beside selection_scores and router_weights")
        return None, shifted, scores
    if not isinstance(count, int):
        context.unsupported("a number of experts that is not known while importing")
    allowed = b.select(_in_best_groups(context, node, shifted), shifted, -math.inf)
    _, chosen = b.topk(allowed, k=node.attribute("top_k"), axis=1, largest=True, sorted=True)
    result = b.select(
        _marked(context, chosen, count),
        b.log(b.max(scores, 1e-20)),
        float(node.attribute("router_sentinel", -10000.0)),
    )
    return b.cast(result, dtype=node.input(0).dtype), None, None


def _in_best_groups(context: Context, node: NodeView, scores: Value) -> Value:
    """Which experts are of the `topk_group` groups whose `group_topk` best have the largest sum."""
    b, (tokens, count), groups = context.builder, scores.shape, node.attribute("n_group", 1)
    if count % groups:
        context.unsupported(f"{count} experts in {groups} groups")
    size = count // groups
    grouped = b.reshape(scores, shape=(tokens, groups, size))
    best, _ = b.topk(grouped, k=min(node.attribute("group_topk", 2), size), axis=2, largest=True, sorted=True)
    sums = b.reduce(best, function="add", axes=(2,), keepdims=False)
    _, chosen = b.topk(sums, k=node.attribute("topk_group", 1), axis=1, largest=True, sorted=True)
    marked = b.reshape(_marked(context, chosen, groups), shape=(tokens, groups, 1))
    return b.reshape(b.broadcast(marked, shape=(tokens, groups, size)), shape=(tokens, count))


def _marked(context: Context, chosen: Value, count: int) -> Value:
    """Which of `count` numbers are chosen, bool [rows, count], from those chosen, [rows, k]."""
    b, rows = context.builder, chosen.shape[0]
    none = b.broadcast(b.scalar(False, bool_), shape=(rows, count))
    yes = b.broadcast(b.scalar(True, bool_), shape=chosen.shape)
    return b.scatter_elements(none, chosen, yes, axis=1, reduction="none")


# Activations ---------------------------------------------------------------------------------------


def _activation(context: Context, node: NodeView, third: bool) -> Callable[[Value, Value | None], Value]:
    """What lies between the layers, of the first layer's result and the third's, which may be missing."""
    b, name, fusion = (
        context.builder,
        node.attribute("activation_type", "relu"),
        node.attribute("swiglu_fusion", 0),
    )
    plain = {
        "relu": b.relu,
        "gelu": lambda x: b.gelu(x, approximate="tanh"),
        "silu": lambda x: b.mul(x, b.sigmoid(x)),
        "identity": lambda x: x,
        "relu2": lambda x: b.mul(b.relu(x), b.relu(x)),
    }
    if name in plain:
        return lambda x, up: plain[name](x) if up is None else b.mul(plain[name](x), up)
    if name not in ("swiglu", "geglu"):
        context.unsupported(f"activation_type {name!r}")
    if (fusion not in (1, 2)) != third or (third and name == "geglu"):
        context.unsupported(
            f"swiglu_fusion {fusion} of {name} {'with' if third else 'without'} a third layer"
        )

    def gated(x: Value, up: Value | None) -> Value:
        gate, linear = (
            (x, up) if up is not None else _turns(context, x) if fusion == 1 else halves(context, x)
        )
        if name == "geglu":
            return b.mul(b.gelu(gate, approximate="tanh"), linear)
        alpha, beta = (
            float(node.attribute(f"activation_{n}", d)) for n, d in (("alpha", 1.0), ("beta", 0.0))
        )
        limit = node.attribute("swiglu_limit")
        limit = None if limit is None or math.isinf(limit) else float(limit)
        return swiglu(context, gate, linear, alpha, beta, limit)

    if node.attribute("swiglu_limit_after_activation", 0):
        context.unsupported("swiglu_limit_after_activation")
    return gated


def _turns(context: Context, x: Value) -> list[Value]:
    """Elements of the last axis that take turns: those at even places, and those at odd ones."""
    b, (rows, width) = context.builder, x.shape
    pairs = b.reshape(x, shape=(rows, width // 2, 2))
    return [b.reshape(part(context, pairs, 2, i, 1), shape=(rows, width // 2)) for i in (0, 1)]


# Coded weights -------------------------------------------------------------------------------------

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], "f4")
_FP4_BLOCK = 32  # how many floats of 4 bits share a scale


@onnx_op("QMoE", domain=MS)
def quantised_mixture_of_experts(context: Context, node: NodeView) -> Value:
    b, x, router = context.builder, node.input(0), node.input(1)
    kind = node.attribute("quant_type", "int")
    if kind not in ("int", "fp4", "fp8"):
        context.unsupported(f"quant_type {kind!r}: int, fp4 or fp8")
    if node.attribute("weights_prepacked", -1) == 1:
        context.unsupported("weights_prepacked=1: weights in the order of one kind of device")

    def layer(number: int, expert: int, rows: Value) -> Value:
        codes, scale, bias = (node.input(i + 3 * number) for i in (2, 3, 4))
        zero, overall = node.input(11 + number), node.input(15 + number) if number < 2 else None
        codes, scale, zero = (None if v is None else _entry(context, v, expert) for v in (codes, scale, zero))
        if kind == "int":
            bits = node.attribute(f"fc{number + 1}_expert_weight_bits") or node.attribute(
                "expert_weight_bits", 4
            )
            w = _from_integers(context, codes, scale, zero, bits)
        else:
            w = _from_floats(context, codes, scale, node.attribute("block_size", 0))
            w = w if overall is None else b.mul(w, part(context, overall, 0, expert, 1))
        y = b.matmul(rows, b.transpose(b.cast(w, dtype=rows.dtype), permutation=(1, 0)))
        return y if bias is None else b.add(y, _entry(context, bias, expert))

    return _mixed(context, node, x, router, node.input(14), layer, node.input(8) is not None)


def _from_integers(
    context: Context, codes: Value, scale: Value | None, zero: Value | None, bits: int
) -> Value:
    """Weights [rows, columns] from bytes; scales and zero points are of rows, or of blocks of rows."""
    b = context.builder
    if scale is None:
        context.unsupported("coded weights without scales")
    if bits not in (2, 3, 4, 8):
        context.unsupported(f"weights of {bits} bits: 2, 3, 4 or 8")
    rows, blocks = codes.shape[0], scale.shape[1] if scale.rank == 2 else 1
    numbers = _numbers(context, codes, bits)
    columns = numbers.shape[1]
    pieces = b.reshape(numbers, shape=(rows, blocks, columns // blocks))
    if zero is None:
        centre = float(1 << (bits - 1))
    else:
        flat = zero if zero.rank == 2 else b.reshape(zero, shape=(1, zero.shape[0]))
        flat = part(context, _numbers(context, flat, bits), 1, 0, blocks if zero.rank == 2 else rows)
        centre = b.reshape(flat, shape=(rows, blocks, 1))
    real = b.mul(b.sub(pieces, centre), b.reshape(widened(context, scale), shape=(rows, blocks, 1)))
    return b.reshape(real, shape=(rows, columns))


def _numbers(context: Context, codes: Value, bits: int) -> Value:
    """Numbers of a few bits, the lowest bits first, that lie one after the other in rows of bytes; f32."""
    b, (rows, width) = context.builder, codes.shape
    if bits != 3:
        return b.cast(unpacked(context, codes, bits), dtype=f32)
    triples = -(-width // 3)
    wide = b.pad(b.cast(codes, dtype=i32), before=(0, 0), after=(0, 3 * triples - width), mode="constant")
    words = b.mul(
        b.reshape(wide, shape=(rows, triples, 3)), b.constant(np.array([1, 1 << 8, 1 << 16], np.int32))
    )
    words = b.reduce(words, function="add", axes=(2,), keepdims=True)
    shifted = b.div(words, b.constant(8 ** np.arange(8, dtype=np.int32)))
    return b.cast(b.reshape(b.bit_and(shifted, 7), shape=(rows, 8 * triples)), dtype=f32)


def _from_floats(context: Context, codes: Value, scale: Value | None, block: int) -> Value:
    """Weights [rows, columns] from floats of 8 bits, with a scale for each square block if there are such; or
    from floats of 4 bits, the first in the low bits, with a scale for each block of a row."""
    b, height = context.builder, block
    if codes.dtype == u8:
        if scale is None:
            context.unsupported("coded weights without scales")
        meaning = b.constant(np.concatenate([_E2M1, -_E2M1]))
        codes, height, block = b.cast(unpacked(context, codes, 4), dtype=i32), 1, _FP4_BLOCK
        real = b.gather(meaning, codes, axis=0)
    else:
        real = b.cast(codes, dtype=f32)
    if scale is None or not block:
        return real
    (high, wide), (rows, columns) = scale.shape, real.shape
    opened = b.reshape(b.cast(scale, dtype=f32), shape=(high, 1, wide, 1))
    spread = b.broadcast(opened, shape=(high, height, wide, block))
    spread = b.reshape(spread, shape=(high * height, wide * block))
    return b.mul(real, part(context, part(context, spread, 0, 0, rows), 1, 0, columns))
