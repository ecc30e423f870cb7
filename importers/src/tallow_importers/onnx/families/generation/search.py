"""Search that follows one sequence for each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.builder import Builder
from tallow.dim import Dim, maximum
from tallow.dtype import i32, i64
from tallow.graph import Value
from tallow_importers.onnx.families.generation.logits import Processor, processed, size_value


def sequence_buffer(builder: Builder, prompt: Value, most: Dim, pad: int) -> Value:
    """Sequences of up to `most` tokens [batch, most]: the prompts and padding."""
    batch, before = prompt.shape
    room = builder.broadcast(builder.scalar(pad, i32), shape=(batch, maximum(most - before, 0)))
    return builder.concat(prompt, room, axis=1)


def appended(builder: Builder, sequences: Value, tokens: Value, length: Value) -> Value:
    """Sequences with a token more [rows, 1] behind their first `length` ones."""
    place = builder.iota(shape=(sequences.shape[1],), axis=0, dtype=i64)
    return builder.select(builder.eq(place, length), tokens, sequences)


def all_set(builder: Builder, flags: Value) -> Value:
    """Whether all of a vector's flags are set."""
    return builder.reduce(flags, function="and", axes=(0,), keepdims=False)


class Greedy:
    """The most likely token. State: tokens [batch, 1], sequences [batch, most], which have ended [batch]."""

    copies = 1

    def __init__(self, prompt: Value, most: Dim, ends: tuple[int, int], by: Sequence[Processor]):
        self.prompt, self.most, self.by = prompt, most, by
        self.end, self.pad = ends

    def first_state(self, builder: Builder, logits: Value) -> tuple[list[Value], None, list[Value]]:
        sequences = sequence_buffer(builder, self.prompt, self.most, self.pad)
        ended = builder.broadcast(builder.scalar(False, "bool"), shape=self.prompt.shape[:1])
        have = (sequences, ended, *self.begun(builder))
        return (
            self._step(builder, logits, have, size_value(builder, self.prompt.shape[1]), first=True),
            None,
            [],
        )

    def next_state(
        self, builder: Builder, logits: Value, state: Sequence[Value], length: Value
    ) -> tuple[list[Value], None, list[Value]]:
        return self._step(builder, logits, state[1:], length, first=False), None, []

    def _step(
        self, b: Builder, logits: Value, have: Sequence[Value], length: Value, first: bool
    ) -> list[Value]:
        sequences, ended, *more = have
        scores = processed(b, logits, sequences, length, self.by, first)
        chosen, more = self.chosen(b, scores, more)
        chosen = b.cast(chosen, dtype=i32)
        ended = b.or_(ended, b.eq(chosen, self.end))
        tokens = b.reshape(b.select(ended, self.pad, chosen), shape=(sequences.shape[0], 1))
        return [tokens, appended(b, sequences, tokens, length), ended, *more]

    def begun(self, builder: Builder) -> list[Value]:
        """What more of a state choosing tokens needs."""
        return []

    def chosen(self, builder: Builder, scores: Value, more: list[Value]) -> tuple[Value, list[Value]]:
        """One token of each row of scores [rows, words], and what is kept for the next."""
        return builder.argmax(scores, axis=1, keepdims=False), more

    def goes_on(self, builder: Builder, state: Sequence[Value]) -> Value:
        return builder.not_(all_set(builder, state[2]))
