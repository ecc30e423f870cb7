"""Generation of text in one operator against onnxruntime, on tiny random models."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
from generation_models import HEADS, VOCABULARY, gpt, model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import tallow
from tallow.errors import ImportFailed, InputError
from tallow_importers.onnx.importer import load_model_proto

PAD, END = 0, 1
FEW = settings(deadline=None, max_examples=12)


def number(value, dtype=np.int32):
    return np.array([value], dtype)


def judged(proto, inputs):
    """What onnxruntime makes of a model; what it cannot be given of `inputs` is left away."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, feed(proto, inputs))


def feed(proto, inputs):
    return {p.name: inputs[p.name] for p in proto.graph.input}


def evaluated(proto, inputs):
    return list(tallow.evaluate(load_model_proto(proto), feed(proto, inputs)).values())


def same_words(got, want):
    """Sequences are equal as far as onnxruntime writes them: once all have ended it leaves memory as it was."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    told = np.flatnonzero((got != PAD).any(0))[-1] + 2
    np.testing.assert_array_equal(got[:, :told], want[:, :told])


@st.composite
def prompts(draw, words=VOCABULARY):
    """A batch of prompts, some with padding in front, and how long sequences may become."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    ids = random.integers(2, words, (batch, length), dtype=np.int32)
    for row in ids:
        row[: random.integers(0, length)] = PAD
    return ids, number(length + draw(st.integers(1, 12))), random


def maybe(draw, value):
    return value if draw(st.booleans()) else None


def masks(draw, random, ids):
    """Masks of the vocabulary, for all steps and for the first, and of the prompts."""
    batch = len(ids)
    return {
        "vocab_mask": maybe(draw, (random.random(VOCABULARY) < 0.7).astype(np.int32)),
        "prefix_vocab_mask": maybe(draw, (random.random((batch, VOCABULARY)) < 0.7).astype(np.int32)),
        "attention_mask": maybe(draw, (random.random(ids.shape) < 0.7).astype(np.int32)),
    }


def ends(**more):
    return {"eos_token_id": END, "pad_token_id": PAD, **more}


@functools.cache
def decoder(seed=0, sharpness=2.0):
    return gpt(seed, sharpness)[0]


@FEW
@given(st.data())
def test_greedy_search_is_onnxruntimes(data):
    ids, most, random = data.draw(prompts())
    inputs = {
        "input_ids": ids,
        "max_length": most,
        "min_length": maybe(data.draw, number(random.integers(0, most[0]))),
        "repetition_penalty": maybe(data.draw, number(random.choice([1.0, 1.3, 0.7]), np.float32)),
        **masks(data.draw, random, ids),
    }
    graph, weights = gpt(
        data.draw(st.integers(0, 50)), random.choice([0.5, 2, 6]), shared=data.draw(st.booleans())
    )
    constants = data.draw(st.sets(st.sampled_from(["max_length", "min_length", "repetition_penalty"])))
    more = ends(
        no_repeat_ngram_size=data.draw(st.integers(0, 3)), eos_token_id=data.draw(st.sampled_from([1, 8]))
    )
    proto = model("GreedySearch", inputs, ["sequences"], weights, constants, decoder=graph, **more)
    (got,), (want,) = evaluated(proto, inputs), judged(proto, inputs)
    same_words(got, want)


def greedy(folder, inputs, constants=(), graph=None, **more):
    proto = model(
        "GreedySearch", inputs, ["sequences"], (), constants, decoder=graph or decoder(), **ends(**more)
    )
    onnx.save(proto, folder / "m.onnx")
    return proto, folder / "m.onnx"


def test_greedy_search_compiled_takes_any_batch_and_length(tmp_path):
    first = {
        "input_ids": np.array([[3, 4, 5, 9], [PAD, 8, 2, 9]], np.int32),
        "max_length": number(14),
        "min_length": number(8),
        "repetition_penalty": number(1.2, np.float32),
    }
    proto, path = greedy(tmp_path, first, no_repeat_ngram_size=2)
    compiled = tallow.compile(path)
    second = {
        **first,
        "input_ids": np.array([[7]], np.int32),
        "max_length": number(9),
        "min_length": number(0),
    }
    for inputs in (first, second, first):
        (got,), (want,) = compiled.run(inputs).values(), judged(proto, inputs)
        same_words(got, want)


def test_sequences_that_have_all_ended_are_padded_and_need_no_more_steps(tmp_path):
    inputs = {"input_ids": np.array([[3, 4]], np.int32), "max_length": number(1 << 12)}
    mask = np.zeros(VOCABULARY, np.int32)
    mask[END] = 1
    inputs |= {"min_length": number(5), "repetition_penalty": None, "vocab_mask": mask}
    proto, _ = greedy(tmp_path, inputs)
    (got,) = evaluated(proto, inputs)
    assert got.shape == (1, 1 << 12)
    assert not got[:, 5:].any()  # token 0 is the padding; before, every token is masked alike


