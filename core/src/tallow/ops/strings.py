"""Operators on strings, on tables of keys and values, and on dictionaries; on the host."""

from __future__ import annotations

import re

import numpy as np

from tallow.dim import symbol
from tallow.dtype import bool_, f32, i64, string
from tallow.errors import GraphError, InputError
from tallow.graph import MapType, SequenceType, TensorType
from tallow.ops.rules import broadcast_shapes, rank_is, tensors
from tallow.ops.table import Op, register


def _strings(name: str, types) -> list[TensorType]:
    """The operand types, all of which must be tensors of strings."""
    found = tensors(name, types)
    for type_ in found:
        if type_.dtype != string:
            raise GraphError(f"{name}: expected strings, got {type_}")
    return found


def objects(values, shape) -> np.ndarray:
    """An array of Python objects, one for each place."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _text(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _infer_concat(types, attributes):
    shapes = [t.shape for t in _strings("string_concat", types)]
    return (TensorType(string, broadcast_shapes("string_concat", shapes)),)


def _evaluate_concat(arrays, attributes):
    joined = np.frompyfunc(lambda a, b: _text(a) + _text(b), 2, 1)(*arrays)
    return (np.asarray(joined, object),)


def _infer_match(types, attributes):
    (type_,) = _strings("regex_match", types)
    return (TensorType(bool_, type_.shape),)


def _evaluate_match(arrays, attributes):
    pattern = re.compile(attributes["pattern"], re.ASCII)
    found = [pattern.fullmatch(_text(s)) is not None for s in arrays[0].reshape(-1).tolist()]
    return (np.array(found, bool).reshape(arrays[0].shape),)


def _infer_split(types, attributes):
    (type_,) = _strings("string_split", types)
    width = symbol(attributes["defines"][0])
    return TensorType(string, (*type_.shape, width)), TensorType(i64, type_.shape)


def _evaluate_split(arrays, attributes):
    """Parts of each string, padded with empty ones to the most parts that any has."""
    (x,) = arrays
    delimiter, limit = attributes["delimiter"] or None, attributes["limit"]
    parts = [_text(s).split(delimiter, limit) if s else [] for s in x.reshape(-1).tolist()]
    counts = np.array([len(p) for p in parts], np.int64)
    width = int(counts.max(initial=0))
    padded = [p + [""] * (width - len(p)) for p in parts]
    return objects([s for row in padded for s in row], (*x.shape, width)), counts.reshape(x.shape)


def _infer_tokenize(types, attributes):
    (type_,) = _strings("tokenize", types)
    return (TensorType(string, (*type_.shape, symbol(attributes["defines"][0]))),)


def _evaluate_tokenize(arrays, attributes):
    """Tokens of each string, padded to the most that any has. They match `expression`, or stand between
    matches of `separators`; without either every character is one."""
    (x,) = arrays
    expression, separators = attributes["expression"], attributes["separators"]
    least, mark = attributes["least"], attributes["mark"]
    if expression:
        cut = re.compile(f"(?:{expression})", re.ASCII).finditer
    pattern = re.compile("|".join(f"(?:{s})" for s in separators), re.ASCII) if separators else None

    def tokens(text: str) -> list[str]:
        if expression:
            found = [m.group(0) for m in cut(text)]
        else:
            found = list(text) if pattern is None else _between(pattern, text)
        found = [t for t in found if t and len(t) >= least]
        return ["\x02", *found, "\x03"] if mark else found

    rows = [tokens(_text(s)) for s in x.reshape(-1).tolist()]
    width = max(map(len, rows), default=0)
    padded = [row + [attributes["pad"]] * (width - len(row)) for row in rows]
    return (objects([t for row in padded for t in row], (*x.shape, width)),)


def _between(pattern: re.Pattern, text: str) -> list[str]:
    """What stands between the matches of a pattern."""
    parts, start = [], 0
    for match in pattern.finditer(text):
        parts.append(text[start : match.start()])
        start = match.end()
    return [*parts, text[start:]]


def _infer_normalize(types, attributes):
    (type_,) = _strings("string_normalize", types)
    if type_.rank not in (1, 2):
        raise GraphError(f"string_normalize: expected strings of shape [C] or [1, C], got {type_}")
    return (TensorType(string, (*type_.shape[:-1], symbol(attributes["defines"][0]))),)


def _evaluate_normalize(arrays, attributes):
    """Stop words dropped, then the case changed; nothing left is one empty string."""
    (x,) = arrays
    stop = set(attributes["stopwords"])
    sensitive = attributes["case_sensitive"]
    if not sensitive:
        stop = {w.lower() for w in stop}
    kept = [w for w in map(_text, x.reshape(-1).tolist()) if (w if sensitive else w.lower()) not in stop]
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(attributes["change"])
    kept = [change(w) for w in kept] if change else kept
    return (objects(kept or [""], (1,) * (x.ndim - 1) + (len(kept) or 1,)),)


def _infer_lookup(types, attributes):
    (type_,) = tensors("lookup", types)
    keys, values = attributes["keys"], attributes["values"]
    if len(keys) != len(values):
        raise GraphError(f"lookup: {len(keys)} keys do not fit {len(values)} values")
    dtype = string if values.dtype == object else attributes["dtype"]
    return (TensorType(dtype, type_.shape),)


def _evaluate_lookup(arrays, attributes):
    """The value beside each element's key, by bisection of the sorted keys; NaN finds NaN."""
    (x,) = arrays
    keys, values, default = attributes["keys"], attributes["values"], attributes["default"]
    if keys.dtype == object:
        keys, x = keys.astype(str), x.astype(str)
    if not len(keys):
        return (np.full(x.shape, default, values.dtype),)
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys, x, sorter=order), len(keys) - 1)
    place = order[at]
    found = keys[place] == x
    if x.dtype.kind == "f":
        found |= np.isnan(keys[place]) & np.isnan(x)
    return (np.where(found, values[place], default).astype(values.dtype),)


