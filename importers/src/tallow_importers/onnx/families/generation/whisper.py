"""Whisper's way of generation: sound in, and text with timestamps out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tallow.builder import Builder
from tallow.dtype import f32, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.generation.logits import LOWEST, Processor, temperature
from tallow_importers.onnx.families.generation.operators import (
    MS,
    end_tokens,
    processors,
    required,
    scalar_operand,
    search_beams,
    start_tokens,
    two_graphs,
)
from tallow_importers.onnx.registry import onnx_op

LATEST_START = 50  # the first timestamp is at most so many steps of time after zero


@dataclass(frozen=True, slots=True)
class Timestamps:
    """The rules of Whisper's timestamps, which are the words from `first` on: they come in pairs, do not decrease,
    and come where all of them together are more likely than any word of text. never: words that are not allowed;
    not_later: those that are not once there is a timestamp that is not the last token; end: of a sequence."""

    first: int
    end: int
    never: tuple[int, ...]
    not_later: tuple[int, ...]

    def applied(self, b: Builder, scores: Value, sequences: Value, length: Value) -> Value:
        """Scores with those of words that the rules forbid at the lowest number."""
        rows, most = sequences.shape
        words = b.iota(shape=(scores.shape[1],), axis=0, dtype=i64)
        place = b.iota(shape=(most,), axis=0, dtype=i64)
        is_time = b.ge(sequences, self.first)
        counted = b.and_(is_time, b.lt(place, length))
        earliest = b.reduce(b.select(counted, place, length), function="min", axes=(1,), keepdims=True)
        latest = b.reduce(b.select(counted, place, -1), function="max", axes=(1,), keepdims=True)
        later = b.lt(b.add(earliest, 1), length)
        ends_in_time = self._at(b, is_time, b.sub(length, 1))
        single = b.and_(later, b.not_(self._at(b, is_time, b.sub(length, 2))))
        time = b.cast(b.gather_elements(sequences, b.max(latest, 0), axis=1), dtype=i64)
        least = b.add(time, b.select(b.and_(ends_in_time, single), b.scalar(0, i64), 1))
        forbidden = [
            self._among(b, words, self.never),
            b.and_(later, self._among(b, words, self.not_later)),
            b.and_(b.and_(ends_in_time, b.not_(single)), b.ge(words, self.first)),
            b.and_(b.and_(ends_in_time, single), b.lt(words, self.end)),
            b.and_(b.and_(b.ge(latest, 0), b.ge(words, self.first)), b.lt(words, least)),
            b.and_(b.not_(later), b.gt(words, self.first + LATEST_START)),
        ]
        for each in forbidden:
            scores = b.select(each, LOWEST, scores)
        return self._preferred(b, scores, b.ge(words, self.first))

    def _preferred(self, b: Builder, scores: Value, is_time: Value) -> Value:
        """Without text, where timestamps together are more likely than any word of it."""
        text = b.reduce(b.select(is_time, -np.inf, scores), function="max", axes=(1,), keepdims=True)
        times = b.select(is_time, scores, -np.inf)
        most = b.reduce(times, function="max", axes=(1,), keepdims=True)
        parts = b.select(b.gt(times, LOWEST), b.exp(b.sub(times, most)), 0.0)
        total = b.reduce(parts, function="add", axes=(1,), keepdims=True)
        together = b.select(b.gt(total, 0), b.add(b.log(total), most), LOWEST)
        return b.select(b.and_(b.gt(together, text), b.not_(is_time)), LOWEST, scores)

    def _at(self, b: Builder, flags: Value, place: Value) -> Value:
        """The flags [rows, most] at a place, the first if there is none, [rows, 1]."""
        return b.reshape(b.gather(flags, b.max(place, 0), axis=1), shape=(flags.shape[0], 1))

    def _among(self, b: Builder, words: Value, which: tuple[int, ...]) -> Value:
        found = b.lt(words, 0)
        for each in which:
            found = b.or_(found, b.eq(words, each))
        return found


@onnx_op("WhisperBeamSearch", domain=MS)
def whisper_beam_search(context: Context, node: NodeView):
    """Beam search of an encoder of sound [batch, features, frames] and a decoder of text."""
    for number, what in ((9, "attention_mask"), (12, "cross_qk_layer_head"), (13, "extra_decoding_ids")):
        if node.input(number) is not None:
            context.unsupported(what)
    if node.attribute("decoder_output_cross_qk", 0) or node.wants(3):
        context.unsupported("the result cross_qk")
    if node.wants(4):
        context.unsupported("the result no_speech_probs")
    if node.attribute("model_type", 2) != 2:
        context.unsupported(f"model_type {node.attribute('model_type')}: expected 2")
    model = two_graphs(context, node, masked=False)
    prompt = start_tokens(context, node) if node.input(10) is None else node.input(10)
    model.begin_with(node.input(0), None, prompt, end_tokens(context, node)[1])
    (most,) = context.require_dims(node.input(1), "max_length")
    by = processors(context, node, least=2, penalty=6, masks=(7, 8))
    by += [*_heat(context, node), *_timestamps(context, node)]
    return search_beams(context, node, model, most, by)


def _heat(context: Context, node: NodeView) -> list[Processor]:
    if node.input(14) is None:
        return []
    b, value = context.builder, scalar_operand(context, node.input(14), f32)
    return [temperature(b.select(b.gt(value, 0), value, 1.0))]


def _timestamps(context: Context, node: NodeView) -> list[Processor]:
    """The rules of timestamps, where the operand logits_processor is 1."""
    if node.input(11) is None:
        return []
    b = context.builder
    names = ("start_of_lm", "no_timestamps", "translate", "transcribe", "beginning_timestamp")
    silent, untimed, *tasks, first = (node.attribute(f"{name}_token_id", -1) for name in names)
    start, end = node.attribute("decoder_start_token_id", -1), end_tokens(context, node)[0]
    kind = scalar_operand(context, node.input(11), i64)
    sound = b.or_(b.ne(kind, 1), b.gt(b.scalar(first, i64), 0))
    kind = required(context, sound, kind, "beginning_timestamp_token_id must be more than 0 for timestamps")
    rules = Timestamps(first, end, (silent, untimed), (start, *tasks))

    def apply(builder: Builder, scores: Value, sequences: Value, length: Value) -> Value:
        timed = rules.applied(builder, scores, sequences, length)
        return builder.select(builder.eq(kind, 1), timed, scores)

    return [Processor(apply)]
