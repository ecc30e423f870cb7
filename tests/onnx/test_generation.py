"""Generation of text in one operator against onnxruntime, on tiny random models."""

from __future__ import annotations

import functools

import generation_models
import numpy as np
import onnx
import onnxruntime
import pytest
from generation_models import (
    FEATURES,
    HEADS,
    OPSETS,
    VOCABULARY,
    caches,
    fused_gpt,
    gpt,
    model,
    t5_decoder,
    t5_encoder,
    whisper_decoder,
    whisper_encoder,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx_support import agree, one_node

import tallow
from tallow.errors import ImportFailed, InputError
from tallow_importers.onnx.families.generation import whisper
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


def without_caches():
    graph = onnx.GraphProto.FromString(decoder().SerializeToString())
    del graph.input[3:], graph.output[1:]
    for node in graph.node:
        node.input[:] = ["zero" if n.startswith("past_") else n for n in node.input]
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 1, HEADS, 0, 4), np.float32), "zero"))
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
        (without_caches, {}, "a decoder without past_0: expected a cache for each layer"),
        (of_unknown_width, {}, f"past_0 of shape \\[2, 0, {HEADS}, 0, 0\\]: expected rank 5"),
        (decoder, {"vocab_size": 99}, "of a vocabulary of 99: expected a number of words in them"),
    ],
)
def test_what_greedy_search_cannot_honour_is_refused_in_words(tmp_path, graph, more, message):
    inputs = {"input_ids": np.array([[3]], np.int32), "max_length": number(5)}
    proto, _ = greedy(tmp_path, inputs, graph=graph(), **more)
    with pytest.raises(ImportFailed, match=message):
        load_model_proto(proto)


def beams(draw, random, ids, most):
    """Operands of a beam search; onnxruntime's own checks ask for min_length."""
    count = draw(st.integers(1, 5))
    inputs = {"input_ids": ids, "max_length": most, "min_length": number(random.integers(0, most[0]))}
    inputs |= {"num_beams": number(count), "num_return_sequences": number(draw(st.integers(1, count)))}
    inputs["length_penalty"] = number(random.choice([1.0, 0.5, 0.0, 2.0]), np.float32)
    inputs["repetition_penalty"] = maybe(draw, number(random.choice([1.3, 0.7]), np.float32))
    return {**inputs, **masks(draw, random, ids)}


def only(inputs, row):
    """The inputs of one prompt of the batch."""
    return {n: a[row : row + 1] if n in BATCHED and a is not None else a for n, a in inputs.items()}


SEARCHED = ["sequences", "sequences_scores", "scores"]
BATCHED = {"input_ids", "input_features", "decoder_input_ids", "prefix_vocab_mask", "attention_mask"}


def agrees_row_by_row(proto, inputs):
    """Each prompt of a batch has the sequences that onnxruntime gives it alone: in a batch it may compare a prompt's
    scores with its neighbours'. Scores of steps that a prompt did not need are zero here, and not written there."""
    tokens, scores, steps = evaluated(proto, inputs)
    assert len(tokens) == len(scores) == steps.shape[1] == len(next(iter(inputs.values())))
    for row in range(len(tokens)):
        want = judged(proto, only(inputs, row))
        np.testing.assert_array_equal(tokens[row : row + 1], want[0])
        np.testing.assert_allclose(scores[row : row + 1], want[1], 1e-4, 1e-4)
        assert steps[:, row : row + 1].shape == want[2].shape
        taken = (steps[:, row] != 0).any((1, 2))
        assert taken.any()
        np.testing.assert_allclose(steps[taken, row], want[2][taken, 0], 1e-4, 1e-3)


def searched(draw, inputs, op="BeamSearch", **more):
    more |= {"early_stopping": draw(st.integers(0, 1)), "no_repeat_ngram_size": draw(st.integers(0, 3))}
    constants = draw(st.sets(st.sampled_from(["max_length", "num_beams", "num_return_sequences"])))
    end = draw(st.sampled_from([1, 5, 8]))
    return model(op, inputs, SEARCHED, (), constants, **ends(eos_token_id=end, **more))


@FEW
@given(st.data())
def test_beam_search_of_a_decoder_is_onnxruntimes(data):
    ids, most, random = data.draw(prompts())
    inputs = beams(data.draw, random, ids, most)
    graph = decoder(data.draw(st.integers(0, 9)), random.choice([0.5, 2, 6]))
    agrees_row_by_row(searched(data.draw, inputs, decoder=graph), inputs)


