"""Movement operators: results are elements of the operands, found by index arithmetic alone."""

from __future__ import annotations

from functools import reduce

import numpy as np

from tallow.dim import Dim, exact_quotient, product
from tallow.dtype import i8, i32
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.kernel.build import add, call, const, floordiv, from_dim, less, logical_and, mod, mul, select, sub
from tallow.kernel.grammar import Expr
from tallow.ops.pointwise import operand_index
from tallow.ops.rules import axis_in, inside, same_dtype, spreads_to, tensors, unless_empty
from tallow.ops.table import Op, register


def _infer_reshape(types, attributes):
    (type_,) = tensors("reshape", types)
    shape = tuple(attributes["shape"])
    have, want = type_.size, product(shape)
    if isinstance(have, int) and isinstance(want, int) and have != want:
        raise GraphError(f"reshape: {type_} has {have} elements, shape {list(shape)} has {want}")
    return (TensorType(type_.dtype, shape),)


def factor_groups(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of `a` and of `b` that provably hold the same number of elements, in order."""
    groups, i, j = [], 0, 0
    while i < len(a) or j < len(b):
        left, right = [], []
        if i < len(a):
            left, i = [i], i + 1
        if j < len(b):
            right, j = [j], j + 1
        while (x := product(a[k] for k in left)) != (y := product(b[k] for k in right)):
            if i < len(a) and (j >= len(b) or _smaller(x, y)):
                left, i = [*left, i], i + 1
            elif j < len(b):
                right, j = [*right, j], j + 1
            else:
                return [(list(range(len(a))), list(range(len(b))))]
        groups.append((left, right))
    return groups


def _smaller(x: Dim, y: Dim) -> bool:
    if isinstance(x, int) and isinstance(y, int):
        return x < y
    return exact_quotient(y, x) is not None


def _index_reshape(node, index, read):
    source, result = node.inputs[0].shape, node.output.shape
    places: list[Expr] = [const(0)] * len(source)
    for left, right in factor_groups(source, result):
        left = [a for a in left if source[a] != 1]
        right = [a for a in right if result[a] != 1]
        if not left:
            continue
        if len(left) == 1 and len(right) == 1:
            places[left[0]] = index[right[0]]
            continue
        flat: Expr = const(0)
        for a in right:
            flat = add(mul(flat, from_dim(result[a])), index[a])
        for position, a in enumerate(left):
            inner = from_dim(product(source[k] for k in left[position + 1 :]))
            part = floordiv(flat, inner)
            places[a] = part if position == 0 else mod(part, from_dim(source[a]))
    return read(0, tuple(places))


def _infer_transpose(types, attributes):
    (type_,) = tensors("transpose", types)
    order = attributes["permutation"]
    if sorted(order) != list(range(type_.rank)):
        raise GraphError(f"transpose: {list(order)} is no permutation of the axes of {type_}")
    return (TensorType(type_.dtype, tuple(type_.shape[a] for a in order)),)


def _index_transpose(node, index, read):
    places = list(index)
    for at, axis in zip(index, node["permutation"], strict=True):
        places[axis] = at
    return read(0, tuple(places))


def _infer_broadcast(types, attributes):
    (type_,) = tensors("broadcast", types)
    shape = tuple(attributes["shape"])
    if len(shape) < type_.rank:
        raise GraphError(f"broadcast: {type_} has more axes than {list(shape)}")
    spreads_to("broadcast", type_, shape, "elements")
    return (TensorType(type_.dtype, shape),)


def _index_broadcast(node, index, read):
    return read(0, operand_index(node.inputs[0].shape, node.output.shape, index))


def _infer_slice(types, attributes):
    type_ = tensors("slice", types)[0]
    for key in ("steps", "shape", *(["starts"] if "starts" in attributes else [])):
        if len(attributes[key]) != type_.rank:
            raise GraphError(f"slice: expected {type_.rank} {key} for {type_}, got {len(attributes[key])}")
    ends = zip(attributes["steps"], type_.shape, strict=True)
    starts = attributes.get("starts", tuple(0 if step > 0 else have - 1 for step, have in ends))
    for axis, (start, step, size, have) in enumerate(
        zip(starts, attributes["steps"], attributes["shape"], type_.shape, strict=True)
    ):
        numbers = all(isinstance(d, int) for d in (start, step, size, have))
        if numbers and size > 0 and not (0 <= start < have and 0 <= start + step * (size - 1) < have):
            raise GraphError(
                f"slice: axis {axis} of {type_} has no {size} elements from {start} in steps of {step}"
            )
    return (TensorType(type_.dtype, tuple(attributes["shape"])),)


def _take(array, starts, steps, shape):
    """`array[start + step * i]` per axis, i below the result's size; a view."""
    picks = []
    for start, step, size in zip(starts, steps, shape, strict=True):
        stop = start + step * size
        picks.append(slice(start, None if stop < 0 else stop, step) if size else slice(0, 0))
    return array[tuple(picks)]


def _index_slice(node, index, read):
    places = [
        add(from_dim(start), mul(at, const(step)))
        for at, start, step in zip(index, node["starts"], node["steps"], strict=True)
    ]
    return read(0, tuple(places))


def _index_dynamic_slice(node, index, read):
    sizes = node.inputs[0].shape
    starts = [read(1, (const(axis),)) for axis in range(len(index))]
    places = [
        inside(add(s, mul(at, const(step))), size)
        for at, s, step, size in zip(index, starts, node["steps"], sizes, strict=True)
    ]
    return read(0, tuple(places), unless_empty(sizes))


def _infer_concat(types, attributes):
    operands = tensors("concat", types)
    dtype, axis = same_dtype("concat", operands), attributes["axis"]
    first = operands[0]
    axis_in("concat", axis, first.rank)
    for type_ in operands[1:]:
        clash = type_.rank != first.rank or any(
            isinstance(x, int) and isinstance(y, int) and x != y
            for a, (x, y) in enumerate(zip(first.shape, type_.shape, strict=False))
            if a != axis
        )
        if clash:
            raise GraphError(f"concat: {type_} and {first} differ beside axis {axis}")
    total = reduce(lambda a, b: a + b, (t.shape[axis] for t in operands))
    return (TensorType(dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :])),)


