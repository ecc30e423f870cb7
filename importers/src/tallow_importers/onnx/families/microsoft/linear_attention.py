"""Attention whose keys and values are summed up in a state of fixed size, of the com.microsoft domain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tallow.dim import Dim, floordiv
from tallow.dtype import bool_, f32, i64
from tallow.graph import TensorType, Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.control import emit_loop
from tallow_importers.onnx.families.elementwise import stable_softplus
from tallow_importers.onnx.families.microsoft.attention import part, parts, refuse
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.families.microsoft.gates import widened
from tallow_importers.onnx.families.microsoft.packing import Ragged
from tallow_importers.onnx.registry import onnx_op

Layout = Callable[[Value], Value]
_RULES = {"linear": "", "gated": "decay", "delta": "beta", "gated_delta": "decay beta"}


@dataclass(slots=True)
class Recurrence:
    """What a linear attention reads, in 32 bits: queries, keys and values [batch, steps, heads, size] with
    heads that divide each other, decays [batch, steps, heads, size or 1], rates [batch, steps, heads or 1]."""

    query: Value
    key: Value
    value: Value
    decay: Value | None
    rate: Value | None
    scale: float


def _rule(context: Context, node: NodeView, decay: Value | None, rate: Value | None):
    """The decay and the update rate as far as the node's rule has them."""
    rule = node.attribute("update_rule", "gated_delta")
    if rule not in _RULES:
        context.unsupported(f"update_rule {rule!r}: {', '.join(_RULES)}")
    needed = _RULES[rule].split()
    missing = [n for n, v in (("decay", decay), ("beta", rate)) if n in needed and v is None]
    if missing:
        context.unsupported(f"update_rule {rule!r} without the operand {' and '.join(missing)}")
    return decay if "decay" in needed else None, rate if "beta" in needed else None


@onnx_op("LinearAttention", domain=MS)
def linear_attention(context: Context, node: NodeView):
    refuse(context, node, ("state_window",))
    q, k, v, past, decay, rate = (node.input(i) for i in range(6))
    decay, rate = _rule(context, node, decay, rate)
    b, heads, groups = context.builder, node.attribute("q_num_heads"), node.attribute("kv_num_heads")
    size, depth = floordiv(q.shape[2], heads), floordiv(v.shape[2], groups)

    def split(x: Value, count: Dim) -> Value:
        return widened(context, b.reshape(x, shape=(*x.shape[:2], count, floordiv(x.shape[2], count))))

    state = (q.shape[0], groups, size, depth)
    state = b.broadcast(b.scalar(0, f32), shape=state) if past is None else widened(context, past)
    rate = None if rate is None else widened(context, rate)
    decay = None if decay is None else split(decay, groups)
    read = Recurrence(
        split(q, heads),
        split(k, floordiv(k.shape[2], size)),
        split(v, groups),
        decay,
        rate,
        _scale(node, size),
    )
    y, state, _ = _run(context, read, state)
    y = b.reshape(y, shape=(*y.shape[:2], y.shape[2] * y.shape[3]))
    return b.cast(y, dtype=q.dtype), b.cast(state, dtype=q.dtype if past is None else past.dtype)


def _scale(node: NodeView, size: Dim) -> float:
    return float(node.attribute("scale", 0.0)) or 1 / math.sqrt(size)


