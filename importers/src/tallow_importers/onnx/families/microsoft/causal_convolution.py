"""Convolutions of sequences that see only what came before, and carry it from call to call (com.microsoft)."""

from __future__ import annotations

import functools

from tallow.dim import product
from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.axes import held
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.microsoft.attention import part, refuse
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.families.microsoft.gates import widened
from tallow_importers.onnx.families.microsoft.packing import Ragged
from tallow_importers.onnx.registry import onnx_op


@onnx_op("CausalConvWithState", domain=MS)
def causal_convolution(context: Context, node: NodeView):
    """Each channel by itself, over the state of the last call and what is new."""
    extended = ("input_channels", "input_channel_offset", "state_length", "state_update_capacity")
    refuse(context, node, (*extended, "state_window"))
    if node.attribute("ndim", 1) != 1 or node.attribute("state_channels_last", -1) != -1:
        context.unsupported("ndim or state_channels_last of CausalConvWithState")
    x, w, bias, past = (node.input(i) for i in range(4))
    b, last = context.builder, node.attribute("channels_last", 0)
    taps, gap = _taps(context, node, w)
    channels, before = w.shape[0], (taps - 1) * gap

    def first(value: Value) -> Value:
        """[batch, channels, steps]."""
        if not last:
            return value
        flat = b.reshape(value, shape=(*value.shape[:2], product(value.shape[2:])))
        return b.transpose(flat, permutation=(0, 2, 1))

    def back(value: Value) -> Value:
        if not last:
            return value
        return b.reshape(
            b.transpose(value, permutation=(0, 2, 1)), shape=(x.shape[0], value.shape[2], *x.shape[2:])
        )

    new = first(x)
    batch, steps = new.shape[0], new.shape[2]
    if past is None:
        seen = b.pad(new, before=(0, 0, before), after=(0, 0, 0), mode="constant")
    else:
        seen = b.concat(first(past), new, axis=2)
    wide = widened(context, seen)
    columns = [part(context, wide, 2, tap * gap, steps) for tap in range(taps)]
    factors = widened(context, b.reshape(w, shape=(channels, taps)))
    factors = [part(context, factors, 1, tap, 1) for tap in range(taps)]
    bias = None if bias is None else b.reshape(widened(context, bias), shape=(channels, 1))
    y = _activated(context, node, _total(context, columns, factors, bias))
    state = part(context, seen, 2, steps, before)
    return back(b.cast(b.reshape(y, shape=(batch, channels, steps)), dtype=x.dtype)), back(state)


def _taps(context: Context, node: NodeView, w: Value) -> tuple[int, int]:
    """How many steps are seen, and how far they are from each other."""
    taps, gap = w.shape[2], node.attribute("dilation", 1)
    if not isinstance(taps, int) or gap < 1:
        context.unsupported(f"a window of {taps} steps with dilation {gap}")
    return taps, gap


def _total(context: Context, columns: list[Value], factors: list[Value], bias: Value | None) -> Value:
    b = context.builder
    terms = [b.mul(column, factor) for column, factor in zip(columns, factors, strict=True)]
    return functools.reduce(b.add, terms if bias is None else [bias, *terms])


def _activated(context: Context, node: NodeView, y: Value) -> Value:
    kind = node.attribute("activation", "none")
    if kind not in ("none", "silu", "swish"):
        context.unsupported(f"activation {kind!r}: none, silu or swish")
    b = context.builder
    return y if kind == "none" else b.mul(y, b.sigmoid(y))


@onnx_op("VarlenCausalConvWithState", domain=MS)
def ragged_causal_convolution(context: Context, node: NodeView):
    """The same of sequences of different lengths, [tokens, channels]; no step sees another sequence."""
    refuse(context, node, (), {6: "kernel_delta", 7: "previous_mask"})
    x, w, ends, bias, past, captured = (node.input(i) for i in range(6))
    b, (tokens, channels) = context.builder, x.shape
    taps, gap = _taps(context, node, w)
    before = (taps - 1) * gap
    ragged = Ragged.of(context, ends, tokens)
    history = b.reshape(b.transpose(past, permutation=(0, 2, 1)), shape=(ragged.batch * before, channels))

    def seen(sequence: Value, place: Value) -> Value:
        """Rows at places of sequences, counted from their first new token; earlier ones are of the state."""
        old = held(context, b.add(b.mul(sequence, before), b.add(place, before)), history.shape[0])
        new = held(context, b.add(b.gather(ragged.first, sequence, axis=0), place), tokens)
        if not before:
            return b.gather(x, new, axis=0)
        is_new = b.reshape(b.ge(place, 0), shape=(*place.shape, 1))
        return b.select(is_new, b.gather(x, new, axis=0), b.gather(history, old, axis=0))

    factors = widened(context, b.reshape(w, shape=(channels, taps)))
    factors = [b.reshape(part(context, factors, 1, tap, 1), shape=(1, channels)) for tap in range(taps)]
    distances = [(taps - 1 - tap) * gap for tap in range(taps)]
    columns = [widened(context, seen(ragged.sequence, b.sub(ragged.place, d))) for d in distances]
    y = _activated(context, node, _total(context, columns, factors, widened(context, bias)))
    row = b.iota(shape=(ragged.batch, before), axis=0, dtype=i64)
    place = b.add(
        b.iota(shape=(1, before), axis=1, dtype=i64), b.sub(_column(context, ragged.length), before)
    )
    state = b.transpose(seen(row, place), permutation=(0, 2, 1))
    return b.cast(y, dtype=x.dtype), state, _captured(context, node, x, ragged, captured)


def _column(context: Context, x: Value) -> Value:
    return context.builder.reshape(x, shape=(x.shape[0], 1))


def _captured(
    context: Context, node: NodeView, x: Value, ragged: Ragged, counts: Value | None
) -> Value | None:
    """The first tokens of each sequence, [batch, capacity, channels], zeros for what is not asked for."""
    b, capacity = context.builder, node.attribute("state_update_capacity", 0)
    if (capacity > 0) != (counts is not None):
        context.unsupported(
            f"state_update_capacity {capacity} {'without' if capacity else 'with'} capture_count"
        )
    if counts is None:
        return None
    slot = b.iota(shape=(1, capacity), axis=1, dtype=i64)
    asked = b.min(_column(context, b.cast(counts, dtype=i64)), _column(context, ragged.length))
    rows = b.gather(x, held(context, b.add(_column(context, ragged.first), slot), x.shape[0]), axis=0)
    wanted = b.reshape(b.lt(slot, asked), shape=(ragged.batch, capacity, 1))
    return b.select(wanted, rows, b.scalar(0, x.dtype))