def _index_concat(node, index, read):
    axis = node["axis"]
    at, offset, ends = index[axis], 0, []
    for value in node.inputs:
        ends.append((offset, offset := offset + value.shape[axis]))
    result = None
    for number in reversed(range(len(node.inputs))):
        low, high = ends[number]
        place = (*index[:axis], sub(at, from_dim(low)), *index[axis + 1 :])
        inside = logical_and(call("ge", at, from_dim(low)), less(at, from_dim(high)))
        part = read(number, place, inside)
        result = part if result is None else select(less(at, from_dim(high)), part, result)
    return result


def _infer_pad(types, attributes):
    type_ = tensors("pad", types)[0]
    before, after = attributes["before"], attributes["after"]
    if len(before) != type_.rank or len(after) != type_.rank:
        raise GraphError(
            f"pad: expected {type_.rank} amounts for {type_}, got {len(before)} and {len(after)}"
        )
    for axis, (size, *widths) in enumerate(zip(type_.shape, before, after, strict=True)):
        if (
            attributes["mode"] != "constant"
            and size == 0
            and any(isinstance(w, int) and w > 0 for w in widths)
        ):
            raise GraphError(f"pad: axis {axis} of {type_} has no elements to go on with")
    if len(types) == 2 and (types[1].dtype != type_.dtype or types[1].rank != 0):
        raise GraphError(f"pad: expected a scalar {type_.dtype} as value, got {types[1]}")
    return (
        TensorType(type_.dtype, tuple(b + d + a for b, d, a in zip(before, type_.shape, after, strict=True))),
    )


def _evaluate_pad(arrays, attributes):
    array, widths = arrays[0], list(zip(attributes["before"], attributes["after"], strict=True))
    mode = attributes["mode"]
    if mode == "constant":
        shape = [b + d + a for (b, a), d in zip(widths, array.shape, strict=True)]
        fill = arrays[1] if len(arrays) > 1 else np.zeros((), array.dtype)
        out = np.full(shape, fill, array.dtype)
        out[tuple(slice(b, b + d) for (b, _), d in zip(widths, array.shape, strict=True))] = array
        return (out,)
    for axis, (before, after) in enumerate(widths):
        size = array.shape[axis]
        if before or after:
            at = np.arange(-before, size + after)
            array = np.take(array, _fold(at, size, mode), axis=axis)
    return (array,)