@pytest.mark.parametrize("compiles", [False, True])
def test_beam_search_of_a_decoder_of_fused_operators(tmp_path, compiles):
    proto = model("BeamSearch", SEARCH, SEARCHED, early_stopping=1, **ends(decoder=fused_gpt()[0]))
    onnx.save(proto, tmp_path / "m.onnx")
    run = (
        tallow.compile(tmp_path / "m.onnx").run
        if compiles
        else functools.partial(tallow.evaluate, load_model_proto(proto))
    )
    (tokens, scores, _), want = run(SEARCH).values(), judged(proto, SEARCH)
    np.testing.assert_array_equal(tokens, want[0])
    np.testing.assert_allclose(scores, want[1], 1e-4, 1e-4)


@FEW
@given(st.data())
def test_beam_search_of_an_encoder_and_a_decoder_is_onnxruntimes(data):
    ids, _, random = data.draw(prompts())
    most = number(data.draw(st.integers(3, 12)))
    inputs = beams(data.draw, random, ids, most)
    starts, whole = data.draw(st.booleans()), data.draw(st.booleans())
    graphs = {
        "encoder": t5_encoder(data.draw(st.integers(0, 9)), starts),
        "decoder": t5_decoder(data.draw(st.integers(0, 9)), starts and data.draw(st.booleans()), whole),
    }
    start = data.draw(st.sampled_from([0, 2]))
    proto = searched(data.draw, inputs, model_type=1, decoder_start_token_id=start, **graphs)
    agrees_row_by_row(proto, inputs)


SEARCH = {
    "input_ids": np.array([[3, 4, 5, 9], [PAD, 8, 2, 9]], np.int32),
    "max_length": number(11),
    "min_length": number(7),
    "num_beams": number(3),
    "num_return_sequences": number(2),
    "length_penalty": number(0.7, np.float32),
    "repetition_penalty": number(1.2, np.float32),
}
GRAPHS = {
    "gpt": lambda: {"decoder": decoder()},
    "t5": lambda: {
        "model_type": 1,
        "encoder": t5_encoder(),
        "decoder": t5_decoder(),
        "decoder_start_token_id": 2,
    },
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_beam_search_compiled_takes_any_batch_and_number_of_beams(tmp_path, kind):
    proto = model("BeamSearch", SEARCH, SEARCHED, early_stopping=1, **ends(**GRAPHS[kind]()))
    onnx.save(proto, tmp_path / "m.onnx")
    compiled = tallow.compile(tmp_path / "m.onnx")
    second = {**SEARCH, "input_ids": np.array([[7, 2]], np.int32), "num_beams": number(2)}
    for inputs in (SEARCH, second, SEARCH):
        (tokens, scores, steps), want = compiled.run(inputs).values(), judged(proto, inputs)
        np.testing.assert_array_equal(tokens, want[0])
        np.testing.assert_allclose(scores, want[1], 1e-4, 1e-4)
        assert steps.shape == want[2].shape


def test_a_sequence_that_nothing_can_follow_has_a_score_of_minus_infinity():
    """Two steps of words that a mask forbids add the lowest number to itself."""
    mask = np.zeros(VOCABULARY, np.int32)
    mask[4] = 1
    inputs = {**SEARCH, "min_length": number(0), "vocab_mask": mask, "num_return_sequences": number(3)}
    proto = model("BeamSearch", inputs, SEARCHED[:2], early_stopping=0, **ends(decoder=decoder()))
    (tokens, scores), want = evaluated(proto, only(inputs, 0)), judged(proto, only(inputs, 0))
    np.testing.assert_allclose(scores, want[1], 1e-4)
    assert np.isneginf(scores).any() == np.isneginf(want[1]).any()
    np.testing.assert_array_equal(tokens[:, 0], want[0][:, 0])


@pytest.mark.parametrize(("wanted", "count"), [(4, 3), (0, 3), (0, 0)])
def test_more_sequences_than_beams_or_none_are_refused(wanted, count):
    inputs = {**SEARCH, "num_return_sequences": number(wanted), "num_beams": number(count)}
    proto = model("BeamSearch", inputs, SEARCHED, **ends(decoder=decoder()))
    with pytest.raises(InputError, match="num_return_sequences must be 1 to num_beams"):
        evaluated(proto, inputs)
    constants = ("num_return_sequences", "num_beams")
    proto = model("BeamSearch", inputs, SEARCHED, (), constants, **ends(decoder=decoder()))
    with pytest.raises(ImportFailed, match='num_return_sequences must be 1 to num_beams .*"it"'):
        load_model_proto(proto)


def of_other_names(which, old, new):
    """Graphs like T5's, one with another name for a result."""
    graphs = {"encoder": t5_encoder(), "decoder": t5_decoder()}
    for port in (*graphs[which].output, *graphs[which].input):
        port.name = new if port.name == old else port.name
    for node in graphs[which].node:
        node.input[:] = [new if n == old else n for n in node.input]
        node.output[:] = [new if n == old else n for n in node.output]
    return graphs


T5 = {"model_type": 1, "decoder_start_token_id": 0}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (lambda: {"decoder": decoder(), "model_type": 7}, "model_type 7: expected 0 .* or 1"),
        (lambda: {"decoder": t5_decoder(), **T5}, "no attribute encoder, which a model of this type needs"),
        (lambda: {**GRAPHS["t5"](), "decoder_start_token_id": -1}, "no attribute decoder_start_token_id"),
        (
            lambda: {**T5, **of_other_names("encoder", "present_key_cross_0", "keys")},
            "an encoder with results named keys, .*: expected present_key_cross_0",
        ),
        (
            lambda: {**T5, **of_other_names("encoder", "encoder_attention_mask", "mask")},
            "an encoder with inputs named encoder_input_ids, mask: expected encoder_input_ids, enc",
        ),
        (
            lambda: {**T5, **of_other_names("decoder", "past_key_self_1", "keys")},
            "a decoder with inputs named .* keys.*: expected input_ids",
        ),
        (
            lambda: {**T5, "encoder": t5_encoder(), "decoder": t5_decoder(hidden=True)},
            "takes encoder_hidden_states, which its encoder does not give",
        ),
    ],
)
def test_what_beam_search_cannot_honour_is_refused_in_words(attributes, message):
    proto = model("BeamSearch", SEARCH, SEARCHED, **ends(**attributes()))
    with pytest.raises(ImportFailed, match=message):
        load_model_proto(proto)


