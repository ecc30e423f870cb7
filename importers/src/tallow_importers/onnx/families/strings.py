"""String operators of ONNX; they run on the host."""

from __future__ import annotations

import re

import numpy as np

from tallow.graph import Value
from tallow.ops.strings import objects
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

# What RE2 writes otherwise than Python's re.
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_BEYOND = re.compile(r"\(\?(=|!|<=|<!|P=)|(?<!\\)(\\\\)*\\([1-9]|[pPQCX])|\[\[:\^")


@onnx_op("StringConcat")
def string_concat(context: Context, node: NodeView) -> Value:
    return context.builder.string_concat(*node.inputs)


@onnx_op("StringSplit")
def string_split(context: Context, node: NodeView):
    return context.builder.string_split(
        node.input(0),
        delimiter=node.attribute("delimiter", ""),
        limit=node.attribute("maxsplit", -1),
        defines=(context.fresh_name(),),
    )


def _expression(context: Context, pattern: str) -> str:
    """RE2's syntax as Python's; what only one of the two can say is refused."""
    if _BEYOND.search(pattern):
        context.unsupported(
            f"the pattern {pattern!r}: lookaround, back references and \\p are not RE2's or not ours"
        )
    translated = re.sub(
        r"\[:(\w+):\]", lambda m: _CLASSES.get(m.group(1), m.group(0)), pattern.replace(r"\z", r"\Z")
    )
    try:
        re.compile(translated, re.ASCII)
    except re.error as error:
        context.unsupported(f"the pattern {pattern!r} ({error})")
    return translated


@onnx_op("RegexFullMatch")
def regex_full_match(context: Context, node: NodeView) -> Value:
    pattern = _expression(context, node.attribute("pattern", ""))
    return context.builder.regex_match(node.input(0), pattern=pattern)


@onnx_op("Tokenizer", domain="com.microsoft")
def tokenizer(context: Context, node: NodeView) -> Value:
    return context.builder.tokenize(
        node.input(0),
        expression=_expression(context, node.attribute("tokenexp", "")),
        separators=tuple(_expression(context, s) for s in node.attribute("separators", ()) if s),
        pad=node.attribute("pad_value"),
        least=node.attribute("mincharnum", 1),
        mark=bool(node.attribute("mark", 0)),
        defines=(context.fresh_name(),),
    )


@onnx_op("StringNormalizer")
def string_normalizer(context: Context, node: NodeView) -> Value:
    return context.builder.string_normalize(
        node.input(0),
        change=node.attribute("case_change_action", "NONE"),
        case_sensitive=bool(node.attribute("is_case_sensitive", 0)),
        stopwords=tuple(node.attribute("stopwords", ())),
        defines=(context.fresh_name(),),
    )


@onnx_op("TfIdfVectorizer")
def tfidf_vectorizer(context: Context, node: NodeView) -> Value:
    strings, numbers = node.attribute("pool_strings"), node.attribute("pool_int64s")
    pool = objects(strings, (-1,)) if strings else np.array(numbers or [], np.int64)
    tokens = np.unique(pool.astype(str) if strings else pool)
    ids = np.searchsorted(tokens, pool.astype(str) if strings else pool)
    columns = np.array(node.attribute("ngram_indexes"), np.int64)
    weights = node.attribute("weights")
    width = int(columns.max()) + 1
    if weights and len(weights) != width:
        context.unsupported(f"{len(weights)} weights for {width} columns")
    return context.builder.ngrams(
        node.input(0),
        tokens=objects(tokens.tolist(), (-1,)) if strings else tokens,
        grams=_grams(ids, node.attribute("ngram_counts")),
        columns=columns,
        weights=np.array(weights, np.float32) if weights else None,
        width=width,
        mode=node.attribute("mode"),
        low=node.attribute("min_gram_length"),
        high=node.attribute("max_gram_length"),
        skip=node.attribute("max_skip_count"),
    )


def _grams(ids: np.ndarray, starts: list[int]) -> np.ndarray:
    """The n-grams of a pool as rows padded with -1; `starts[n]` is where those of length n + 1 begin."""
    rows = []
    for number, start in enumerate(starts):
        stop = starts[number + 1] if number + 1 < len(starts) else len(ids)
        part = ids[start:stop].reshape(-1, number + 1)
        rows.append(np.pad(part, ((0, 0), (0, len(starts) - number - 1)), constant_values=-1))
    return np.concatenate(rows) if rows else np.empty((0, 1), np.int64)