def _fold(at, size: int, mode: str):
    """Positions outside 0..size-1 brought inside: edge clamps, wrap repeats, reflect turns at the ends."""
    if mode == "edge":
        return np.clip(at, 0, size - 1)
    if mode == "wrap":
        return at % size
    period = max(2 * (size - 1), 1)
    at = at % period
    return np.where(at >= size, period - at, at)


def _index_pad(node, index, read):
    shape, mode = node.inputs[0].shape, node["mode"]
    moved = [sub(at, from_dim(b)) for at, b in zip(index, node["before"], strict=True)]
    touched = [not (b == 0 and a == 0) for b, a in zip(node["before"], node["after"], strict=True)]
    if mode == "constant":
        inside: Expr | None = None
        for at, dim, is_padded in zip(moved, shape, touched, strict=True):
            if is_padded:
                within = logical_and(call("ge", at, const(0)), less(at, from_dim(dim)))
                inside = within if inside is None else logical_and(inside, within)
        if inside is None:
            return read(0, tuple(moved))
        element = read(0, tuple(moved), inside)
        fill = read(1, ()) if len(node.inputs) > 1 else const(0, node.output.dtype)
        return select(inside, element, fill)
    places = [
        _fold_index(at, from_dim(d), mode) if t else at
        for at, d, t in zip(moved, shape, touched, strict=True)
    ]
    return read(0, tuple(places))


def _fold_index(at: Expr, size: Expr, mode: str) -> Expr:
    if mode == "edge":
        return call("max", call("min", at, sub(size, const(1))), const(0))
    if mode == "wrap":
        return call("mod", at, size)
    period = call("max", mul(sub(size, const(1)), const(2)), const(1))
    folded = call("mod", at, period)
    return select(call("ge", folded, size), sub(period, folded), folded)


register(
    Op(
        "reshape",
        "movement",
        _infer_reshape,
        lambda arrays, a: (np.reshape(arrays[0], a["shape"]),),
        _index_reshape,
    )
)
register(
    Op(
        "transpose",
        "movement",
        _infer_transpose,
        lambda arrays, a: (np.transpose(arrays[0], a["permutation"]),),
        _index_transpose,
    )
)
register(
    Op(
        "broadcast",
        "movement",
        _infer_broadcast,
        lambda arrays, a: (np.broadcast_to(arrays[0], a["shape"]),),
        _index_broadcast,
    )
)
register(
    Op(
        "slice",
        "movement",
        _infer_slice,
        lambda arrays, a: (_take(arrays[0], a["starts"], a["steps"], a["shape"]),),
        _index_slice,
    )
)
register(
    Op(
        "dynamic_slice",
        "movement",
        _infer_slice,
        lambda arrays, a: (_take(arrays[0], arrays[1].tolist(), a["steps"], a["shape"]),),
        _index_dynamic_slice,
        arity=(2, 2),
    )
)
register(
    Op(
        "concat",
        "movement",
        _infer_concat,
        lambda arrays, a: (np.concatenate(arrays, a["axis"]),),
        _index_concat,
        arity=(1, None),
    )
)


def _infer_byte_words(types, attributes):
    (x,) = tensors("byte_words", types)
    if x.dtype != i8 or not x.rank or x.shape[-1] != 4:
        raise GraphError(f"byte_words: expected i8 with a last axis of 4, got {x}")
    return (TensorType(i32, x.shape[:-1]),)


def _evaluate_byte_words(arrays, attributes):
    """Four bytes on the last axis as one i32, the first in its lowest bits."""
    return (np.ascontiguousarray(arrays[0]).view("<i4")[..., 0].astype(np.int32),)


register(Op("byte_words", "movement", _infer_byte_words, _evaluate_byte_words, arity=(1, 1)))
register(Op("pad", "movement", _infer_pad, _evaluate_pad, _index_pad, arity=(1, 2)))