def _run(
    context: Context, read: Recurrence, state: Value, changes: bool = False
) -> tuple[Value, Value, Value | None]:
    """Results [batch, steps, heads, depth], the state [batch, heads, size, depth] after the last step, and,
    if wanted, what each step adds to it with its key, [batch, steps, heads, depth]."""
    b, groups = context.builder, read.value.shape[2]
    heads, steps = read.query.shape[2], read.query.shape[1]
    query = _repeated(context, read.query, groups) if heads < groups else read.query
    shared = query.shape[2] // groups
    query = b.reshape(query, shape=(*query.shape[:2], groups, shared, query.shape[3]))
    key = _repeated(context, read.key, groups)
    decay = None if read.decay is None else b.exp(read.decay)

    def body(types):
        inner = b.region("step")
        step = Value(inner.unique("step"), TensorType(i64, ()))
        going = Value(inner.unique("going"), TensorType(bool_, ()))
        old = Value(inner.unique("state"), types[0])
        inner.inputs += [step, going, old]
        q, k, v = (inner.gather(x, step, axis=1) for x in (query, key, read.value))
        batch, count, size, depth = old.shape
        kept = old
        if decay is not None:
            factor = inner.gather(decay, step, axis=1)
            kept = inner.mul(kept, inner.reshape(factor, shape=(*factor.shape, 1)))
        added = inner.reshape(v, shape=(batch, count, 1, depth))
        if read.rate is not None:
            rate = inner.gather(read.rate, step, axis=1)
            known = inner.matmul(inner.reshape(k, shape=(batch, count, 1, size)), kept)
            added = inner.mul(inner.sub(added, known), inner.reshape(rate, shape=(*rate.shape, 1, 1)))
        new = inner.add(kept, inner.mul(inner.reshape(k, shape=(batch, count, size, 1)), added))
        y = inner.mul(inner.matmul(q, new), read.scale)
        return inner.finish([inner.scalar(True, bool_), new, y, *([added] if changes else [])])

    last, *scans = emit_loop(context, context.size(steps), b.scalar(True, bool_), [state], body)
    scans = [b.transpose(rows, permutation=(1, 0, 2, 3, 4)) for rows in scans]
    y, *added = (
        b.reshape(rows, shape=(*rows.shape[:2], rows.shape[2] * rows.shape[3], rows.shape[4]))
        for rows in scans
    )
    return y, last, added[0] if added else None


def _repeated(context: Context, x: Value, heads: Dim) -> Value:
    """[batch, steps, fewer, size] as [batch, steps, heads, size]: neighbours share one."""
    b, (batch, steps, fewer, size) = context.builder, x.shape
    if fewer == heads:
        return x
    opened = b.reshape(x, shape=(batch, steps, fewer, 1, size))
    spread = b.broadcast(opened, shape=(batch, steps, fewer, floordiv(heads, fewer), size))
    return b.reshape(spread, shape=(batch, steps, heads, size))


# With gates, and sequences of different lengths -----------------------------------------------------


@onnx_op("GatedDeltaNet", domain=MS)
def gated_delta_net(context: Context, node: NodeView):
    """Tokens lie one after the other, of sequences of one length or of those that `cu_seqlens` counts."""
    b, (ends, decay, rate, state) = context.builder, (node.input(i) for i in range(3, 7))
    decay, rate = _rule(context, node, decay, rate)
    q, k, v = _operands(context, node, state)
    shape, dtype = v.shape, v.dtype
    q, k, v = (widened(context, x) for x in (q, k, v))
    if node.attribute("qk_l2_norm", 0):
        q, k = (_unit(context, x) for x in (q, k))
    if decay is not None:
        decay = _decay(context, node, widened(context, decay), q.rank)
    if rate is not None:
        rate = widened(context, rate)
        rate = b.sigmoid(rate) if _beta(context, node) == "sigmoid" else rate
    sizes = [q.shape[-1], shape[-1]]
    batch, lengths, opened, closed = _sequences(context, ends, state, shape)
    if state is None:
        start = b.broadcast(b.scalar(0, f32), shape=(batch, shape[-2], *sizes))
    else:
        start = b.transpose(state, permutation=(0, 1, 3, 2))
    # Steps beyond a sequence's end have keys of zero and no decay, so its state stays what it is.
    operands = (None if x is None else opened(x) for x in (q, k, v, decay, rate))
    read = Recurrence(*operands, _scale(node, sizes[0]))
    y, last, changes = _run(context, read, start, node.attribute("state_update_capacity", 0) > 0)
    update = _captured(context, node, read, changes, lengths)
    return b.cast(closed(y), dtype=dtype), b.transpose(last, permutation=(0, 1, 3, 2)), update


def _captured(
    context: Context, node: NodeView, read: Recurrence, changes: Value | None, lengths: Value | None
) -> Value | None:
    """The decays, the keys and the changes of the first steps of each sequence, zeros for what is not asked
    for: [batch, capacity * (numbers of a step)]."""
    b, capacity, counts = context.builder, node.attribute("state_update_capacity", 0), node.input(9)
    if (capacity > 0) != (counts is not None):
        context.unsupported(
            f"state_update_capacity {capacity} {'without' if capacity else 'with'} capture_count"
        )
    if changes is None:
        return None
    batch, steps, heads = changes.shape[:3]
    asked = b.cast(counts, dtype=i64)
    asked = b.min(asked, context.size(steps) if lengths is None else lengths)
    if node.input(10) is not None:
        asked = b.select(b.ne(b.reshape(node.input(10), shape=()), 0), asked, b.scalar(0, i64))
    slot = b.iota(shape=(1, capacity, 1), axis=1, dtype=i64)
    wanted = b.lt(slot, b.reshape(asked, shape=(batch, 1, 1)))
    if read.decay is None:
        decay = b.broadcast(b.scalar(1, f32), shape=(batch, steps, heads, 1))
    else:
        decay = b.exp(read.decay)

    def first(x: Value) -> Value:
        width = x.shape[2] * x.shape[3]
        flat = b.reshape(x, shape=(batch, steps, width))
        longer = b.pad(flat, before=(0, 0, 0), after=(0, capacity, 0), mode="constant")
        taken = b.select(wanted, part(context, longer, 1, 0, capacity), b.scalar(0, f32))
        return b.reshape(taken, shape=(batch, capacity * width))

    return b.concat(*map(first, (decay, read.key, changes)), axis=1)