@pytest.mark.parametrize(
    ("position", "what"),
    [("decoder_input_ids", "decoder_input_ids"), ("logits_processor", "a logits_processor")],
)
def test_operands_that_beam_search_does_not_know_are_refused(position, what):
    more = dict.fromkeys(
        ["vocab_mask", "prefix_vocab_mask", "attention_mask", "decoder_input_ids", "logits_processor"]
    )
    inputs = {**SEARCH, **more, position: np.array([[1]], np.int32)}
    proto = model("BeamSearch", inputs, SEARCHED, **ends(decoder=decoder()))
    with pytest.raises(ImportFailed, match=f"BeamSearch .*: {what}"):
        load_model_proto(proto)


DRAWN = {
    "input_ids": np.array([[3, 4, 5, 9], [PAD, 8, 2, 9]], np.int32),
    "max_length": number(14),
    "min_length": number(7),
    "repetition_penalty": number(1.2, np.float32),
    **dict.fromkeys(["vocab_mask", "prefix_vocab_mask", "attention_mask", "presence_mask"]),
    "seed": number(5),
}


@FEW
@given(st.data())
def test_sampling_is_onnxruntimes(data):
    """Exactly: what is drawn follows from the seed."""
    ids, most, random = data.draw(prompts())
    seed = data.draw(st.one_of(st.none(), st.sampled_from([0, 1, 2**31 - 1]), st.integers(0, 2**31 - 1)))
    inputs = {
        **DRAWN,
        "input_ids": ids,
        "max_length": most,
        "min_length": number(random.integers(0, most[0])),
    }
    inputs |= {**masks(data.draw, random, ids), "seed": None if seed is None else number(seed)}
    more = {
        "temperature": float(random.choice([0.3, 1, 1.7])),
        "top_p": data.draw(st.sampled_from([0.0, 0.01, 0.5, 0.9, 1.0])),
        "min_tokens_to_keep": data.draw(st.integers(0, 3)),
        "custom": data.draw(st.integers(0, 1)),
        "filter_value": data.draw(st.sampled_from([-1e20, -np.inf, -3.0])),
        "no_repeat_ngram_size": data.draw(st.integers(0, 3)),
    }
    graph = decoder(data.draw(st.integers(0, 9)), random.choice([0.5, 2, 6]))
    proto = model("Sampling", inputs, ["sequences"], decoder=graph, **ends(**more))
    (got,), (want,) = evaluated(proto, inputs), judged(proto, inputs)
    same_words(got, want)