def test_a_vocabulary_smaller_than_the_logits_leaves_their_padding_out():
    """onnxruntime's CPU provider takes rows of padded logits from where they do not begin."""
    graph = decoder(3)
    padded = onnx.GraphProto.FromString(graph.SerializeToString())
    logits = next(t for t in padded.initializer if t.name == padded.node[-1].input[1])
    weight = onnx.numpy_helper.to_array(logits)
    wide = np.concatenate([weight, np.full((len(weight), 9), 50, np.float32)], 1)
    logits.CopyFrom(onnx.numpy_helper.from_array(wide, logits.name))
    padded.output[0].type.tensor_type.shape.dim[2].dim_value += 9
    inputs = {"input_ids": np.array([[3, 4, 5], [7, 8, 2]], np.int32), "max_length": number(12)}
    plain = model("GreedySearch", inputs, ["sequences"], decoder=graph, **ends())
    wider = model("GreedySearch", inputs, ["sequences"], decoder=padded, **ends(vocab_size=VOCABULARY))
    np.testing.assert_array_equal(evaluated(wider, inputs)[0], evaluated(plain, inputs)[0])
    assert (evaluated(plain, inputs)[0] < VOCABULARY).all()


def test_the_first_step_is_that_of_a_decoder_of_its_own():
    inputs = {"input_ids": np.array([[3, 4, 5]], np.int32), "max_length": number(4)}
    proto = model(
        "GreedySearch", inputs, ["sequences"], decoder=decoder(1), init_decoder=decoder(2), **ends()
    )
    alone = model("GreedySearch", inputs, ["sequences"], decoder=decoder(2), **ends())
    np.testing.assert_array_equal(evaluated(proto, inputs)[0], evaluated(alone, inputs)[0])


def test_a_run_without_room_for_a_token_is_refused(tmp_path):
    inputs = {"input_ids": np.array([[3, 4, 5]], np.int32), "max_length": number(3)}
    _, path = greedy(tmp_path, inputs)
    compiled = tallow.compile(path)
    with pytest.raises(InputError, match='max_length must be more than the input_ids_1 tokens .*"it"'):
        compiled.run(inputs)
    proto, _ = greedy(tmp_path, inputs, constants=("input_ids", "max_length"))
    with pytest.raises(ImportFailed, match="max_length must be more than the 3 tokens"):
        load_model_proto(proto)


def test_a_penalty_of_nothing_is_refused(tmp_path):
    inputs = {"input_ids": np.array([[3]], np.int32), "max_length": number(5), "min_length": None}
    inputs["repetition_penalty"] = number(0, np.float32)
    proto, _ = greedy(tmp_path, inputs)
    with pytest.raises(InputError, match="repetition_penalty must be greater than 0"):
        evaluated(proto, inputs)


def renamed(old, new):
    """A decoder whose input or result `old` has another name."""
    graph = onnx.GraphProto.FromString(decoder().SerializeToString())
    for port in (*graph.input, *graph.output):
        port.name = new if port.name == old else port.name
    for node in graph.node:
        node.input[:] = [new if n == old else n for n in node.input]
        node.output[:] = [new if n == old else n for n in node.output]
    return graph


def sharing_memory():
    graph = onnx.GraphProto.FromString(decoder().SerializeToString())
    graph.input.append(helper.make_tensor_value_info("past_sequence_length", onnx.TensorProto.INT32, [1]))
    return graph


def with_an_unknown_operator():
    graph = onnx.GraphProto.FromString(decoder().SerializeToString())
    graph.node[-1].op_type = "Mystery"
    return graph


def of_unknown_width():
    graph = onnx.GraphProto.FromString(decoder().SerializeToString())
    graph.input[3].type.tensor_type.shape.dim[4].dim_param = "width"
    return graph


@pytest.mark.parametrize(
    ("graph", "more", "message"),
    [
        (decoder, {"model_type": 1}, "model_type 1: greedy search is of decoders alone"),
        (
            lambda: renamed("position_ids", "places"),
            {},
            "input_ids, places, .*: expected input_ids, position_ids",
        ),
        (lambda: renamed("logits", "scores"), {}, "scores, present_0, .*: expected logits, present_0"),
        (sharing_memory, {}, "share memory \\(inputs past_sequence_length\\)"),
        (with_an_unknown_operator, {}, "no operator Mystery"),
        (of_unknown_width, {}, f"past_0 of shape \\[2, 0, {HEADS}, 0, 0\\]: expected rank 5"),
        (decoder, {"vocab_size": 99}, "of a vocabulary of 99: expected a number of words in them"),
    ],
)
def test_what_greedy_search_cannot_honour_is_refused_in_words(tmp_path, graph, more, message):
    inputs = {"input_ids": np.array([[3]], np.int32), "max_length": number(5)}
    proto, _ = greedy(tmp_path, inputs, graph=graph(), **more)
    with pytest.raises(ImportFailed, match=message):
        load_model_proto(proto)
