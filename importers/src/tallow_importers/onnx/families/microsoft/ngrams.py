"""Hashes of tokens with those before them, of the com.microsoft domain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.axes import held
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.microsoft.attention import part
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.families.microsoft.packing import Ragged
from tallow_importers.onnx.registry import onnx_op


@dataclass(slots=True)
class Hashing:
    """Tables of each length of n-grams from 2 to `most`, `heads` of each; what stands where no token is, and
    the token that ends a text, if there is one and what lies before it is to be forgotten."""

    most: int
    heads: int
    fill: Value
    end: Value | None

    @classmethod
    def of(cls, context: Context, node: NodeView, ids: Value, end: Value | None) -> Hashing:
        b, most, heads = context.builder, node.attribute("max_ngram_size"), node.attribute("n_head_per_ngram")
        if most < 2 or heads < 1:
            context.unsupported(f"max_ngram_size {most} and n_head_per_ngram {heads}: from 2 and 1 on")
        end = None if end is None else b.reshape(end, shape=())
        fill = b.scalar(node.attribute("pad_id"), ids.dtype) if end is None else end
        return cls(most, heads, fill, end if node.attribute("reset_on_eos", 0) else None)

    def hashed(self, context: Context, grams: list[Value], walls, factors, sizes, offsets) -> Value:
        """[..., heads of all lengths] from the tokens k before each, [...], and what separates these from the
        tokens after them."""
        b, cut, lead = context.builder, None, grams[0].shape
        seen = grams[:1]
        for k in range(1, self.most):
            found = [] if self.end is None else [b.eq(grams[k], self.end)]
            for wall in [*found, *walls[k - 1 : k]]:
                cut = wall if cut is None else b.or_(cut, wall)
            seen.append(grams[k] if cut is None else b.select(cut, self.fill, grams[k]))
        terms = [b.mul(g, b.reshape(part(context, factors, 0, k, 1), shape=())) for k, g in enumerate(seen)]
        results = []
        for n in range(2, self.most + 1):
            mixed = b.reshape(reduce(b.bit_xor, terms[:n]), shape=(*lead, 1))
            table = part(context, sizes, 0, (n - 2) * self.heads, self.heads)
            results.append(b.mod(mixed, b.max(table, 1)))
        y = b.concat(*results, axis=len(lead))
        return y if offsets is None else b.add(y, offsets)


@onnx_op("NGramHashMapping", domain=MS)
def ngram_hash_mapping(context: Context, node: NodeView):
    """Of sequences of one length, [batch, steps]; and their last tokens."""
    ids, factors, sizes, past, offsets, end, segments = (node.input(i) for i in range(7))
    b, (batch, steps) = context.builder, ids.shape
    hashing = Hashing.of(context, node, ids, end)
    before = hashing.most - 1
    past = b.broadcast(hashing.fill, shape=(batch, before)) if past is None else past
    seen = b.concat(past, ids, axis=1)
    grams = [part(context, seen, 1, before - k, steps) for k in range(hashing.most)]
    walls = []
    if segments is not None:
        step = b.iota(shape=(1, steps), axis=1, dtype=i64)
        padded = b.pad(segments, before=(0, before), after=(0, 0), mode="constant")
        lines = [part(context, padded, 1, before - k, steps) for k in range(hashing.most)]
        walls = [
            b.and_(b.ge(step, k + 1), b.ne(later, earlier))
            for k, (later, earlier) in enumerate(zip(lines[:-1], lines[1:], strict=True))
        ]
    y = hashing.hashed(context, grams, walls, factors, sizes, offsets)
    return y, part(context, seen, 1, steps, before)


@onnx_op("VarlenNGramHashMapping", domain=MS)
def ragged_ngram_hash_mapping(context: Context, node: NodeView):
    """Of sequences of different lengths, [tokens]; the last tokens of each, and of those at its start."""
    ids, factors, sizes, ends, past, offsets, end, segments, past_segments, counts = (
        node.input(i) for i in range(10)
    )
    b, tokens = context.builder, ids.shape[0]
    hashing, ragged = Hashing.of(context, node, ids, end), Ragged.of(context, ends, tokens)
    before = hashing.most - 1
    past = b.broadcast(hashing.fill, shape=(ragged.batch, before)) if past is None else past

    def back(new: Value, old: Value, k: int) -> Value:
        """The value k places before each token."""
        return _seen(context, ragged, new, old, ragged.sequence, b.sub(ragged.place, k))

    grams = [back(ids, past, k) for k in range(hashing.most)]
    walls, last_segments = [], None
    if segments is not None:
        old = past_segments
        if old is None:
            old = b.broadcast(b.scalar(0, segments.dtype), shape=(ragged.batch, before))
        lines = [back(segments, old, k) for k in range(hashing.most)]
        walls = [b.ne(later, earlier) for later, earlier in zip(lines[:-1], lines[1:], strict=True)]
        if past_segments is None:
            walls = [b.and_(b.ge(ragged.place, k + 1), wall) for k, wall in enumerate(walls)]
        last_segments = _last(context, ragged, segments, old, before)
    y = hashing.hashed(context, grams, walls, factors, sizes, offsets)
    update = _captured(context, node, ragged, ids, past, counts)
    return y, _last(context, ragged, ids, past, before), last_segments, update


def _seen(context: Context, ragged: Ragged, new: Value, old: Value, sequence: Value, place: Value) -> Value:
    """Values at places of sequences, counted from their first new token; earlier ones are of the past."""
    b, before = context.builder, old.shape[1]
    at = b.add(b.gather(ragged.first, sequence, axis=0), place)
    here = b.gather(new, held(context, at, new.shape[0]), axis=0)
    flat = b.reshape(old, shape=(ragged.batch * before,))
    at = b.add(b.mul(sequence, before), b.add(place, before))
    there = b.gather(flat, held(context, at, flat.shape[0]), axis=0)
    return b.select(b.ge(place, 0), here, there)


def _rows(context: Context, ragged: Ragged, place: Value) -> tuple[Value, Value]:
    """Places [batch or 1, ...] of each sequence, and the sequence of each."""
    b, shape = context.builder, (ragged.batch, *place.shape[1:])
    return b.iota(shape=shape, axis=0, dtype=i64), b.broadcast(place, shape=shape)


def _last(context: Context, ragged: Ragged, new: Value, old: Value, before: int) -> Value:
    """The last values of each sequence, [batch, before]."""
    b = context.builder
    length = b.reshape(ragged.length, shape=(ragged.batch, 1))
    place = b.add(b.iota(shape=(1, before), axis=1, dtype=i64), b.sub(length, before))
    return _seen(context, ragged, new, old, *_rows(context, ragged, place))


def _captured(
    context: Context, node: NodeView, ragged: Ragged, ids: Value, past: Value, counts: Value | None
):
    """The last tokens after each of the first ones, [batch, capacity, before]."""
    b, capacity, before = context.builder, node.attribute("state_update_capacity", 0), past.shape[1]
    if (capacity > 0) != (counts is not None):
        context.unsupported(
            f"state_update_capacity {capacity} {'without' if capacity else 'with'} capture_count"
        )
    if counts is None:
        return None
    slot = b.iota(shape=(1, capacity, 1), axis=1, dtype=i64)
    place = b.add(b.sub(slot, before - 1), b.iota(shape=(1, 1, before), axis=2, dtype=i64))
    states = _seen(context, ragged, ids, past, *_rows(context, ragged, place))
    asked = b.min(b.cast(counts, dtype=i64), ragged.length)
    wanted = b.lt(slot, b.reshape(asked, shape=(ragged.batch, 1, 1)))
    return b.select(wanted, states, b.scalar(node.attribute("pad_id"), ids.dtype))