def test_sampling_compiled_draws_as_onnxruntime(tmp_path):
    proto = model("Sampling", DRAWN, ["sequences"], decoder=decoder(), top_p=0.95, **ends())
    onnx.save(proto, tmp_path / "m.onnx")
    compiled = tallow.compile(tmp_path / "m.onnx")
    drawn = []
    for seed in (5, 6, 5):
        inputs = {**DRAWN, "seed": number(seed)}
        (got,), (want,) = compiled.run(feed(proto, inputs)).values(), judged(proto, inputs)
        same_words(got, want)
        drawn.append(got)
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(drawn[0], drawn[2])


def test_words_that_are_present_are_less_likely():
    """onnxruntime's CPU provider takes every penalty from the first word of the first prompt."""
    absent = (np.arange(VOCABULARY) % 3 == 0).astype(np.int32)
    present = {**DRAWN, "presence_mask": np.stack([1 - absent] * 2)}
    masked = {**DRAWN, "vocab_mask": absent}
    common = ends(decoder=decoder(), top_p=0.01)
    (got,) = evaluated(model("Sampling", present, ["sequences"], presence_penalty=1e4, **common), present)
    (want,) = judged(model("Sampling", masked, ["sequences"], **common), masked)
    np.testing.assert_array_equal(got, want)


def test_a_seed_below_zero_is_refused():
    inputs = {**DRAWN, "seed": number(-1)}
    proto = model("Sampling", inputs, ["sequences"], decoder=decoder(), **ends())
    with pytest.raises(InputError, match="seed must be 0 or more"):
        evaluated(proto, inputs)


@pytest.mark.parametrize(
    ("outputs", "more", "message"),
    [
        (["sequences", "filtered"], {}, "the result filtered_logits"),
        (["sequences"], {"model_type": 1}, "model_type 1: sampling is of decoders alone"),
    ],
)
def test_what_sampling_cannot_honour_is_refused_in_words(outputs, more, message):
    proto = model("Sampling", DRAWN, outputs, decoder=decoder(), **ends(**more))
    with pytest.raises(ImportFailed, match=message):
        load_model_proto(proto)


def transcribed(random, ids, most, count):
    """Operands of WhisperBeamSearch for two sounds."""
    return {
        "input_features": random.standard_normal((2, FEATURES, 6)).astype(np.float32),
        "max_length": number(most),
        "min_length": number(random.integers(0, most)),
        "num_beams": number(count),
        "num_return_sequences": number(random.integers(1, count + 1)),
        "length_penalty": number(random.choice([1.0, 0.5]), np.float32),
        **dict.fromkeys(["repetition_penalty", "vocab_mask", "prefix_vocab_mask", "attention_mask"]),
        "decoder_input_ids": ids,
        **dict.fromkeys(["logits_processor", "cross_qk_layer_head", "extra_decoding_ids", "temperature"]),
    }


def words_of_whisper(random):
    """Attributes that name words with a meaning of their own."""
    names = ("no_timestamps", "start_of_lm", "translate", "transcribe")
    words = {
        f"{name}_token_id": int(word)
        for name, word in zip(names, random.integers(2, VOCABULARY, 4), strict=True)
    }
    return {"beginning_timestamp_token_id": int(random.integers(8, 19)), "decoder_start_token_id": 2, **words}


@settings(FEW, max_examples=20)
@given(st.data())
def test_beam_search_of_sound_is_onnxruntimes(data):
    draw = data.draw
    random = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    ids = maybe(draw, random.integers(2, VOCABULARY, (2, draw(st.integers(1, 4))), dtype=np.int32))
    most = (1 if ids is None else ids.shape[1]) + draw(st.integers(2, 11))
    inputs = transcribed(random, ids, most, draw(st.integers(1, 4)))
    inputs["repetition_penalty"] = maybe(draw, number(1.2, np.float32))
    inputs["logits_processor"] = draw(st.sampled_from([None, number(0), number(1), number(1)]))
    inputs["temperature"] = draw(st.sampled_from([None, *(number(t, np.float32) for t in (0.0, 0.7, 1.5))]))
    inputs |= {n: masks(draw, random, np.zeros((2, 1)))[n] for n in ("vocab_mask", "prefix_vocab_mask")}
    graphs = {
        "encoder": whisper_encoder(draw(st.integers(0, 9))),
        "decoder": whisper_decoder(draw(st.integers(0, 9))),
    }
    proto = searched(draw, inputs, "WhisperBeamSearch", **graphs, **words_of_whisper(random))
    agrees_row_by_row(proto, inputs)