def _sequences(
    context: Context, ends: Value | None, state: Value | None, shape
) -> tuple[Dim, Value | None, Layout, Layout]:
    """The number of sequences, how long each is if they differ, and how tokens become [batch, steps, ...] and
    again what they were."""
    b = context.builder
    if ends is not None:
        if len(shape) != 3:
            context.unsupported(f"cu_seqlens for values of rank {len(shape)}: [tokens, heads, size]")
        ragged = Ragged.of(context, ends, shape[0])
        layouts = (lambda x: ragged.opened(context, x)), (lambda x: ragged.closed(context, x))
        return ragged.batch, ragged.length, *layouts
    if len(shape) == 4:
        return shape[0], None, lambda x: x, lambda x: x
    if state is None:
        context.unsupported("tokens without cu_seqlens or initial_state, which tell the number of sequences")
    batch = state.shape[0]
    steps = floordiv(shape[0], batch)
    return (
        batch,
        None,
        lambda x: b.reshape(x, shape=(batch, steps, *x.shape[1:])),
        lambda x: b.reshape(x, shape=(shape[0], *x.shape[2:])),
    )


def _operands(context: Context, node: NodeView, state: Value | None) -> list[Value]:
    """Queries, keys and values [..., heads, size], which may come in one tensor."""
    q, k, v = (node.input(i) for i in range(3))
    if k is not None and v is not None:
        return [q, k, v]
    if state is None:
        context.unsupported("queries, keys and values in one tensor without initial_state")
    b, (_, heads, depth, size) = context.builder, state.shape
    shared = floordiv(q.shape[-1] - heads * depth, 2 * size)
    pieces = parts(context, q, q.rank - 1, [shared * size, shared * size, heads * depth])
    counts = ((shared, size), (shared, size), (heads, depth))
    return [b.reshape(x, shape=(*x.shape[:-1], *n)) for x, n in zip(pieces, counts, strict=True)]


def _unit(context: Context, x: Value) -> Value:
    """Each head's vector divided by its length."""
    b = context.builder
    total = b.reduce(b.mul(x, x), function="add", axes=(x.rank - 1,), keepdims=True)
    return b.mul(x, b.rsqrt(b.add(total, 1e-6)))


def _beta(context: Context, node: NodeView) -> str:
    kind = node.attribute("beta_activation", "none")
    if kind not in ("none", "sigmoid"):
        context.unsupported(f"beta_activation {kind!r}: none or sigmoid")
    return kind


def _decay(context: Context, node: NodeView, raw: Value, rank: int) -> Value:
    """The decay's logarithm, [..., heads, size or 1]."""
    b, kind = context.builder, node.attribute("gate_activation", "none")
    if kind not in ("none", "softplus", "qwen", "sigmoid", "kda"):
        context.unsupported(f"gate_activation {kind!r}: none, softplus or sigmoid")
    raw = raw if raw.rank == rank else b.reshape(raw, shape=(*raw.shape, 1))
    if kind == "none":
        return raw
    steepness, shift = node.input(7), node.input(8)
    if steepness is None or shift is None:
        context.unsupported(f"gate_activation {kind!r} without the operands a_log and dt_bias")
    heads = raw.shape[-2]
    shifted = b.add(raw, b.reshape(shift, shape=(heads, floordiv(shift.type.size, heads))))
    factor = b.exp(b.reshape(steepness, shape=(heads, 1)))
    if kind in ("softplus", "qwen"):
        return b.neg(b.mul(factor, stable_softplus(context, shifted)))
    return b.mul(b.sigmoid(b.mul(factor, shifted)), float(node.attribute("gate_lower_bound", -5.0)))
