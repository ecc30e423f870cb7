"""Operators on sequences and optionals: lists of arrays and arrays that may be absent, on the host.

Elements are copied when they enter a sequence: what a step reads may lie in memory that is used again.
"""

from __future__ import annotations

import numpy as np

from tallow.dim import Dim, symbol
from tallow.dtype import bool_, i64
from tallow.errors import GraphError, InputError
from tallow.graph import (
    VARIES,
    NothingType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    cover,
    replace_sizes,
)
from tallow.ops.rules import axis_in, tensors
from tallow.ops.table import Op, register


def sequence_element(name: str, type_: Type) -> Type:
    """The element type of a sequence operand."""
    if not isinstance(type_, SequenceType):
        raise GraphError(f"{name}: expected a sequence, got {type_}")
    return type_.element


def varying(type_: Type) -> int:
    """How many sizes of a type differ between elements of a sequence: what taking one out defines."""
    found: list[Dim] = []
    if isinstance(type_, TensorType):
        found = [d for d in type_.shape if d == VARIES]
    return len(found)


def _taken(name: str, element: Type, defines: tuple[str, ...]) -> Type:
    """The type of one element: sizes that vary are the symbols that the node defines."""
    if isinstance(element, NothingType):
        raise GraphError(f"{name}: the sequence or optional is always empty")
    fresh = iter(defines)
    if not isinstance(element, TensorType):
        return element
    return replace_sizes(element, lambda d: symbol(next(fresh)) if d == VARIES else d)


def _own(value):
    return value.copy() if isinstance(value, np.ndarray) else value


def _place(name: str, index, length: int, end: bool = False) -> int:
    """A position counted from either end; InputError outside the sequence."""
    at = int(np.reshape(index, ()))
    high = length if end else length - 1
    if not -length <= at <= high:
        raise InputError(f"{name}: expected a position in {-length}..{high}, got {at}")
    return at + length if at < 0 else at


def _infer_sequence(types, attributes):
    element = attributes["element"]
    for type_ in types:
        element = cover(element, type_)
    return (SequenceType(element),)


def _infer_at(types, attributes):
    element = sequence_element("sequence_at", types[0])
    return (_taken("sequence_at", element, attributes.get("defines", ())),)


def _evaluate_at(arrays, attributes):
    sequence, index = arrays
    return (sequence[_place("sequence_at", index, len(sequence))],)


def _infer_insert(types, attributes):
    return (SequenceType(cover(sequence_element("sequence_insert", types[0]), types[1])),)


def _evaluate_insert(arrays, attributes):
    sequence, value, *index = arrays
    at = _place("sequence_insert", index[0], len(sequence), end=True) if index else len(sequence)
    return ([*sequence[:at], _own(value), *sequence[at:]],)


def _evaluate_erase(arrays, attributes):
    sequence, *index = arrays
    if not sequence:
        raise InputError("sequence_erase: the sequence is empty")
    at = _place("sequence_erase", index[0], len(sequence)) if index else len(sequence) - 1
    return ([*sequence[:at], *sequence[at + 1 :]],)


def _infer_erase(types, attributes):
    sequence_element("sequence_erase", types[0])
    return (types[0],)


def _infer_length(types, attributes):
    sequence_element("sequence_length", types[0])
    return (TensorType(i64, ()),)


def _infer_join(types, attributes):
    """Concatenation or stacking; the first size defined is that of the axis, the rest vary as before."""
    element = sequence_element("sequence_join", types[0])
    if not isinstance(element, TensorType):
        raise GraphError(f"sequence_join: expected elements of a known rank, got {types[0]}")
    along, *others = attributes["defines"]
    axis, stacked = attributes["axis"], attributes["stacked"]
    axis_in("sequence_join", axis, element.rank + stacked)
    known = [d for a, d in enumerate(element.shape) if stacked or a != axis]
    fresh = iter(others)
    shape = [symbol(next(fresh)) if d == VARIES else d for d in known]
    shape.insert(axis, symbol(along))
    return (TensorType(element.dtype, tuple(shape)),)


def _evaluate_join(arrays, attributes):
    (sequence,) = arrays
    if not sequence:
        raise InputError("sequence_join: expected one element or more, got an empty sequence")
    return ((np.stack if attributes["stacked"] else np.concatenate)(sequence, axis=attributes["axis"]),)


def _infer_split(types, attributes):
    x, _ = tensors("sequence_split", types)
    axis = axis_in("sequence_split", attributes["axis"], x.rank)
    middle = (VARIES,) if attributes["keepdims"] else ()
    return (SequenceType(TensorType(x.dtype, (*x.shape[:axis], *middle, *x.shape[axis + 1 :]))),)


def _evaluate_split(arrays, attributes):
    """Parts of given sizes, or of one size as often as it goes with a smaller last one."""
    x, sizes = arrays
    axis, extent = attributes["axis"], x.shape[attributes["axis"]]
    if sizes.ndim == 0:
        size = int(sizes)
        if size < 1:
            raise InputError(f"sequence_split: expected parts of 1 or more, got {size}")
        stops = np.arange(size, extent, size)
    else:
        if sizes.size and sizes.min() < 0 or int(sizes.sum()) != extent:
            raise InputError(f"sequence_split: sizes {sizes.tolist()} do not add up to {extent}")
        stops = np.cumsum(sizes)[:-1]
    parts = np.split(x, stops, axis) if extent or sizes.ndim else []
    if not attributes["keepdims"]:
        parts = [np.squeeze(p, axis) for p in parts]
    return ([p.copy() for p in parts],)


def _infer_get(types, attributes):
    (type_,) = types
    if not isinstance(type_, OptionalType):
        raise GraphError(f"optional_get: expected an optional, got {type_}")
    return (_taken("optional_get", type_.element, attributes.get("defines", ())),)


def _evaluate_get(arrays, attributes):
    if arrays[0] is None:
        raise InputError("optional_get: the optional has no element")
    return (arrays[0],)


register(
    Op(
        "sequence",
        "host",
        _infer_sequence,
        lambda arrays, attributes: ([_own(a) for a in arrays],),
        arity=(0, None),
    )
)
register(Op("sequence_at", "host", _infer_at, _evaluate_at, arity=(2, 2)))
register(Op("sequence_insert", "host", _infer_insert, _evaluate_insert, arity=(2, 3)))
register(Op("sequence_erase", "host", _infer_erase, _evaluate_erase, arity=(1, 2)))
register(
    Op(
        "sequence_length",
        "host",
        _infer_length,
        lambda arrays, attributes: (np.asarray(len(arrays[0]), np.int64),),
    )
)
register(Op("sequence_join", "host", _infer_join, _evaluate_join))
register(Op("sequence_split", "host", _infer_split, _evaluate_split, arity=(2, 2)))
register(
    Op(
        "optional",
        "host",
        lambda types, attributes: (
            (OptionalType(cover(attributes["element"], types[0])),)
            if types
            else (OptionalType(attributes["element"]),)
        ),
        lambda arrays, attributes: (_own(arrays[0]) if arrays else None,),
        arity=(0, 1),
    )
)
register(
    Op(
        "optional_has",
        "host",
        lambda types, attributes: (TensorType(bool_, ()),),
        lambda arrays, attributes: (np.asarray(arrays[0] is not None),),
    )
)
register(Op("optional_get", "host", _infer_get, _evaluate_get))