def spelled_out(encoder, decoder, features, prompt, most):
    """The most likely words one after the other, by onnxruntime's runs of the two graphs alone."""
    sessions = []
    for graph in (encoder, decoder):
        proto = helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
        sessions.append(onnxruntime.InferenceSession(proto.SerializeToString()))
    given = {"encoder_input_ids": features, "decoder_input_ids": prompt}
    known = dict(zip([o.name for o in sessions[0].get_outputs()], sessions[0].run(None, given), strict=True))
    sequence = prompt
    while sequence.shape[1] < most:
        token = known["logits"][:, -1].argmax(-1).astype(np.int32)[:, None]
        sequence = np.concatenate([sequence, token], 1)
        given = {n.replace("present", "past"): v for n, v in known.items() if n != "logits"}
        known |= zip(
            ["logits", *caches("present", "self")],
            sessions[1].run(None, {"input_ids": token, **given}),
            strict=True,
        )
    return sequence


def test_a_decoder_reads_the_states_of_its_encoder():
    """onnxruntime gives Whisper's decoders memory of the right shape in their place."""
    graphs = {"encoder": whisper_encoder(3), "decoder": whisper_decoder(4, hidden=True)}
    inputs = transcribed(np.random.default_rng(5), np.array([[2, 3]] * 2, np.int32), 9, 1)
    inputs |= {"min_length": number(9), "num_return_sequences": number(1)}
    proto = model(
        "WhisperBeamSearch", inputs, SEARCHED, **graphs, **ends(eos_token_id=22, decoder_start_token_id=2)
    )
    tokens = evaluated(proto, inputs)[0]
    want = spelled_out(*graphs.values(), inputs["input_features"], inputs["decoder_input_ids"], 9)
    np.testing.assert_array_equal(tokens[:, 0], want)
    assert (want != 22).all()


def test_beam_search_of_sound_compiled(tmp_path):
    random = np.random.default_rng(1)
    graphs = {"encoder": whisper_encoder(), "decoder": whisper_decoder()}
    inputs = {
        **transcribed(random, np.array([[2, 3], [2, 4]], np.int32), 10, 3),
        "logits_processor": number(1),
    }
    words = words_of_whisper(random)
    proto = model("WhisperBeamSearch", inputs, SEARCHED, early_stopping=1, **graphs, **words, **ends())
    onnx.save(proto, tmp_path / "m.onnx")
    (tokens, scores, _), want = (
        tallow.compile(tmp_path / "m.onnx").run(feed(proto, inputs)).values(),
        judged(proto, inputs),
    )
    np.testing.assert_array_equal(tokens, want[0])
    np.testing.assert_allclose(scores, want[1], 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("given", "outputs", "more", "message"),
    [
        ({"attention_mask": np.ones((2, FEATURES, 6), np.int32)}, SEARCHED, {}, "attention_mask"),
        ({"cross_qk_layer_head": np.zeros((1, 2), np.int32)}, SEARCHED, {}, "cross_qk_layer_head"),
        ({"extra_decoding_ids": np.zeros((2, 1), np.int32)}, SEARCHED, {}, "extra_decoding_ids"),
        ({}, [*SEARCHED, "cross_qk"], {}, "the result cross_qk"),
        ({}, SEARCHED, {"decoder_output_cross_qk": 1}, "the result cross_qk"),
        ({}, [*SEARCHED, "", "no_speech_probs"], {}, "the result no_speech_probs"),
        ({}, SEARCHED, {"model_type": 1}, "model_type 1: expected 2"),
    ],
)
def test_what_beam_search_of_sound_cannot_honour_is_refused_in_words(given, outputs, more, message):
    inputs = {**transcribed(np.random.default_rng(0), np.array([[2]] * 2, np.int32), 5, 2), **given}
    graphs = {"encoder": whisper_encoder(), "decoder": whisper_decoder()}
    proto = model("WhisperBeamSearch", inputs, outputs, **graphs, **ends(**more))
    with pytest.raises(ImportFailed, match=f"WhisperBeamSearch .*: {message}"):
        load_model_proto(proto)


