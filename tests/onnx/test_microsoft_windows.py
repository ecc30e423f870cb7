"""Windows, hashes and tables of com.microsoft against onnxruntime, or, where its CPU provider has none, numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_support import agree, compiled, one_node, oracle, results

from tallow.errors import ImportFailed, InputError

MS = "com.microsoft"


def real(rng, *shape, dtype="f4"):
    return rng.standard_normal(shape).astype(dtype)


def refused(folder, op, inputs, said, constants=(), **attributes):
    with pytest.raises(ImportFailed, match=f'{op} node "it".*{said}'):
        compiled(one_node(op, inputs, domain=MS, constants=constants, **attributes), folder)


@pytest.mark.parametrize("pads", ([1, 0, 2, 1], [0, 0, 0, 0], None))
@pytest.mark.parametrize("constant", (True, False))
@pytest.mark.parametrize(
    "attributes", [{}, {"strides": [2, 3], "dilations": [2, 1], "output_padding": [1, 2]}, {"group": 2}]
)
def test_transposed_convolution(tmp_path, rng, pads, constant, attributes):
    groups = attributes.get("group", 1)
    inputs = {
        "x": real(rng, 2, 4, 5, 6),
        "w": real(rng, 4, 6 // groups, 3, 4),
        "p": None if pads is None else np.array(pads),
        "b": real(rng, 6),
    }
    constants = ("w", "p") if constant and pads else ("w",)
    proto = one_node("ConvTransposeWithDynamicPads", inputs, domain=MS, constants=constants, **attributes)
    if pads is not None:
        agree(proto, inputs, tmp_path, rtol=1e-4, atol=1e-4)
        return
    (y,) = results(proto, inputs, tmp_path)  # which onnxruntime refuses, against its whole ConvTranspose
    whole = {n: inputs[n] for n in "xwb"}
    (want,) = oracle(one_node("ConvTranspose", whole, **attributes), whole, False)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(extent=st.integers(1, 9), size=st.integers(1, 4), step=st.integers(1, 5), axis=st.integers(-3, 2))
def test_unfolding(tmp_path_factory, extent, size, step, axis):
    shape = [2, 3, 4]
    shape[axis] = max(extent, size)
    x = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    proto = one_node("UnfoldTensor", {"x": x}, domain=MS, free=("x",), dim=axis, size=size, step=step)
    agree(proto, {"x": x}, tmp_path_factory.mktemp("unfold"))


@pytest.mark.parametrize("dtype", ("i1", "u8", "f2", "f8", "?"))
def test_unfolding_of_other_dtypes(tmp_path, rng, dtype):
    x = rng.integers(0, 2, (3, 7)).astype(dtype)
    (y,) = results(one_node("UnfoldTensor", {"x": x}, domain=MS, size=3, step=2), {"x": x}, tmp_path)
    np.testing.assert_array_equal(y, np.lib.stride_tricks.sliding_window_view(x, 3, 1)[:, ::2])
    assert y.dtype == x.dtype


@pytest.mark.parametrize("spatial,kernel", [((9,), [3]), ((6, 7), [2, 3]), ((4, 5, 6), [2, 3, 2])])
@pytest.mark.parametrize("channels", ((1, 1), (1, 2), (2, 3)))
@pytest.mark.parametrize("padded", (False, True))
def test_pool_with_mask(tmp_path, rng, spatial, kernel, channels, padded):
    x = real(rng, 2, 3, *spatial)
    mask = (rng.random((*channels, *spatial)) < 0.8).astype("i4") * 2
    pads = [1] * 2 * len(kernel) if padded else [0] * 2 * len(kernel)
    attributes = {
        "kernel_shape": kernel,
        "pads": pads,
        "strides": [2] * len(kernel) if padded else [1] * len(kernel),
    }
    inputs = {"x": x, "m": mask}
    agree(one_node("MaxpoolWithMask", inputs, domain=MS, **attributes), inputs, tmp_path)


def test_words(tmp_path, rng):
    words = np.array(
        [[3, 1, 4, 1, 5, 0], [2, 0, 0, 0, 0, 0], [6, 6, 0, 0, 0, 0], [1, 2, 0, 3, 4, 0], [7] * 6], "i4"
    )
    inputs = {"s": words, "w": real(rng, 5, 1, 3, 4), "b": real(rng, 5), "c": real(rng, 8, 4)}
    for attributes in ({}, {"embedding_size": 5, "conv_window_size": 3, "char_embedding_size": 4}):
        proto = one_node("WordConvEmbedding", inputs, domain=MS, **attributes)
        agree(proto, inputs, tmp_path, rtol=1e-4, atol=1e-5)
    empty = inputs | {
        "s": np.concatenate([words, np.zeros((1, 6), "i4")])
    }  # onnxruntime leaves its row as it is
    (y,) = results(one_node("WordConvEmbedding", empty, domain=MS, free=("s",)), empty, tmp_path)
    np.testing.assert_array_equal(y[-1], 0)
    assert (y[:-1] != 0).all()


# Hashes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ("i4", "u4", "i8", "u8", "f4", "f8"))
@pytest.mark.parametrize("attributes", [{}, {"seed": 42, "positive": 0}])
def test_murmur_hash(tmp_path, rng, dtype, attributes):
    x = np.frombuffer(rng.bytes(60 * np.dtype(dtype).itemsize), dtype).reshape(3, 4, 5)
    if dtype.startswith("f"):
        x = np.where(np.isnan(x), 0, x).astype(dtype)
    proto = one_node("MurmurHash3", {"x": x}, domain=MS, free=("x",), **attributes)
    want = oracle(one_node("MurmurHash3", {"x": x}, domain=MS, **attributes), {"x": x}, False)[0]
    (y,) = results(proto, {"x": x}, tmp_path)
    assert y.dtype == want.dtype
    np.testing.assert_array_equal(y, want)


def ngrams(rng, dtype, batch=2, steps=9, most=3, heads=2):
    total = (most - 1) * heads
    return {
        "ids": rng.integers(0, 6, (batch, steps)).astype(dtype),
        "factors": (rng.integers(1, 2**30, most) * 2 + 1).astype(dtype),
        "sizes": rng.integers(5, 99, total).astype(dtype),
        "past": rng.integers(0, 6, (batch, most - 1)).astype(dtype),
        "offsets": rng.integers(0, 999, total).astype(dtype),
        "end": np.array(2, dtype),
        "segments": np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 5, 5, 6]], "i4"),
    }


@pytest.mark.parametrize("dtype", ("i4", "i8"))
@pytest.mark.parametrize(
    "left_out", ("", "past", "offsets end segments", "end", "segments", "past offsets segments")
)
@pytest.mark.parametrize("reset", (0, 1))
@pytest.mark.parametrize("most", (2, 3, 4))
def test_ngram_hashes(tmp_path, rng, dtype, left_out, reset, most):
    inputs = ngrams(rng, dtype, most=most)
    inputs |= dict.fromkeys(left_out.split())
    attributes = {"max_ngram_size": most, "n_head_per_ngram": 2, "pad_id": 1, "reset_on_eos": reset}
    proto = one_node("NGramHashMapping", inputs, 2, domain=MS, **attributes)
    agree(proto, inputs, tmp_path)


@pytest.mark.parametrize("dtype", ("i4", "i8"))
@pytest.mark.parametrize(
    "left_out",
    ("", "past", "offsets end segments past_segments", "end", "past_segments", "segments past_segments"),
)
@pytest.mark.parametrize("reset", (0, 1))
@pytest.mark.parametrize("captured", (False, True))
def test_ngram_hashes_of_different_lengths(tmp_path, rng, dtype, left_out, reset, captured):
    given_ = ngrams(rng, dtype, batch=3, steps=4)
    inputs = {
        "ids": given_["ids"].reshape(-1),
        "factors": given_["factors"],
        "sizes": given_["sizes"],
        "ends": np.array([0, 1, 6, 12], "i4"),
        "past": given_["past"],
        "offsets": given_["offsets"],
        "end": given_["end"],
        "segments": np.sort(rng.integers(0, 4, 12)).astype("i4"),
        "past_segments": rng.integers(0, 3, (3, 2)).astype("i4"),
        "count": np.array([3, 2, 9], "i4") if captured else None,
    }
    inputs |= dict.fromkeys(left_out.split())
    attributes = {"max_ngram_size": 3, "n_head_per_ngram": 2, "pad_id": 1, "reset_on_eos": reset}
    attributes |= {"state_update_capacity": 4} if captured else {}
    constants = ("ends",) if reset else ()
    proto = one_node("VarlenNGramHashMapping", inputs, 4, domain=MS, constants=constants, **attributes)
    unwanted = [2] * (inputs["segments"] is None) + [3] * (not captured)
    for number in reversed(unwanted):
        proto.graph.node[0].output[number] = ""
        del proto.graph.output[number]
    agree(proto, inputs, tmp_path)


# Tables --------------------------------------------------------------------------------------------


def test_tables_and_echoes(tmp_path, rng):
    x = real(rng, 3, 4)
    agree(one_node("SampleOp", {"x": x}, domain=MS, free=("x",)), {"x": x}, tmp_path)
    inputs = {"w": x, "i": np.array([[2, 0], [1, 1]]), "p": np.array(1)}
    (y,) = results(one_node("TorchEmbedding", inputs, domain=MS), inputs, tmp_path)
    np.testing.assert_array_equal(y, x[inputs["i"]])


def test_rotation_of_gemma(tmp_path, rng):
    inputs = {"e": real(rng, 2, 5, 4)} | {
        n: real(rng, 2, 3, 5, 4, dtype="f2") for n in ("q", "qr", "k", "kr")
    }
    got = results(one_node("GemmaRotaryEmbedding", inputs, 2, domain=MS), inputs, tmp_path)
    cosine, sine = np.cos(inputs["e"])[:, None], np.sin(inputs["e"])[:, None]
    for mine, (x, turned) in zip(got, (("q", "qr"), ("k", "kr")), strict=True):
        assert mine.dtype == np.float16
        np.testing.assert_allclose(mine, inputs[x] * cosine + inputs[turned] * sine, rtol=5e-3, atol=5e-3)


def test_what_is_refused(tmp_path, rng):
    conv = {"x": real(rng, 1, 2, 5, 5), "w": real(rng, 2, 3, 3, 3), "p": np.array([1, 1])}
    refused(tmp_path, "ConvTransposeWithDynamicPads", conv, "2 pads for", ("p",))
    x = {"x": real(rng, 2, 3)}
    refused(tmp_path, "UnfoldTensor", x, "slices of 4 by 1 from an axis of 3", size=4)
    refused(tmp_path, "UnfoldTensor", x, "slices of 2 by 0", size=2, step=0)
    proto = one_node("UnfoldTensor", x, domain=MS, free=("x",), size=4)
    with pytest.raises(InputError, match="UnfoldTensor"):
        compiled(proto, tmp_path).run({"x": real(rng, 2, 1)})
    words = {"s": np.ones((2, 6), "i4"), "w": real(rng, 5, 1, 3, 4), "b": real(rng, 5), "c": real(rng, 8, 4)}
    refused(tmp_path, "WordConvEmbedding", words, "conv_window_size 2 of 3", conv_window_size=2)
    refused(tmp_path, "MurmurHash3", {"x": np.array(["a"], object)}, "hashes of string")
    sizes = {"max_ngram_size": 1, "n_head_per_ngram": 2, "pad_id": 0}
    refused(tmp_path, "NGramHashMapping", ngrams(rng, "i8"), "max_ngram_size 1", **sizes)
    ragged = {n: ngrams(rng, "i8")[n] for n in ("ids", "factors", "sizes")} | {"ends": np.array([0, 9], "i4")}
    ragged["ids"] = ragged["ids"][0]
    sizes |= {"max_ngram_size": 3, "state_update_capacity": 2}
    refused(tmp_path, "VarlenNGramHashMapping", ragged, "capacity 2 without capture_count", **sizes)
