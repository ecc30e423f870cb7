"""Generation of text as one operator of com.microsoft: a decoder's first step, then a loop of all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tallow.dim import Dim
from tallow.dtype import bool_, f32, i32, i64
from tallow.errors import GraphError
from tallow.graph import Graph, TensorType, Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.control import emit_if
from tallow_importers.onnx.families.generation.beams import Beams, Rules
from tallow_importers.onnx.families.generation.logits import (
    Processor,
    least_length,
    no_repeat,
    presence,
    repetition,
    temperature,
    vocabulary,
)
from tallow_importers.onnx.families.generation.models import Decoder, EncoderDecoder, Gpt, grown
from tallow_importers.onnx.families.generation.sampling import Nucleus, Sampling
from tallow_importers.onnx.families.generation.search import Greedy
from tallow_importers.onnx.known import KnownBuilder
from tallow_importers.onnx.registry import onnx_op

MS = "com.microsoft"


class Search(Protocol):
    """Chooses tokens. Its state is a list of values, the first two the tokens just chosen [rows, 1] and the
    sequences [rows, most]; `copies` rows belong to each prompt."""

    copies: Dim

    def first_state(
        self, builder: KnownBuilder, logits: Value
    ) -> tuple[list[Value], Value | None, list[Value]]:
        """The state after the first token, which row of the prompts each row goes on from (None: its own), and
        what the step leaves to be stacked."""
        ...

    def next_state(
        self, builder: KnownBuilder, logits: Value, state: Sequence[Value], length: Value
    ) -> tuple[list[Value], Value | None, list[Value]]:
        """As `first_state`, of one more token behind `length` others; rows go on from rows."""
        ...

    def goes_on(self, builder: KnownBuilder, state: Sequence[Value]) -> Value:
        """Whether any sequence has not ended."""
        ...


def generate(
    context: Context, model: Decoder, search: Search, most: Dim, conditions: Sequence[tuple[Value, str]] = ()
) -> tuple[list[Value], list[Value]]:
    """The search's state once every sequence has ended or has `most` tokens, and what its steps stacked, zero
    for steps that were not needed. conditions: what must hold for a run, and what it says otherwise."""
    b, before = context.builder, model.prompt.shape[1]
    room = b.gt(context.size(most), context.size(before))
    message = f"max_length must be more than the {before} tokens that each sequence begins with"
    trips = context.size(most - before - 1)
    for holds, told in (*conditions, (room, message)):
        trips = required(context, holds, trips, told)
    logits, caches = model.first_logits()
    state, origin, rows = search.first_state(b, logits)
    model.repeat_rows(search.copies)
    caches = _picked(b, caches, origin, model.rows)
    body = _next_region(context, model, search, state, caches)
    past, made = b.fresh_symbol("past"), b.fresh_symbol("steps")
    scans = [TensorType(row.dtype, (made, *row.shape)) for row in rows]
    types = (*(v.type for v in state), *grown(caches, model.time, past), *scans)
    defines = (str(past), *[str(made)] * bool(rows))
    going = search.goes_on(b, state)
    results = b.emit("loop", trips, going, *state, *caches, body=body, types=types, defines=defines)
    stacks = results[len(results) - len(rows) :]
    left = most - before - 1 - made
    return list(results[: len(state)]), [_stacked(b, *pair, left) for pair in zip(rows, stacks, strict=True)]


def _next_region(context: Context, model: Decoder, search: Search, state: Sequence[Value], caches) -> Graph:
    """The region of one step of the loop."""
    builder = context.builder.region("next_token")
    past = builder.fresh_symbol("past")
    counter = Value(builder.unique("step"), TensorType(i64, ()))
    going = Value(builder.unique("going"), TensorType(bool_, ()))
    types = [*(v.type for v in state), *grown(caches, model.time, past)]
    carried = [Value(builder.unique("carried"), type_) for type_ in types]
    builder.inputs += [counter, going, *carried]
    have, caches = carried[: len(state)], carried[len(state) :]
    length = builder.add(counter, context.inside(builder).size(model.prompt.shape[1] + 1))
    logits, caches = model.next_logits(builder, have[0], have[1], past, caches)
    after, origin, rows = search.next_state(builder, logits, have, length)
    caches = _picked(builder, caches, origin, model.rows)
    return builder.finish([search.goes_on(builder, after), *after, *caches, *rows])


def _stacked(builder: KnownBuilder, first: Value, others: Value, left: Dim) -> Value:
    """The row of the first step, those of the loop, and zeros for `left` more."""
    row = builder.reshape(first, shape=(1, *first.shape))
    rest = builder.broadcast(builder.scalar(0, first.dtype), shape=(left, *first.shape))
    return builder.concat(row, others, rest, axis=0)


def _picked(builder: KnownBuilder, caches: Sequence[Value], origin: Value | None, axis: int) -> list[Value]:
    return list(caches) if origin is None else [builder.gather(c, origin, axis=axis) for c in caches]


def required(context: Context, holds: Value, value: Value, message: str) -> Value:
    """The value where a condition holds; GraphError, or a refusal of the run, with that message if not."""
    known = context.array(holds)
    if known is not None:
        if not bool(known):
            raise GraphError(f"{message} ({context.builder.location})")
        return value
    yes, no = context.builder.region("fits"), context.builder.region("refused")
    message = f"{message} ({context.builder.location})"
    failed = no.emit("fail", types=(value.type,), message=message)
    (result,) = emit_if(context, holds, yes.finish([value]), no.finish([failed]))
    return result


def scalar_operand(context: Context, value: Value, dtype) -> Value:
    """An operand of one element as a scalar of a dtype."""
    b = context.builder
    return b.cast(b.reshape(value, shape=()), dtype=dtype)


def needed(context: Context, node: NodeView, name: str):
    """An attribute that must be there."""
    value = node.attribute(name)
    if value is None:
        context.unsupported(lacking(name))
    return value


def lacking(name: str) -> str:
    """What is said of a node without that attribute."""
    return f"no attribute {name}, which a model of this type needs"


def end_tokens(context: Context, node: NodeView) -> tuple[int, int]:
    """The tokens that end a sequence and fill it up."""
    return needed(context, node, "eos_token_id"), needed(context, node, "pad_token_id")


def processors(
    context: Context, node: NodeView, least: int, penalty: int, masks: tuple[int, int]
) -> list[Processor]:
    """What the operands of these numbers (least length, penalty of repetition, masks of the vocabulary for all
    steps and for the first) and the attributes ask for, in onnxruntime's order."""
    made = []
    if node.input(penalty) is not None:
        value = scalar_operand(context, node.input(penalty), f32)
        b = context.builder
        message = "repetition_penalty must be greater than 0"
        made.append(repetition(required(context, b.gt(value, 0), value, message)))
    if width := node.attribute("no_repeat_ngram_size", 0):
        made.append(no_repeat(width))
    if node.input(masks[0]) is not None:
        made.append(vocabulary(node.input(masks[0])))
    if node.input(masks[1]) is not None:
        made.append(vocabulary(node.input(masks[1]), only_first=True))
    if node.input(least) is not None:
        made.append(
            least_length(scalar_operand(context, node.input(least), i64), end_tokens(context, node)[0])
        )
    return made


