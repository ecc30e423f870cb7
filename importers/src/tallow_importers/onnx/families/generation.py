"""Generation of text as one operator of com.microsoft: a decoder's first step, then a loop of all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tallow.dim import Dim
from tallow.dtype import bool_, f32, i64
from tallow.errors import GraphError
from tallow.graph import TensorType, Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.control import emit_if
from tallow_importers.onnx.families.generation_logits import (
    Processor,
    least_length,
    no_repeat,
    repetition,
    vocabulary,
)
from tallow_importers.onnx.families.generation_models import Decoder, Gpt, grown
from tallow_importers.onnx.families.generation_search import Greedy
from tallow_importers.onnx.known import KnownBuilder
from tallow_importers.onnx.registry import onnx_op

MS = "com.microsoft"


class Search(Protocol):
    """Chooses tokens. Its state is a list of values of which the first are the tokens [rows, 1] just chosen."""

    def first(self, builder: KnownBuilder, logits: Value) -> tuple[list[Value], Value | None]:
        """The state after the first token, and which row of the prompts each row goes on from (None: its own)."""
        ...

    def step(
        self, builder: KnownBuilder, logits: Value, state: Sequence[Value], length: Value
    ) -> tuple[list[Value], Value | None]:
        """The state after one more token behind `length` others, and which row each row goes on from."""
        ...

    def going(self, builder: KnownBuilder, state: Sequence[Value]) -> Value:
        """Whether any sequence has not ended."""
        ...


def generate(context: Context, model: Decoder, search: Search, most: Dim) -> list[Value]:
    """The search's state once every sequence has ended or has `most` tokens."""
    b, before = context.builder, model.prompt.shape[1]
    logits, caches = model.start()
    state, origin = search.first(b, logits)
    model.spread(search.copies)
    caches = _picked(b, caches, origin, model.rows)
    trips = _steps(context, most, before)
    inner = b.region("next_token")
    past = inner.fresh_symbol("past")
    counter, going = (
        Value(b.unique("step"), TensorType(i64, ())),
        Value(b.unique("going"), TensorType(bool_, ())),
    )
    types = [*(v.type for v in state), *grown(caches, model.time, past)]
    carried = [Value(b.unique("carried"), type_) for type_ in types]
    inner.inputs += [counter, going, *carried]
    have, kept = carried[: len(state)], carried[len(state) :]
    length = inner.add(counter, context.inside(inner).size(before + 1))
    logits, kept = model.next(inner, have[0], past, kept)
    after, origin = search.step(inner, logits, have, length)
    kept = _picked(inner, kept, origin, model.rows)
    body = inner.finish([search.going(inner, after), *after, *kept])
    final = b.fresh_symbol("past")
    finals = [*(v.type for v in state), *grown(caches, model.time, final)]
    results = b.emit(
        "loop",
        trips,
        search.going(b, state),
        *state,
        *caches,
        body=body,
        types=tuple(finals),
        defines=(str(final),),
    )
    return list(results[: len(state)])


def _picked(builder: KnownBuilder, caches: Sequence[Value], origin: Value | None, axis: int) -> list[Value]:
    return list(caches) if origin is None else [builder.gather(c, origin, axis=axis) for c in caches]


def _steps(context: Context, most: Dim, before: Dim) -> Value:
    """How many tokens are to follow the first; a run with prompts that leave no room for one refuses."""
    return required(
        context,
        context.builder.gt(context.size(most), context.size(before)),
        context.size(most - before - 1),
        f"max_length must be more than the {before} tokens that each sequence begins with",
    )


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


def scalar(context: Context, value: Value, dtype) -> Value:
    """An operand of one element as a scalar of a dtype."""
    b = context.builder
    return b.cast(b.reshape(value, shape=()), dtype=dtype)


def processors(
    context: Context, node: NodeView, least: int, penalty: int, masks: tuple[int, int], ngrams: bool = True
) -> list[Processor]:
    """What the operands of these numbers (least length, penalty of repetition, masks of the vocabulary for all
    steps and for the first) and the attributes ask for, in onnxruntime's order."""
    made = []
    if node.input(penalty) is not None:
        value = scalar(context, node.input(penalty), f32)
        b = context.builder
        message = "repetition_penalty must be greater than 0"
        made.append(repetition(required(context, b.gt(value, 0), value, message)))
    if size := node.attribute("no_repeat_ngram_size", 0) if ngrams else 0:
        made.append(no_repeat(size))
    if node.input(masks[0]) is not None:
        made.append(vocabulary(node.input(masks[0])))
    if node.input(masks[1]) is not None:
        made.append(vocabulary(node.input(masks[1]), only_first=True))
    if node.input(least) is not None:
        made.append(least_length(scalar(context, node.input(least), i64), node.attribute("eos_token_id")))
    return made


def gpt(context: Context, node: NodeView, mask: int) -> Gpt:
    """The decoder of a node, with the prompt that it begins with and the mask that operand `mask` may be."""
    decoder = node.attribute("decoder")
    words = node.attribute("vocab_size", -1)
    model = Gpt(context, decoder, node.attribute("init_decoder"), words)
    model.begin(node.input(0), node.input(mask), node.attribute("pad_token_id"))
    return model


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
    ends = node.attribute("eos_token_id"), node.attribute("pad_token_id")
    return generate(context, model, Greedy(model.prompt, most, ends, by), most)[1]