def test_the_first_timestamp_is_early(monkeypatch):
    """The rule matters: without it, some of these sequences are others."""
    monkeypatch.setattr(generation_models, "VOCABULARY", 90)
    others = 0
    for seed in range(6):
        inputs = transcribed(np.random.default_rng(seed), np.array([[2, 3]] * 2, np.int32), 8, 2)
        inputs |= {"logits_processor": number(1), "min_length": number(0)}
        graphs = {"encoder": whisper_encoder(seed), "decoder": whisper_decoder(seed)}
        words = words_of_whisper(np.random.default_rng(seed))
        proto = model("WhisperBeamSearch", inputs, SEARCHED, early_stopping=1, **graphs, **words, **ends())
        agrees_row_by_row(proto, inputs)
        with monkeypatch.context() as free:
            free.setattr(whisper, "LATEST_START", 1000)
            others += (evaluated(proto, inputs)[0] != judged(proto, inputs)[0]).any()
    assert others


def test_timestamps_need_the_word_that_they_begin_with():
    ids = np.array([[2]] * 2, np.int32)
    inputs = {**transcribed(np.random.default_rng(0), ids, 5, 2), "logits_processor": number(1)}
    graphs = {"encoder": whisper_encoder(), "decoder": whisper_decoder()}
    proto = model("WhisperBeamSearch", inputs, SEARCHED, **graphs, **ends())
    with pytest.raises(InputError, match="beginning_timestamp_token_id must be more than 0 for timestamps"):
        evaluated(proto, inputs)


@FEW
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 12), st.integers(0, 1 << 16))
def test_tokens_that_repeat_ngrams_are_blocked(width, rows, length, seed):
    random = np.random.default_rng(seed)
    inputs = {
        "input_ids": random.integers(0, 4, (rows, length)),
        "scores": random.standard_normal((rows, 6)).astype(np.float32),
    }
    proto = one_node("NGramRepeatBlock", inputs, domain="com.microsoft", ngram_size=width, free=inputs)
    (got,), (want,) = evaluated(proto, inputs), judged(proto, inputs)
    np.testing.assert_array_equal(got, want)


def test_tokens_that_repeat_ngrams_are_blocked_in_compiled_models(tmp_path):
    inputs = {
        "input_ids": np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4]]),
        "scores": np.ones((2, 6), np.float32),
    }
    proto = one_node("NGramRepeatBlock", inputs, domain="com.microsoft", ngram_size=3, free=inputs)
    agree(proto, inputs, tmp_path)


def test_ngrams_of_no_tokens_are_refused():
    inputs = {"input_ids": np.array([[1]]), "scores": np.ones((1, 6), np.float32)}
    with pytest.raises(ImportFailed, match="ngram_size 0: expected 1 or more"):
        load_model_proto(one_node("NGramRepeatBlock", inputs, domain="com.microsoft", ngram_size=0))


def test_no_prompts_have_no_sequences():
    inputs = {**SEARCH, "input_ids": np.zeros((0, 3), np.int32)}
    proto = model("BeamSearch", inputs, SEARCHED, **ends(decoder=decoder()))
    tokens, scores, steps = evaluated(proto, inputs)
    assert tokens.shape == (0, 2, 11)
    assert scores.shape == (0, 2)
    assert steps.shape == (8, 0, 3, VOCABULARY)


def test_prompts_of_no_tokens_are_refused(tmp_path):
    inputs = {"input_ids": np.zeros((2, 0), np.int32), "max_length": number(5)}
    _, path = greedy(tmp_path, inputs)
    with pytest.raises(InputError, match='has no 1 elements from -1 .*GreedySearch node "it"'):
        tallow.compile(path).run(inputs)


def attended(random, batch=2, heads=2, size=4, before=5, most=9):
    """Operands of DecoderMaskedMultiHeadAttention for a token after `before` others of at most `most`."""

    def drawn(*shape):
        return random.standard_normal(shape).astype(np.float32)

    return {
        **{n: drawn(batch, 1, heads * size) for n in ("query", "key", "value")},
        "mask_index": (random.random((batch, before + 1)) < 0.7).astype(np.int32),
        "attention_bias": drawn(1, heads, 1, before + 1),
        **{n: drawn(batch, heads, most, size) for n in ("past_key", "past_value")},
        "past_sequence_length": number(before),
        "beam_width": None,
        "cache_indirection": None,
        "bias": drawn(3 * heads * size),
    }