def _infer_known(types, attributes):
    (type_,) = tensors("known_only", types)
    return (type_,)


def _evaluate_known(arrays, attributes):
    """The operand itself; InputError for an element that is none of the keys."""
    (x,) = arrays
    strange = x[~np.isin(x, attributes["keys"])]
    if strange.size:
        raise InputError(f"known_only: {strange[0]} is none of the {len(attributes['keys'])} categories")
    return (x,)


def _infer_ngrams(types, attributes):
    (type_,) = tensors("ngrams", types)
    if type_.rank not in (1, 2):
        raise GraphError(f"ngrams: expected tokens of shape [C] or [N, C], got {type_}")
    return (TensorType(f32, (*type_.shape[:-1], attributes["width"])),)


def _evaluate_ngrams(arrays, attributes):
    """How often each n-gram of the pool stands in each row, with up to `skip` tokens left out between.

    `tokens` are the distinct tokens sorted; `grams` the n-grams as numbers of tokens, padded with -1.
    """
    (x,) = arrays
    rows = x.reshape(x.shape[0] if x.ndim == 2 else 1, x.shape[-1])
    tokens, grams = attributes["tokens"], attributes["grams"]
    if tokens.dtype == object:
        tokens, rows = tokens.astype(str), rows.astype(str)
    at = np.minimum(np.searchsorted(tokens, rows), max(len(tokens) - 1, 0))
    ids = np.where(tokens[at] == rows, at, -2) if len(tokens) else np.full(rows.shape, -2)
    counts = np.zeros((len(rows), attributes["width"]), np.float32)
    lengths = (grams >= 0).sum(1)
    for length in np.unique(lengths[lengths > 0]).tolist():
        here = np.flatnonzero(lengths == length)
        if not attributes["low"] <= length <= attributes["high"]:
            continue
        farthest = (ids.shape[1] - 1) // (length - 1) if length > 1 else 1
        for distance in range(1, min(farthest, attributes["skip"] + 1) + 1):
            windows = ids.shape[1] - (length - 1) * distance
            found = np.stack([ids[:, i * distance : i * distance + windows] for i in range(length)], -1)
            _count(counts, found, grams[here, :length], attributes["columns"][here])
    weights = attributes["weights"]
    if attributes["mode"] == "TF":
        weights = None
    elif attributes["mode"] == "IDF":
        counts = (counts > 0).astype(np.float32)
    return ((counts if weights is None else counts * weights).reshape(*x.shape[:-1], attributes["width"]),)


def _count(counts: np.ndarray, windows: np.ndarray, grams: np.ndarray, columns: np.ndarray) -> None:
    """Add the windows [rows, places, length] that are n-grams to the columns of their n-grams."""
    both = np.concatenate([grams, windows.reshape(-1, grams.shape[1])])
    _, numbers = np.unique(both, axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)
    column_of = np.full(len(both), -1)
    column_of[numbers[: len(grams)]] = columns
    found = column_of[numbers[len(grams) :]].reshape(windows.shape[:2])
    row, place = np.nonzero(found >= 0)
    np.add.at(counts, (row, found[row, place]), 1)


def _infer_zip(types, attributes):
    (type_,) = tensors("zip_map", types)
    rank_is("zip_map", type_, 2, "scores")
    keys = attributes["keys"]
    return (SequenceType(MapType(string if keys.dtype == object else i64, TensorType(type_.dtype, ()))),)


def _evaluate_zip(arrays, attributes):
    (x,) = arrays
    keys = attributes["keys"].tolist()
    if x.shape[1] != len(keys):
        raise ValueError(f"{x.shape[1]} columns for {len(keys)} keys")
    return ([dict(zip(keys, row, strict=True)) for row in x.tolist()],)


def _map_of(name: str, type_) -> MapType:
    if not isinstance(type_, MapType):
        raise GraphError(f"{name}: expected a map, got {type_}")
    return type_


def _infer_spread(types, attributes):
    _map_of("map_spread", types[0])
    width = symbol(attributes["defines"][0]) if attributes["keys"] is None else attributes["width"]
    return (TensorType(attributes["dtype"], (1, width)),)


def _evaluate_spread(arrays, attributes):
    """A map as one row: the values of `keys` (0 or an empty string where it has none), or all its values
    in the order of their keys."""
    (given,) = arrays
    dtype, keys = attributes["dtype"], attributes["keys"]
    empty = "" if dtype == string else 0
    names = sorted(given) if keys is None else keys.tolist()
    values = [given.get(k, empty) for k in names]
    if dtype == string:
        return (objects([v if isinstance(v, str) else str(v) for v in values], (1, -1)),)
    return (np.array([float(v) if dtype.is_float else int(v) for v in values], dtype.numpy).reshape(1, -1),)


register(Op("string_concat", "host", _infer_concat, _evaluate_concat, arity=(2, 2)))
register(Op("string_split", "host", _infer_split, _evaluate_split))
register(Op("string_normalize", "host", _infer_normalize, _evaluate_normalize))
register(Op("tokenize", "host", _infer_tokenize, _evaluate_tokenize))
register(Op("regex_match", "host", _infer_match, _evaluate_match))
register(Op("lookup", "host", _infer_lookup, _evaluate_lookup))
register(Op("known_only", "host", _infer_known, _evaluate_known))
register(Op("ngrams", "host", _infer_ngrams, _evaluate_ngrams))
register(Op("zip_map", "host", _infer_zip, _evaluate_zip))
register(Op("map_spread", "host", _infer_spread, _evaluate_spread))
