"""String operators: against onnx.reference, and properties where there is no oracle."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_support import agree, compiled, one_node, results

from tallow.errors import ImportFailed, InputError, Unavailable

WORDS = np.array([["ab", "", "x y  z"], ["ä b", "a,,b", " q "]], object)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def test_concatenation_broadcasts(tmp_path):
    agree(
        one_node("StringConcat", {"a": WORDS, "b": WORDS[:1, :1]}),
        {"a": WORDS, "b": WORDS[:1, :1]},
        tmp_path,
        True,
    )


@pytest.mark.parametrize("delimiter", ["", ",", "b"])
@pytest.mark.parametrize("limit", [None, 1])
def test_splits(delimiter, limit, tmp_path):
    extra = {} if limit is None else {"maxsplit": limit}
    proto = one_node("StringSplit", {"a": WORDS}, outputs=2, delimiter=delimiter, **extra)
    parts, counts = results(proto, {"a": WORDS}, tmp_path)
    for place in np.ndindex(WORDS.shape):
        text = WORDS[place]
        want = text.split(delimiter or None, -1 if limit is None else limit) if text else []
        assert counts[place] == len(want)
        assert parts[place].tolist() == want + [""] * (parts.shape[-1] - len(want))


@settings(max_examples=25, deadline=None)
@given(
    words=st.lists(TEXT, max_size=5), stop=st.lists(TEXT.filter(bool), max_size=2), sensitive=st.booleans()
)
@pytest.mark.parametrize("change", ["LOWER", "UPPER", "NONE"])
def test_normalisation(change, words, stop, sensitive, tmp_path_factory):
    a = {"case_change_action": change, "is_case_sensitive": int(sensitive), "stopwords": [*stop, "the"]}
    x = np.array([*words, "the", "The"], object)
    (got,) = results(one_node("StringNormalizer", {"x": x}, **a), {"x": x}, tmp_path_factory.mktemp("n"))
    dropped = {w if sensitive else w.lower() for w in (*stop, "the")}
    kept = [w for w in x if (w if sensitive else w.lower()) not in dropped]
    change = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}[change]
    assert got.tolist() == ([change(w) for w in kept] or [""])


@pytest.mark.parametrize(
    "pattern,yes,no",
    [
        (r"[[:alpha:]]+\z", "abc", "ab1"),
        (r"(?i)ab.", "ABc", "ABcd"),
        (r"\d{2,3}", "12", "١٢"),  # \d is ASCII in RE2
        (r"\w+@\w+\.(com|org)", "a@b.org", "a@b.net"),
        (r"\\1", "\\1", "1"),
    ],
)
def test_patterns_match_as_in_re2(pattern, yes, no, tmp_path):
    x = np.array([yes, no], object)
    (got,) = results(one_node("RegexFullMatch", {"x": x}, pattern=pattern), {"x": x}, tmp_path)
    assert got.tolist() == [True, False]


@pytest.mark.parametrize("pattern", [r"(a)\1", r"(?=a)b", r"(?<!a)b", r"\pL", r"a(", r"[[:^alpha:]]"])
def test_patterns_that_only_one_side_can_say_are_refused(pattern, tmp_path):
    x = np.array(["a"], object)
    with pytest.raises(ImportFailed, match="the pattern"):
        compiled(one_node("RegexFullMatch", {"x": x}, pattern=pattern), tmp_path)


POOL = {
    "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7],
    "ngram_counts": [0, 4],
    "ngram_indexes": [0, 1, 2, 3, 4, 5, 6],
}


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 9), min_size=6, max_size=6), min_size=1, max_size=3),
    low=st.integers(1, 2),
    skip=st.integers(0, 5),
    mode=st.sampled_from(["TF", "IDF", "TFIDF"]),
)
def test_ngrams_agree_with_the_reference(rows, low, skip, mode, tmp_path_factory):
    a = {"mode": mode, "min_gram_length": low, "max_gram_length": 2, "max_skip_count": skip}
    a["weights"] = [0.5, 1, 2, 3, 4, 5, 6.0]
    x = np.array(rows, np.int64)
    agree(one_node("TfIdfVectorizer", {"x": x}, **a, **POOL), {"x": x}, tmp_path_factory.mktemp("g"), True)


@pytest.mark.parametrize("length", [0, 1, 4])
def test_ngrams_of_tokens_that_may_lie_any_distance_apart(length, tmp_path):
    a = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": (1 << 31) - 1}
    x = np.array([2, 5, 9, 6], np.int64)[:length]
    (got,) = results(one_node("TfIdfVectorizer", {"x": x}, **a, **POOL), {"x": x}, tmp_path)
    assert got.tolist() == [[0] * 7, [1, *[0] * 6], [1, 0, 1, 0, 1, 0, 0]][(0, 1, 4).index(length)]


def test_ngrams_of_strings(tmp_path):
    a = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0}
    a |= {
        "pool_strings": ["a", "c", "a", "b", "b", "c"],
        "ngram_counts": [0, 2],
        "ngram_indexes": [3, 1, 0, 2],
    }
    x = np.array([["a", "b", "c", "a"], ["x", "", "a", "b"]], object)
    (got,) = results(one_node("TfIdfVectorizer", {"x": x}, **a), {"x": x}, tmp_path)
    assert got.tolist() == [[1, 1, 1, 2], [1, 0, 0, 1]]
    with pytest.raises(ImportFailed, match="2 weights for 4 columns"):
        compiled(one_node("TfIdfVectorizer", {"x": x}, weights=[1.0, 2.0], **a), tmp_path)


def test_tokens(tmp_path):
    def tokens(x, **a):
        proto = one_node("Tokenizer", {"x": x}, domain="com.microsoft", pad_value="#", **a)
        return results(proto, {"x": x}, tmp_path)[0].tolist()

    x = np.array(["big red,dog", "a", ""], object)
    assert tokens(x, tokenexp="[a-z]+", mincharnum=2, mark=0) == [["big", "red", "dog"], ["#"] * 3, ["#"] * 3]
    assert tokens(x, separators=[",", " "], mincharnum=1, mark=1)[1] == ["\x02", "a", "\x03", "#", "#"]
    assert tokens(x[1:2], separators=[""], mincharnum=1, mark=0) == [["a"]]
    assert tokens(x[2:], tokenexp="[a-z]+", mincharnum=1, mark=0) == [[]]


def test_any_kind_of_text_is_taken(tmp_path):
    proto = one_node("StringConcat", {"a": WORDS[0], "b": WORDS[0]})
    run = compiled(proto, tmp_path)
    for given_ in (np.array(["a", "b", "ü"]), np.array([b"a", "b", "ü".encode()], object)):
        assert run(given_, given_).tolist() == ["aa", "bb", "üü"]
    with pytest.raises(InputError, match="expected string"):
        run(np.ones(3), WORDS[0])


@pytest.mark.parametrize("kind", ["RGB", "BGR", "Grayscale"])
def test_pictures(kind, rng, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "p.png")
    data = np.frombuffer((tmp_path / "p.png").read_bytes(), np.uint8)
    run = compiled(one_node("ImageDecoder", {"x": data}, free="x", pixel_format=kind), tmp_path)
    got = run(data)
    if kind == "Grayscale":
        weights = np.array([0.299, 0.587, 0.114])
        assert got.shape == (5, 7, 1) and np.abs(got[..., 0] - pixels @ weights).max() <= 1
    else:
        np.testing.assert_array_equal(got, pixels if kind == "RGB" else pixels[..., ::-1])
    assert run(data[:40]).size == 0 and run(np.zeros(9, np.uint8)).shape[:2] == (0, 0)
    with pytest.raises(ImportFailed, match="expected RGB, BGR, Grayscale, got 'CMYK'"):
        compiled(one_node("ImageDecoder", {"x": data}, pixel_format="CMYK"), tmp_path)


def test_pictures_need_pillow(monkeypatch, tmp_path):
    data = np.zeros(9, np.uint8)
    run = compiled(one_node("ImageDecoder", {"x": data}), tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Unavailable, match=r"pip install 'tallow\[images\]'"):
        run(data)