def one_token(inputs, outputs=3, **more):
    op, more = "DecoderMaskedMultiHeadAttention", {"num_heads": 2, "past_present_share_buffer": 1, **more}
    return one_node(op, inputs, outputs, domain="com.microsoft", **more)


@pytest.mark.parametrize(
    "left_out", [(), ("mask_index",), ("attention_bias", "bias"), ("mask_index", "bias")]
)
@pytest.mark.parametrize("before", [0, 5, 8])
def test_a_token_attends_to_those_before_it(rng, left_out, before):
    inputs = {**attended(rng, before=before), **dict.fromkeys(left_out)}
    proto = one_token(inputs, scale=0.3, mask_filter_value=-50.0)
    for got, want in zip(evaluated(proto, inputs), judged(proto, inputs), strict=True):
        np.testing.assert_allclose(got, want, 1e-5, 1e-6)


def test_a_token_attends_to_those_before_it_compiled(tmp_path, rng):
    agree(one_token(inputs := attended(rng)), inputs, tmp_path)


def test_a_cache_that_grows_is_one_that_is_written_to(rng):
    """onnxruntime's CPU provider has the second alone."""
    shared, before = attended(rng), 5
    grows = {n: a[:, :, :before] if n.startswith("past_") and a.ndim == 4 else a for n, a in shared.items()}
    grows["past_sequence_length"] = None
    got = evaluated(one_token(grows, past_present_share_buffer=0), grows)
    want = judged(one_token(shared), shared)
    np.testing.assert_allclose(got[0], want[0], 1e-5, 1e-6)
    for mine, other in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(mine, other[:, :, : before + 1], 1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_a_token_attends_to_an_encoder(rng, masked):
    inputs = attended(rng)
    keys, values = inputs["past_key"], inputs["past_value"]
    mask = (rng.random((2, keys.shape[2])) < 0.7).astype(np.int32) if masked else None
    inputs = {"query": inputs["query"], "key": keys, "value": values, "mask_index": mask}
    proto = one_token(inputs, outputs=1, past_present_share_buffer=0)
    np.testing.assert_allclose(evaluated(proto, inputs)[0], judged(proto, inputs)[0], 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        ({"beam_width": number(2)}, {}, "beam_width of Dec"),
        ({"cache_indirection": np.zeros((1, 2, 9), np.int32)}, {}, "cache_indirection of Dec"),
        ({}, {"output_qk": 1}, "output_qk of Dec"),
        ({"key": None, "value": None}, {}, "a query without keys and values"),
        ({"past_sequence_length": None}, {}, "past_present_share_buffer without past_sequence_length"),
    ],
)
def test_what_attention_of_a_token_cannot_honour_is_refused(rng, given, more, message):
    with pytest.raises(ImportFailed, match=message):
        load_model_proto(one_token({**attended(rng), **given}, **more))


@pytest.mark.parametrize("name", ["decoder", "eos_token_id", "pad_token_id"])
def test_a_node_without_an_attribute_that_it_needs_is_refused(name):
    inputs = {"input_ids": np.array([[3]], np.int32), "max_length": number(5)}
    attributes = ends(decoder=decoder())
    proto = model("GreedySearch", inputs, ["sequences"], **{n: v for n, v in attributes.items() if n != name})
    with pytest.raises(ImportFailed, match=f"no attribute {name}, which a model of this type needs"):
        load_model_proto(proto)


def test_scores_are_of_the_type_of_the_penalties():
    """The CPU provider of onnxruntime has f32 alone."""
    narrow = {**SEARCH, **{n: SEARCH[n].astype(np.float16) for n in ("length_penalty", "repetition_penalty")}}
    got = evaluated(model("BeamSearch", narrow, SEARCHED, **ends(decoder=decoder())), narrow)
    want = judged(model("BeamSearch", SEARCH, SEARCHED, **ends(decoder=decoder())), SEARCH)
    assert [array.dtype for array in got] == [np.int32, np.float16, np.float16]
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], 2e-3)


def test_scores_that_nothing_reads_are_not_kept():
    graph = load_model_proto(model("BeamSearch", SEARCH, SEARCHED[:1], **ends(decoder=decoder())))
    (loop,) = [node for node in graph.nodes if node.op == "loop"]
    assert len(loop.outputs) == len(loop.inputs) - 2
