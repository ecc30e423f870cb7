"""Sampling: tokens drawn by their probability among the likely ones.

Draws are those of onnxruntime on Linux, whose C++ library counts by `minstd_rand0`: x' = 16807 x mod 2^31 - 1. Each draw
takes two numbers of it, those of a batch one prompt after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tallow.builder import Builder
from tallow.dim import Dim
from tallow.dtype import f64, i64
from tallow.graph import Value
from tallow_importers.onnx.families.generation.logits import Processor
from tallow_importers.onnx.families.generation.search import Greedy

FACTOR, MODULUS = 16807, (1 << 31) - 1
SPAN = float(MODULUS - 1)  # how many numbers there are


@dataclass(frozen=True, slots=True)
class Nucleus:
    """Which tokens may be drawn: the fewest most likely ones whose probabilities make up `share`, at least `keep`.
    descending: as onnxruntime's own way of sampling counts, which sums from the most likely and knows no `keep`.
    Others get the score `rest`."""

    share: float
    keep: int
    rest: float
    descending: bool

    def filtered(self, b: Builder, scores: Value) -> Value:
        """The scores [rows, words] with those of other tokens replaced."""
        words = scores.shape[1]
        ordered, places = b.topk(scores, k=words, axis=1, largest=self.descending, sorted=True)
        likely = b.softmax(ordered, axis=1)
        sums = b.cumulative(likely, axis=1, function="add", exclusive=self.descending, reverse=False)
        rank = b.iota(shape=(words,), axis=0, dtype=i64)
        if self.descending:
            dropped = b.and_(b.gt(sums, self.share), b.gt(rank, 0))
        else:
            least = float(np.float32(1) - np.float32(self.share))
            dropped = b.and_(b.le(sums, least), b.lt(rank, max(words - self.keep, 1)))
        return b.scatter_elements(
            scores, places, b.select(dropped, self.rest, ordered), axis=1, reduction="none"
        )


class Sampling(Greedy):
    """As Greedy, a token drawn among those of `nucleus`; its state ends with the number that was drawn last."""

    def __init__(
        self,
        prompt: Value,
        most: Dim,
        ends: tuple[int, int],
        by: Sequence[Processor],
        nucleus: Nucleus,
        seed: Value,
    ):
        """seed: an i64 scalar of 0 or more."""
        super().__init__(prompt, most, ends, by)
        self.nucleus, self.seed = nucleus, seed

    def begun(self, builder: Builder) -> list[Value]:
        b, batch = builder, self.prompt.shape[0]
        self.steps = _powers(b, 2 * batch)
        start = b.mod(self.seed, MODULUS)
        return [b.select(b.eq(start, 0), 1, start)]

    def chosen(self, builder: Builder, scores: Value, more: list[Value]) -> tuple[Value, list[Value]]:
        b, (rows, words) = builder, scores.shape
        numbers = b.mod(b.mul(self.steps, more[0]), MODULUS)
        drawn = _uniform(b, b.reshape(numbers, shape=(rows, 2)))
        weights = _odds(b, self.nucleus.filtered(b, scores))
        sums = b.cumulative(weights, axis=1, function="add", exclusive=False, reverse=False)
        total = b.slice(sums, starts=(0, words - 1), steps=(1, 1), shape=(rows, 1))
        below = b.cast(b.le(sums, b.mul(drawn, total)), dtype=i64)
        token = b.reduce(below, function="add", axes=(1,), keepdims=False)
        last = b.slice(numbers, starts=(2 * rows - 1,), steps=(1,), shape=(1,))
        return b.min(token, words - 1), [b.reshape(last, shape=())]


def _powers(b: Builder, count: Dim) -> Value:
    """FACTOR to the power of 1 to `count`, modulo MODULUS."""
    exponent = b.add(b.iota(shape=(count,), axis=0, dtype=i64), 1)
    result, factor = b.broadcast(b.scalar(1, i64), shape=(count,)), FACTOR
    for bit in range(31):
        odd = b.eq(b.bit_and(b.shift_right(exponent, bit), 1), 1)
        result = b.select(odd, b.mod(b.mul(result, factor), MODULUS), result)
        factor = factor * factor % MODULUS
    return result


def _uniform(b: Builder, numbers: Value) -> Value:
    """Draws in 0..1 [rows, 1] of pairs of numbers [rows, 2], the first the lower digit."""
    rows = numbers.shape[0]
    digits = b.cast(b.sub(numbers, 1), dtype=f64)
    low, high = (b.slice(digits, starts=(0, n), steps=(1, 1), shape=(rows, 1)) for n in (0, 1))
    return b.min(b.div(b.add(low, b.mul(high, SPAN)), SPAN * SPAN), float(np.nextafter(1.0, 0.0)))


def _odds(b: Builder, scores: Value) -> Value:
    """Probabilities up to a factor, in f64; what is not finite has none."""
    finite = b.not_(b.or_(b.isinf(scores), b.isnan(scores)))
    most = b.reduce(
        b.select(finite, scores, float(np.finfo(np.float32).min)), function="max", axes=(1,), keepdims=True
    )
    wide = b.sub(b.cast(scores, dtype=f64), b.cast(most, dtype=f64))
    return b.select(finite, b.exp(wide), 0.0)