def gpt(context: Context, node: NodeView, mask: int) -> Gpt:
    """The decoder of a node, with the prompt that it begins with and the mask that operand `mask` may be."""
    first, words = node.attribute("init_decoder"), node.attribute("vocab_size", -1)
    model = Gpt(context, needed(context, node, "decoder"), first, words)
    model.begin_with(node.input(0), node.input(mask), end_tokens(context, node)[1])
    return model


@onnx_op("NGramRepeatBlock", domain=MS)
def ngram_repeat_block(context: Context, node: NodeView) -> Value:
    """Scores of minus infinity for tokens that would make some tokens follow each other as they did before."""
    ids, scores = node.inputs
    width = node.attribute("ngram_size")
    if width < 1:
        context.unsupported(f"ngram_size {width}: expected 1 or more")
    b, (rows, length) = context.builder, ids.shape
    room = b.broadcast(b.scalar(0, ids.dtype), shape=(rows, 1))  # sequences of no tokens have places too
    return no_repeat(width, -np.inf).apply(b, scores, b.concat(ids, room, axis=1), context.size(length))


@onnx_op("GreedySearch", domain=MS)
def greedy_search(context: Context, node: NodeView) -> Value:
    """The most likely token at each step."""
    if node.attribute("model_type", 0) != 0:
        context.unsupported(
            f"model_type {node.attribute('model_type')}: greedy search is of decoders alone (0)"
        )
    (most,) = context.require_dims(node.input(1), "max_length")
    model = gpt(context, node, 6)
    by = processors(context, node, least=2, penalty=3, masks=(4, 5))
    state, _ = generate(context, model, Greedy(model.prompt, most, end_tokens(context, node), by), most)
    return state[1]


