"""Warping in time and matching of tokens of com.microsoft against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_support import agree, compiled, one_node, oracle

from tallow.errors import ImportFailed

MS = "com.microsoft"


@pytest.fixture(scope="module")
def warping(tmp_path_factory):
    """Compiled once for all sizes, with the model that onnxruntime gets."""
    proto = one_node("DynamicTimeWarping", {"x": np.zeros((2, 2), "f4")}, domain=MS, free=("x",))
    return proto, compiled(proto, tmp_path_factory.mktemp("warping"))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), seed=st.integers(0, 99), whole=st.booleans())
def test_warping(warping, rows, columns, seed, whole):
    """Whole numbers bring ties."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (rows, columns)) if whole else rng.standard_normal((rows, columns))
    given_ = {"x": x.astype("f4")}
    proto, model = warping
    (want,) = oracle(proto, given_, False)
    (got,) = model.run(given_).values()
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_warping_of_known_sizes(tmp_path, rng):
    x = {"x": rng.standard_normal((1, 5, 8)).astype("f4")}
    agree(one_node("DynamicTimeWarping", x, domain=MS), x, tmp_path)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """With and without a guess."""
    made = {}
    for guessed in (True, False):
        inputs = {"s": np.zeros(2, "i8"), "c": np.zeros(2, "i8"), "p": np.zeros((), "i8")}
        inputs |= {"g": np.zeros(2, "i8")} if guessed else {}
        sizes = {"min_ngram_size": 1, "max_ngram_size": 3}
        proto = one_node("BifurcationDetector", inputs, 2, domain=MS, free=("s", "c", "g"), **sizes)
        made[guessed] = proto, compiled(proto, tmp_path_factory.mktemp("detector"))
    return made


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(source=TOKENS, tokens=TOKENS, data=st.data())
def test_bifurcation(detectors, source, tokens, data):
    given_ = {"s": np.array(source), "c": np.array(tokens), "p": np.array(0)}
    guessed = data.draw(st.booleans())
    if guessed:
        start = data.draw(st.integers(0, len(source)))
        right = data.draw(st.integers(0, len(source) - start))
        guess = source[start : start + right]
        rest = len(source) - start + 1 - right
        guess += data.draw(st.lists(st.integers(0, 3), min_size=rest, max_size=rest))
        given_ |= {"p": np.array(start), "g": np.array(guess)}
    proto, model = detectors[guessed]
    want, got = oracle(proto, given_, False), model.run(given_).values()
    for mine, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_what_is_refused(tmp_path):
    def refused(op, inputs, said, outputs=1, **attributes):
        with pytest.raises(ImportFailed, match=f'{op} node "it".*{said}'):
            compiled(one_node(op, inputs, outputs, domain=MS, **attributes), tmp_path)

    refused("DynamicTimeWarping", {"x": np.zeros((2, 3, 4), "f4")}, r"costs f32\[2, 3, 4\]")
    tokens = {"s": np.zeros(2, "i8"), "c": np.zeros(2, "i8"), "p": np.zeros((), "i8")}
    refused("BifurcationDetector", tokens, "n-grams of 3 to 2", 2, min_ngram_size=3, max_ngram_size=2)
