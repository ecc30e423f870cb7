"""Reductions over axes: folding, places of extremes, running totals."""

from __future__ import annotations

import numpy as np

from tallow.dim import symbol
from tallow.dtype import dtype, i64
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.kernel.updates import identity
from tallow.ops.rules import axis_in, tensors
from tallow.ops.table import Op, register

_FUNCTIONS = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "and": np.logical_and,
    "or": np.logical_or,
}


def kept_shape(type_: TensorType, axes, keepdims: bool) -> tuple:
    if keepdims:
        return tuple(1 if a in axes else d for a, d in enumerate(type_.shape))
    return tuple(d for a, d in enumerate(type_.shape) if a not in axes)


def _infer_reduce(types, attributes):
    (type_,) = tensors("reduce", types)
    for axis in attributes["axes"]:
        axis_in("reduce", axis, type_.rank)
    if attributes["function"] not in _FUNCTIONS:
        raise GraphError(
            f"reduce: unknown function {attributes['function']!r}: expected {', '.join(_FUNCTIONS)}"
        )
    return (TensorType(type_.dtype, kept_shape(type_, attributes["axes"], attributes["keepdims"])),)


def _evaluate_reduce(arrays, attributes):
    (array,) = arrays
    name, axes = attributes["function"], tuple(attributes["axes"])
    wide = array.dtype
    if wide.kind == "V" or wide == np.float16 or wide.name.startswith(("bfloat", "float8")):
        array = array.astype(np.float32)
    function = _FUNCTIONS[name]
    with np.errstate(all="ignore"):
        if name in ("max", "min"):
            from_dtype = identity(name, dtype(array.dtype))
            result = function.reduce(array, axis=axes, keepdims=attributes["keepdims"], initial=from_dtype)
        else:
            kind = {"dtype": array.dtype} if name in ("add", "mul") else {}
            result = function.reduce(array, axis=axes, keepdims=attributes["keepdims"], **kind)
    return (np.asarray(result).astype(wide),)


def _infer_arg(name):
    def infer(types, attributes):
        (type_,) = tensors(name, types)
        axis = axis_in(name, attributes["axis"], type_.rank)
        if type_.shape[axis] == 0:
            raise GraphError(f"{name}: axis {axis} of {type_} has no elements to choose from")
        return (TensorType(i64, kept_shape(type_, (axis,), attributes["keepdims"])),)

    return infer


def _evaluate_arg(function):
    def evaluate(arrays, attributes):
        (array,) = arrays
        axis = attributes["axis"]
        if array.dtype.kind == "V" or array.dtype == np.float16:
            array = array.astype(np.float32)
        if attributes.get("last"):
            found = array.shape[axis] - 1 - function(np.flip(array, axis), axis=axis)
        else:
            found = function(array, axis=axis)
        return (np.expand_dims(found, axis) if attributes["keepdims"] else np.asarray(found),)

    return evaluate


def _infer_cumulative(types, attributes):
    (type_,) = tensors("cumulative", types)
    axis_in("cumulative", attributes["axis"], type_.rank)
    return (type_,)


def _evaluate_cumulative(arrays, attributes):
    (array,) = arrays
    axis, carrier = attributes["axis"], array.dtype
    if carrier.kind == "V" or carrier == np.float16:
        array = array.astype(np.float32)
    if attributes["reverse"]:
        array = np.flip(array, axis)
    add = attributes["function"] == "add"
    result = (np.cumsum if add else np.cumprod)(array, axis=axis, dtype=array.dtype)
    if attributes["exclusive"] and array.shape[axis]:
        result = np.roll(result, 1, axis)
        first = tuple(slice(0, 1) if a == axis else slice(None) for a in range(array.ndim))
        result[first] = 0 if add else 1
    if attributes["reverse"]:
        result = np.flip(result, axis)
    return (result.astype(carrier),)


def _infer_reduce_at(types, attributes):
    """Axes that only the run can tell: every size of the result is one of `defines`."""
    x, axes = tensors("reduce_at", types)
    if not axes.dtype.is_integer or axes.rank != 1 or not isinstance(axes.shape[0], int):
        raise GraphError(f"reduce_at: expected a vector of axes of known length, got {axes}")
    rank = x.rank if attributes["keepdims"] else x.rank - axes.shape[0]
    if rank != len(attributes["defines"]):
        raise GraphError(f"reduce_at: the result has {rank} sizes, {len(attributes['defines'])} are defined")
    return (TensorType(x.dtype, tuple(symbol(n) for n in attributes["defines"])),)


def _evaluate_reduce_at(arrays, attributes):
    x, axes = arrays
    chosen = tuple(sorted({int(a) % max(x.ndim, 1) for a in axes.tolist()}))
    return _evaluate_reduce([x], {**attributes, "axes": chosen})


def _infer_cumulative_at(types, attributes):
    return (tensors("cumulative_at", types)[0],)


def _evaluate_cumulative_at(arrays, attributes):
    x, axis = arrays
    return _evaluate_cumulative([x], {**attributes, "axis": int(np.reshape(axis, ())) % x.ndim})


register(Op("reduce", "reduction", _infer_reduce, _evaluate_reduce))
register(Op("reduce_at", "host", _infer_reduce_at, _evaluate_reduce_at, arity=(2, 2)))
register(Op("cumulative_at", "host", _infer_cumulative_at, _evaluate_cumulative_at, arity=(2, 2)))
register(Op("argmax", "reduction", _infer_arg("argmax"), _evaluate_arg(np.argmax)))
register(Op("argmin", "reduction", _infer_arg("argmin"), _evaluate_arg(np.argmin)))
register(Op("cumulative", "reduction", _infer_cumulative, _evaluate_cumulative))
