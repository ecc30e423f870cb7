"""Decoders of generation operators: what their subgraphs take and give, as onnxruntime's exporters write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import onnx

from tallow.builder import Builder
from tallow.dim import Dim
from tallow.dtype import DType, f32, i32
from tallow.graph import TensorType, Value
from tallow_importers.onnx.context import Context, Unsupported
from tallow_importers.onnx.known import KnownBuilder
from tallow_importers.onnx.tensors import dtype_of


class Decoder(Protocol):
    """Gives the logits [rows, words] of the next token, and its state: caches that grow by one along
    `time` with each token, and whose axis `rows` are the sequences."""

    rows: int
    time: int
    prompt: Value  # [batch, tokens], i32: what sequences begin with

    def first_logits(self) -> tuple[Value, list[Value]]:
        """Of the prompts, a row each."""
        ...

    def repeat_rows(self, copies: Dim) -> None:
        """From now on each prompt has so many rows."""
        ...

    def next_logits(
        self, builder: KnownBuilder, tokens: Value, sequences: Value, past: Dim, caches: Sequence[Value]
    ) -> tuple[Value, list[Value]]:
        """Of one more token in each row [rows, 1], the last of the sequences [rows, most], after `past` tokens
        that the caches know."""
        ...


class Subgraph:
    """A subgraph whose nodes are written wherever it is called, and its weights once, where it is made."""

    def __init__(self, context: Context, proto: onnx.GraphProto):
        self.proto = onnx.GraphProto(name=proto.name, node=proto.node, output=proto.output)
        self.around = context.inside(context.builder)
        context.importer.initializers(self.around, proto)
        self.inputs = tuple(i.name for i in proto.input)
        self.outputs = tuple(o.name for o in proto.output)

    def __call__(self, builder: KnownBuilder, values: Sequence[Value]) -> tuple[Value, ...]:
        """Its results for these values of its inputs."""
        given = dict(zip(self.inputs, values, strict=True))
        results = self.around.inside(builder).inline(self.proto, given)
        if any(value is None for value in results):
            raise Unsupported("a subgraph with unsupported nodes")
        return results


def check_names(what: str, have: Sequence[str], wanted: Sequence[str]) -> None:
    """Unsupported unless inputs or outputs of a subgraph have the names of its contract, in their order."""
    if list(have) != list(wanted):
        raise Unsupported(f"{what} named {', '.join(have) or 'nothing'}: expected {', '.join(wanted)}")


def cache_type(proto: onnx.GraphProto, name: str, rank: int) -> tuple[DType, int, int]:
    """Element type, heads and width of a head of the cache that a subgraph takes under a name."""
    found = [i.type.tensor_type for i in proto.input if i.name == name]
    if not found:
        raise Unsupported(f"a decoder without {name}: expected a cache for each layer")
    tensor = found[0]
    shape = [d.dim_value for d in tensor.shape.dim]
    if len(shape) != rank or shape[rank - 3] <= 0 or shape[rank - 1] <= 0:
        raise Unsupported(
            f"{name} of shape {shape}: expected rank {rank} with numbers for heads and their width"
        )
    return dtype_of(tensor.elem_type, name), shape[rank - 3], shape[rank - 1]


def last_logits(builder: Builder, logits: Value, words: int) -> Value:
    """The logits of the last token [rows, words] as f32; those beyond `words`, where it is not -1, are padding
    of the weights."""
    rows, length, have = logits.shape
    words = have if words <= 0 else words
    if not isinstance(words, int) or (isinstance(have, int) and words > have):
        raise Unsupported(
            f"logits {logits.type} of a vocabulary of {words}: expected a number of words in them"
        )
    one = builder.slice(logits, starts=(0, length - 1, 0), steps=(1, 1, 1), shape=(rows, 1, words))
    one = builder.reshape(one, shape=(rows, words))
    return one if one.dtype == f32 else builder.cast(one, dtype=f32)


class Gpt:
    """A decoder like GPT-2: input_ids, position_ids, attention_mask, past_0 ... -> logits, present_0 ...,
    keys and values [2, rows, heads, tokens, width] in one cache for each layer."""

    rows, time = 1, 3

    def __init__(self, context: Context, decoder: onnx.GraphProto, first: onnx.GraphProto | None, words: int):
        self.context, self.words = context, words
        self.decoder = Subgraph(context, decoder)
        self.first = self.decoder if first is None else Subgraph(context, first)
        for each in {id(s): s for s in (self.decoder, self.first)}.values():
            self._check(each)
        self.cache = cache_type(decoder, "past_0", 5)

    def _check(self, graph: Subgraph) -> None:
        layers = range(len(graph.outputs) - 1)
        if len(graph.inputs) > 3 + len(layers):
            raise Unsupported(memory_shared(graph.inputs[3 + len(layers) :]))
        wanted = ["input_ids", "position_ids", "attention_mask", *(f"past_{n}" for n in layers)]
        check_names("a decoder with inputs", graph.inputs, wanted)
        check_names("a decoder with results", graph.outputs, ["logits", *(f"present_{n}" for n in layers)])

    def begin_with(self, prompt: Value, mask: Value | None, pad: int) -> None:
        """The prompts [batch, tokens] to go on with. Tokens `pad` are not attended to, unless a mask says
        otherwise, and do not count as positions."""
        b = self.context.builder
        is_word = b.ne(prompt, pad)
        counted = b.cast(is_word, dtype=i32)
        before = b.cumulative(counted, axis=1, function="add", exclusive=True, reverse=False)
        self.prompt, self.mask = prompt, counted if mask is None else mask
        self.positions = b.select(is_word, before, 0)
        self.lengths = b.reduce(counted, function="add", axes=(1,), keepdims=True)

    def first_logits(self) -> tuple[Value, list[Value]]:
        b = self.context.builder
        dtype, heads, width = self.cache
        empty = b.broadcast(b.scalar(0, dtype), shape=(2, self.prompt.shape[0], heads, 0, width))
        pasts = [empty] * (len(self.first.inputs) - 3)
        logits, *caches = self.first(b, [self.prompt, self.positions, self.mask, *pasts])
        return last_logits(b, logits, self.words), caches

    def repeat_rows(self, copies: Dim) -> None:
        b = self.context.builder
        self.mask, self.lengths = (repeated(b, value, copies) for value in (self.mask, self.lengths))

    def next_logits(
        self, builder: KnownBuilder, tokens: Value, sequences: Value, past: Dim, caches: Sequence[Value]
    ) -> tuple[Value, list[Value]]:
        rows, before = self.mask.shape
        made = self.context.inside(builder).size(past - before, i32)
        ones = builder.broadcast(builder.scalar(1, i32), shape=(rows, past + 1 - before))
        mask = builder.concat(self.mask, ones, axis=1)
        logits, *caches = self.decoder(builder, [tokens, builder.add(self.lengths, made), mask, *caches])
        return last_logits(builder, logits, self.words), caches


class EncoderDecoder:
    """An encoder and a decoder with two caches [rows, heads, tokens, width] for each layer: keys and values of the
    decoder's own tokens, which grow, and those of what the encoder read, which do not.

    Like T5's (`masked`), the decoder is input_ids, encoder_attention_mask, past_key_self_0, past_value_self_0 ...,
    past_key_cross_0 ... -> logits, present_key_self_0 ..., and the encoder encoder_input_ids,
    encoder_attention_mask -> present_key_cross_0 ... In an older form, and like Whisper's, which has no masks, the
    encoder takes decoder_input_ids as well and gives what the decoder makes of them, and encoder_hidden_states,
    which the decoder may take: logits, encoder_hidden_states, present_key_self_0 ..., present_key_cross_0 ...
    """

    rows, time = 0, 2

    def __init__(
        self, context: Context, encoder: onnx.GraphProto, decoder: onnx.GraphProto, words: int, masked: bool
    ):
        self.context, self.words, self.masked = context, words, masked
        self.encoder, self.decoder = Subgraph(context, encoder), Subgraph(context, decoder)
        self.layers = (len(self.decoder.outputs) - 1) // 2
        self._check_decoder()
        self._check_encoder()
        self.cache = cache_type(decoder, "past_key_self_0", 4)
        steps = decoder.input[0].type.tensor_type.shape.dim
        self.takes_one = len(steps) == 2 and steps[1].dim_value == 1

    def _names(self, time: str, part: str) -> list[str]:
        return [f"{time}_{what}_{part}_{n}" for n in range(self.layers) for what in ("key", "value")]

    def _check_decoder(self) -> None:
        have, first = self.decoder.inputs, 1 + self.masked
        self.takes_hidden = have[first : first + 1] == ("encoder_hidden_states",)
        hidden, masks = (
            ["encoder_hidden_states"] * self.takes_hidden,
            ["encoder_attention_mask"] * self.masked,
        )
        wanted = ["input_ids", *masks, *hidden, *self._names("past", "self"), *self._names("past", "cross")]
        if len(have) > len(wanted):
            raise Unsupported(memory_shared(have[len(wanted) :]))
        check_names("a decoder with inputs", have, wanted)
        check_names(
            "a decoder with results", self.decoder.outputs, ["logits", *self._names("present", "self")]
        )

    def _check_encoder(self) -> None:
        results = self._names("present", "cross")
        self.starts = not self.masked or len(self.encoder.inputs) == 3
        if self.starts:
            results = ["logits", "encoder_hidden_states", *self._names("present", "self"), *results]
        elif self.takes_hidden:
            raise Unsupported("a decoder that takes encoder_hidden_states, which its encoder does not give")
        masks = ["encoder_attention_mask"] * self.masked
        wanted = ["encoder_input_ids", *masks, *["decoder_input_ids"] * self.starts]
        check_names("an encoder with inputs", self.encoder.inputs, wanted)
        check_names("an encoder with results", self.encoder.outputs, results)

    def begin_with(self, read: Value, mask: Value | None, prompt: Value, pad: int) -> None:
        """What the encoder reads [batch, length], padding in front of it not attended to unless a mask says
        otherwise, and what the decoder begins with [batch, tokens]."""
        b = self.context.builder
        if mask is None and self.masked:
            words = b.cast(b.ne(read, pad), dtype=i32)
            seen = b.cumulative(words, axis=1, function="add", exclusive=False, reverse=False)
            mask = b.cast(b.gt(seen, 0), dtype=i32)
        self.read, self.prompt, self.masks, self.hidden = read, prompt, [mask] * self.masked, []

    def first_logits(self) -> tuple[Value, list[Value]]:
        b, width = self.context.builder, 2 * self.layers
        results = self.encoder(b, [self.read, *self.masks, *[self.prompt] * self.starts])
        self.cross = list(results[-width:])
        if self.starts:
            logits, hidden, *caches = results[:-width]
            self.hidden = [hidden] * self.takes_hidden
            return last_logits(b, logits, self.words), caches
        dtype, heads, each = self.cache
        empty = b.broadcast(b.scalar(0, dtype), shape=(self.read.shape[0], heads, 0, each))
        logits, *caches = self.decoder(b, [self.prompt, *self.masks, *[empty] * width, *self.cross])
        return last_logits(b, logits, self.words), caches

    def repeat_rows(self, copies: Dim) -> None:
        b = self.context.builder
        self.masks, self.hidden, self.cross = (
            [repeated(b, value, copies) for value in values]
            for values in (self.masks, self.hidden, self.cross)
        )

    def next_logits(
        self, builder: KnownBuilder, tokens: Value, sequences: Value, past: Dim, caches: Sequence[Value]
    ) -> tuple[Value, list[Value]]:
        if not self.takes_one:
            shape = (sequences.shape[0], past + 1)
            tokens = builder.slice(sequences, starts=(0, 0), steps=(1, 1), shape=shape)
        given = [tokens, *self.masks, *self.hidden, *caches, *self.cross]
        logits, *caches = self.decoder(builder, given)
        return last_logits(builder, logits, self.words), caches


def memory_shared(inputs: Sequence[str]) -> str:
    """Why a decoder with more inputs than its contract names is refused."""
    return f"a decoder whose past and present share memory (inputs {', '.join(inputs)})"


def repeated(builder: Builder, value: Value, copies: Dim) -> Value:
    """Each entry of the first axis so many times in a row."""
    if copies == 1:
        return value
    batch, *rest = value.shape
    wide = builder.broadcast(builder.reshape(value, shape=(batch, 1, *rest)), shape=(batch, copies, *rest))
    return builder.reshape(wide, shape=(batch * copies, *rest))


def grown(caches: Sequence[Value], time: int, length: Dim) -> list[TensorType]:
    """The types of caches that hold `length` tokens."""
    shapes = [(*c.shape[:time], length, *c.shape[time + 1 :]) for c in caches]
    return [TensorType(c.dtype, shape) for c, shape in zip(caches, shapes, strict=True)]
