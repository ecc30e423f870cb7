"""Beam search: several ways to go on for each prompt, ordered by their probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tallow.builder import Builder
from tallow.dim import Dim
from tallow.dtype import f32, i32, i64
from tallow.graph import Value
from tallow_importers.onnx.families.generation.logits import LOWEST, Processor, processed, size_value
from tallow_importers.onnx.families.generation.search import all_set, appended, sequence_buffer

LATER = -1e9  # score that all beams but the first begin with, so that they do not all choose the same


@dataclass(frozen=True, slots=True)
class Ended:
    """Sequences that are complete, the best first: tokens [batch, beams, most], scores [batch, beams], and how
    many of them there are [batch]."""

    tokens: Value
    scores: Value
    count: Value

    @staticmethod
    def nothing_yet(b: Builder, batch: Dim, beams: Dim, most: Dim, pad: int) -> Ended:
        tokens = b.broadcast(b.scalar(pad, i32), shape=(batch, beams, most))
        scores = b.broadcast(b.scalar(0, f32), shape=(batch, beams))
        return Ended(tokens, scores, b.broadcast(b.scalar(0, i64), shape=(batch,)))

    def joined(self, b: Builder, tokens: Value, scores: Value, valid: Value) -> Ended:
        """The best of these and of others where `valid`; equal ones keep their order."""
        batch, beams, most = self.tokens.shape
        count = b.reshape(self.count, shape=(batch, 1))
        here = b.lt(b.iota(shape=(beams,), axis=0, dtype=i64), count)
        keys = [
            b.select(real, b.max(score, LOWEST), -np.inf)
            for real, score in ((here, self.scores), (valid, scores))
        ]
        best = b.topk(b.concat(*keys, axis=1), k=beams, axis=1, largest=True, sorted=True)[1]
        each = b.broadcast(b.reshape(best, shape=(batch, beams, 1)), shape=(batch, beams, most))
        more = b.reduce(b.cast(valid, dtype=i64), function="add", axes=(1,), keepdims=False)
        return Ended(
            b.gather_elements(b.concat(self.tokens, tokens, axis=1), each, axis=1),
            b.gather_elements(b.concat(self.scores, scores, axis=1), best, axis=1),
            b.min(b.add(self.count, more), size_value(b, beams)),
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """When sequences end and which are better. end, pad: the tokens that end them and fill them up. penalty: the
    exponent of the length that divides scores (None: 1). early: a prompt is done as soon as there are as many
    complete sequences as beams, however probable those are that are not."""

    end: int
    pad: int
    penalty: Value | None
    early: bool

    def weighed(self, b: Builder, scores: Value, length: Value) -> Value:
        """Sums of log-probabilities divided by the length to the power of the penalty."""
        length = b.cast(length, dtype=f32)
        return b.div(scores, length if self.penalty is None else b.pow(length, self.penalty))


class Beams:
    """State: tokens [rows, 1], sequences [rows, most], scores of the rows [batch, beams], which prompts are done
    [batch], and the three parts of Ended. Rows are the beams of the first prompt, then those of the next.
    Where `scored`, steps leave the scores of all words [batch, beams, words] to be stacked."""

    def __init__(
        self, prompt: Value, most: Dim, copies: Dim, rules: Rules, by: Sequence[Processor], scored: bool
    ):
        """copies: beams of each prompt."""
        self.prompt, self.most, self.copies = prompt, most, copies
        self.rules, self.by, self.scored = rules, by, scored

    def first_state(self, builder: Builder, logits: Value) -> tuple[list[Value], Value, list[Value]]:
        b, beams = builder, self.copies
        batch, before = self.prompt.shape
        sequences = sequence_buffer(b, self.prompt, self.most, self.rules.pad)
        later = b.select(b.gt(b.iota(shape=(beams,), axis=0, dtype=i64), 0), b.scalar(LATER, f32), 0.0)
        scores = b.broadcast(later, shape=(batch, beams))
        done = b.broadcast(b.scalar(False, "bool"), shape=(batch,))
        ended = Ended.nothing_yet(b, batch, beams, self.most, self.rules.pad)
        length = size_value(b, before)
        likely = processed(b, b.log_softmax(logits, axis=1), sequences, length, self.by, first=True)
        likely = b.reshape(likely, shape=(batch, 1, likely.shape[1]))
        return self._step(b, likely, (sequences, scores, done, ended), length, rows=1)

    def next_state(
        self, builder: Builder, logits: Value, state: Sequence[Value], length: Value
    ) -> tuple[list[Value], Value, list[Value]]:
        _, sequences, scores, done, *ended = state
        likely = processed(
            builder, builder.log_softmax(logits, axis=1), sequences, length, self.by, first=False
        )
        likely = builder.reshape(likely, shape=(*scores.shape, likely.shape[1]))
        have = (sequences, scores, done, Ended(*ended))
        return self._step(builder, likely, have, length, rows=self.copies)

    def _step(self, b: Builder, likely: Value, have, length: Value, rows: Dim):
        """One token more for each beam, from log-probabilities [batch, rows of a prompt, words]."""
        sequences, scores, done, ended = have
        (batch, beams), words = scores.shape, likely.shape[2]
        total = b.add(likely, b.reshape(scores, shape=(batch, beams, 1)))
        flat = b.reshape(total, shape=(batch, beams * words))
        best, place = b.topk(flat, k=2 * beams, axis=1, largest=True, sorted=True)
        token, beam = b.mod(place, words), b.div(place, words)
        column = b.reshape(b.iota(shape=(batch,), axis=0, dtype=i64), shape=(batch, 1))
        row = (
            b.broadcast(column, shape=beam.shape)
            if rows == 1
            else b.add(beam, b.mul(column, size_value(b, rows)))
        )
        is_end = b.eq(token, self.rules.end)
        ended = self._ended(b, ended, (sequences, best, row, is_end), done, length)
        rank = b.iota(shape=(2 * beams,), axis=0, dtype=i64)
        order = b.select(is_end, b.add(rank, size_value(b, 2 * beams)), rank)
        order = b.topk(order, k=beams, axis=1, largest=False, sorted=True)[1]
        stopped = b.reshape(done, shape=(batch, 1))
        following = b.select(stopped, 0, b.gather_elements(best, order, axis=1))
        chosen = b.select(stopped, self.rules.pad, b.gather_elements(b.cast(token, dtype=i32), order, axis=1))
        origin = b.select(stopped, 0, b.gather_elements(row, order, axis=1))
        origin, tokens = (
            b.reshape(origin, shape=(batch * beams,)),
            b.reshape(chosen, shape=(batch * beams, 1)),
        )
        sequences = appended(b, b.gather(sequences, origin, axis=0), tokens, length)
        later = b.or_(done, self._done(b, ended, best, length))
        state = [tokens, sequences, following, later, ended.tokens, ended.scores, ended.count]
        told = [b.select(b.reshape(done, shape=(batch, 1, 1)), 0, total)] if self.scored else []
        return state, None if beams == 1 else origin, told

    def _ended(self, b: Builder, ended: Ended, candidates, done: Value, length: Value) -> Ended:
        """With those of the best `beams` candidates that end now; candidates: sequences, and scores, rows and
        whether they end [batch, 2 * beams]."""
        sequences, *columns = candidates
        batch, beams = ended.scores.shape
        best, row, is_end = (b.slice(c, starts=(0, 0), steps=(1, 1), shape=(batch, beams)) for c in columns)
        valid = b.and_(is_end, b.not_(b.reshape(done, shape=(batch, 1))))
        return ended.joined(b, b.gather(sequences, row, axis=0), self.rules.weighed(b, best, length), valid)

    def _done(self, b: Builder, ended: Ended, best: Value, length: Value) -> Value:
        """Whether as many sequences have ended as there are beams, and none can become better than the worst."""
        batch, beams = ended.scores.shape
        enough = b.ge(ended.count, size_value(b, beams))
        if self.rules.early:
            return enough
        worst = b.slice(ended.scores, starts=(0, beams - 1), steps=(1, 1), shape=(batch, 1))
        top = b.slice(best, starts=(0, 0), steps=(1, 1), shape=(batch, 1))
        better = b.lt(worst, self.rules.weighed(b, top, length))
        return b.and_(enough, b.not_(b.reshape(better, shape=(batch,))))

    def goes_on(self, builder: Builder, state: Sequence[Value]) -> Value:
        return builder.not_(all_set(builder, state[3]))

    def finished(self, builder: Builder, state: Sequence[Value]) -> Ended:
        """The best sequences, those that did not end among them unless their prompt is done."""
        b = builder
        _, sequences, scores, done, *ended = state
        batch, beams = scores.shape
        tokens = b.reshape(sequences, shape=(batch, beams, self.most))
        valid = b.broadcast(b.not_(b.reshape(done, shape=(batch, 1))), shape=(batch, beams))
        return Ended(*ended).joined(b, tokens, self.rules.weighed(b, scores, size_value(b, self.most)), valid)
