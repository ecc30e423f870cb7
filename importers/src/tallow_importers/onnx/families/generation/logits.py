"""What is done to the logits of the next token before one is chosen: onnxruntime's logits processors.

`scores` are [rows, words], `sequences` [rows, most] of which the first `length` tokens count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tallow.builder import Builder
from tallow.dim import Dim
from tallow.dtype import i32, i64
from tallow.graph import Value

LOWEST = float(np.finfo(np.float32).min)  # of a token that is not allowed


@dataclass(frozen=True, slots=True)
class Processor:
    """One change of the scores: `apply(builder, scores, sequences, length)`. only_first: of the first step."""

    apply: Callable[[Builder, Value, Value, Value], Value]
    only_first: bool = False


def processed(
    builder: Builder, scores: Value, sequences: Value, length: Value, by: Sequence[Processor], first: bool
) -> Value:
    """The scores after all processors, in their order."""
    for each in by:
        if first or not each.only_first:
            scores = each.apply(builder, scores, sequences, length)
    return scores


def repetition(penalty: Value) -> Processor:
    """Tokens that the sequence has are made less likely: positive scores divided, negative ones multiplied."""

    def apply(b: Builder, scores: Value, sequences: Value, length: Value) -> Value:
        there = _marked(b, scores, sequences, _within(b, sequences, length))
        less = b.select(b.lt(scores, 0), b.mul(scores, penalty), b.div(scores, penalty))
        return b.select(there, less, scores)

    return Processor(apply)


def no_repeat(width: int, forbidden: float = LOWEST) -> Processor:
    """A token that would make `width` tokens follow each other as they did before gets the score `forbidden`."""

    def apply(b: Builder, scores: Value, sequences: Value, length: Value) -> Value:
        most = sequences.shape[1]
        place = b.iota(shape=(most,), axis=0, dtype=i64)
        last = b.sub(size_value(b, most), 1)
        start = b.sub(length, width - 1)
        again = b.le(b.add(place, width), length)
        for step in range(width - 1):
            there = b.gather(sequences, b.min(b.add(place, step), last), axis=1)
            wanted = b.gather(sequences, b.max(b.add(start, step), 0), axis=1)
            again = b.and_(again, b.eq(there, b.reshape(wanted, shape=(sequences.shape[0], 1))))
        following = b.gather(sequences, b.min(b.add(place, width - 1), last), axis=1)
        return b.select(_marked(b, scores, following, again), forbidden, scores)

    return Processor(apply)


def vocabulary(mask: Value, only_first: bool = False) -> Processor:
    """Words whose mask is zero are not allowed."""

    def apply(b: Builder, scores: Value, sequences: Value, length: Value) -> Value:
        return b.select(b.eq(mask, 0), LOWEST, scores)

    return Processor(apply, only_first)


def least_length(least: Value, end: int) -> Processor:
    """No sequence ends before it has `least` tokens."""

    def apply(b: Builder, scores: Value, sequences: Value, length: Value) -> Value:
        words = b.iota(shape=(scores.shape[-1],), axis=0, dtype=i64)
        return b.select(b.and_(b.eq(words, end), b.lt(length, least)), LOWEST, scores)

    return Processor(apply)


def temperature(value: Value | float) -> Processor:
    """Scores divided by a number."""
    return Processor(lambda b, scores, sequences, length: b.div(scores, value))


def presence(mask: Value, penalty: float) -> Processor:
    """Words whose mask [rows, words] is one are made less likely by a penalty."""

    def apply(b: Builder, scores: Value, sequences: Value, length: Value) -> Value:
        return b.sub(scores, b.mul(b.cast(mask, dtype=scores.dtype), penalty))

    return Processor(apply)


def _within(b: Builder, sequences: Value, length: Value) -> Value:
    return b.lt(b.iota(shape=(sequences.shape[1],), axis=0, dtype=i64), length)


def _marked(b: Builder, scores: Value, tokens: Value, kept: Value) -> Value:
    """Which words [rows, words] are among the tokens [rows, most] that are `kept`."""
    kept = b.broadcast(kept, shape=tokens.shape)
    none = b.broadcast(b.scalar(0, i32), shape=scores.shape)
    words = b.select(kept, tokens, 0)
    found = b.scatter_elements(none, words, b.cast(kept, dtype=i32), axis=1, reduction="max")
    return b.ne(found, 0)


def size_value(b: Builder, dim: Dim) -> Value:
    """A size as a scalar."""
    return b.scalar(dim, i64) if isinstance(dim, int) else b.dims(values=(dim,), shape=())