@onnx_op("Sampling", domain=MS)
def sampling(context: Context, node: NodeView) -> Value:
    """A token drawn by its probability at each step; without a seed, with that of 0."""
    if node.attribute("model_type", 0) != 0:
        context.unsupported(f"model_type {node.attribute('model_type')}: sampling is of decoders alone (0)")
    if node.wants(1):
        context.unsupported("the result filtered_logits")
    b = context.builder
    (most,) = context.require_dims(node.input(1), "max_length")
    model = gpt(context, node, 6)
    by = processors(context, node, least=2, penalty=3, masks=(4, 5))
    heat, penalty = node.attribute("temperature", 1.0), node.attribute("presence_penalty", 0.0)
    by += [temperature(heat)] if heat > 0 else []
    by += [presence(node.input(7), penalty)] if node.input(7) is not None else []
    seed = b.scalar(0, i64) if node.input(8) is None else scalar_operand(context, node.input(8), i64)
    seed = required(context, b.ge(seed, 0), seed, "seed must be 0 or more")
    nucleus = Nucleus(
        share=node.attribute("top_p", 0.0),
        keep=node.attribute("min_tokens_to_keep", 0),
        rest=node.attribute("filter_value", -1e20),
        descending=bool(node.attribute("custom", 0)),
    )
    search = Sampling(model.prompt, most, end_tokens(context, node), by, nucleus, seed)
    state, _ = generate(context, model, search, most)
    return state[1]


@onnx_op("BeamSearch", domain=MS)
def beam_search(context: Context, node: NodeView):
    """The sequences of highest probability among `num_beams` that are followed."""
    for number, what in ((10, "decoder_input_ids"), (11, "a logits_processor")):
        if node.input(number) is not None:
            context.unsupported(what)
    kind = node.attribute("model_type", 0)
    if kind not in (0, 1):
        context.unsupported(f"model_type {kind}: expected 0 (a decoder alone) or 1 (with an encoder)")
    model = encoder_decoder(context, node, 9) if kind else gpt(context, node, 9)
    (most,) = context.require_dims(node.input(1), "max_length")
    by = processors(context, node, least=2, penalty=6, masks=(7, 8))
    return search_beams(context, node, model, most, by)


def search_beams(context: Context, node: NodeView, model: Decoder, most: Dim, by: list[Processor]):
    """The results of a beam search whose operands 3 to 5 are the numbers of beams and of sequences that are
    wanted, and the penalty of lengths."""
    b = context.builder
    (beams,) = context.require_dims(node.input(3), "num_beams")
    (wanted,) = (1,) if node.input(4) is None else context.require_dims(node.input(4), "num_return_sequences")
    penalty = None if node.input(5) is None else scalar_operand(context, node.input(5), f32)
    rules = Rules(*end_tokens(context, node), penalty, bool(node.attribute("early_stopping", 0)))
    search = Beams(model.prompt, most, beams, rules, by, scored=node.wants(2))
    fits = b.and_(b.le(context.size(wanted), context.size(beams)), b.ge(context.size(wanted), 1))
    conditions = [(fits, "num_return_sequences must be 1 to num_beams")]
    state, scores = generate(context, model, search, most, conditions)
    ended = search.finished(b, state)
    batch, _, length = ended.tokens.shape
    tokens = b.slice(ended.tokens, starts=(0, 0, 0), steps=(1, 1, 1), shape=(batch, wanted, length))
    best = b.slice(ended.scores, starts=(0, 0), steps=(1, 1), shape=(batch, wanted))
    given = [node.input(number) for number in (5, 6) if node.input(number) is not None]
    dtype = given[0].dtype if given else f32
    return tokens, *(b.cast(value, dtype=dtype) for value in (best, *scores))


def encoder_decoder(context: Context, node: NodeView, mask: int) -> EncoderDecoder:
    """As `gpt`, of an encoder and a decoder like T5's."""
    model = two_graphs(context, node, masked=True)
    prompt = start_tokens(context, node)
    model.begin_with(node.input(0), node.input(mask), prompt, end_tokens(context, node)[1])
    return model


def two_graphs(context: Context, node: NodeView, masked: bool) -> EncoderDecoder:
    """A node's encoder and decoder."""
    graphs = needed(context, node, "encoder"), needed(context, node, "decoder")
    return EncoderDecoder(context, *graphs, node.attribute("vocab_size", -1), masked)


def start_tokens(context: Context, node: NodeView) -> Value:
    """The token that a decoder begins with, for each entry of the batch [batch, 1]."""
    start = node.attribute("decoder_start_token_id", -1)
    if start < 0:
        context.unsupported(lacking("decoder_start_token_id"))
    return context.builder.broadcast(context.builder.scalar(start, i32), shape=(node.input(0).shape[0], 1))
