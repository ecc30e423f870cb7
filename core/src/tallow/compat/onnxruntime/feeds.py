"""Inputs of a run as onnxruntime takes them, and its words for those that do not fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from tallow.compat.onnxruntime.errors import Fail, InvalidArgument, OrtError, error
from tallow.compat.onnxruntime.interface import Interface, NodeArg
from tallow.compat.onnxruntime.kinds import type_word
from tallow.compat.onnxruntime.values import plain
from tallow.dtype import DType, dtype
from tallow.errors import TallowError
from tallow.graph import MapType, OptionalType, SequenceType, TensorType, Type


def check_missing(interface: Interface, feed: Mapping[str, object]) -> None:
    names = feed.keys()
    if not interface.required <= names:
        missing = [i.name for i in interface.inputs if i.name in interface.required - names]
        raise ValueError(f"Required inputs ({missing}) are missing from input feed ({list(names)}).")


def check_outputs(interface: Interface, wanted: object) -> list[str]:
    """The names of the wanted results: all of them where none is named."""
    have = interface.output_types
    if wanted is None or isinstance(wanted, (str, bytes)):
        names = wanted
    else:
        names = [name.decode() if isinstance(name, bytes) else name for name in wanted]
    if not names:
        return list(have)
    if isinstance(names, (str, bytes)) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"run(): incompatible function arguments: output names are a list of str, got {wanted!r}"
        )
    for name in names:
        if name not in have:
            raise error(InvalidArgument, f"Invalid output name:{name}")
    return names


def prepare(interface: Interface, feed: Mapping[str, object], constant: bool) -> dict[str, object]:
    """The feed as an Executable takes it; what has no value is there as None. `constant`: the defaults of inputs
    cannot be replaced."""
    types = interface.input_types
    plainly = feed.keys() == types.keys() and not interface.scalars
    if plainly and all(type(value) is np.ndarray for value in feed.values()):
        return feed
    for name in feed:
        if not isinstance(name, str):
            raise TypeError(f"run(): incompatible function arguments: inputs by name, got the name {name!r}")
        if constant and name in interface.default_types:
            raise error(
                InvalidArgument, f"Invalid input name: {name}: its default is constant in an artifact"
            )
        if name not in types and name not in interface.default_types:
            raise error(InvalidArgument, f"Invalid input name: {name}")
        if name in interface.default_types and isinstance(feed[name], list):
            raise RuntimeError(
                f"Failed to find input with name: {name} in the model input def list: give an array"
            )
    given = plain(feed)
    defaults = {name: of for name, of in interface.default_types.items() if name in given}
    return {name: _taken(name, given.get(name), of) for name, of in (types | defaults).items()}


def fed(interface: Interface, feed: Mapping[str, object]) -> frozenset[str]:
    """The inputs of a feed that the model has a default for."""
    return frozenset(feed.keys() & interface.default_types.keys())


def _taken(name: str, value: object, of: Type) -> object:
    """One input, as onnxruntime takes it: lists become arrays of the wanted type, an array of one element may
    be given for a scalar, and numbers of Python are refused."""
    if isinstance(value, np.ndarray):
        scalar = isinstance(of, TensorType) and not of.rank
        return value.reshape(()) if scalar and value.size == 1 else value
    if isinstance(of, (SequenceType, MapType)):
        return value
    if isinstance(of, OptionalType):
        return None if value is None else _taken(name, value, of.element)
    if value is None:
        raise error(Fail, f"Missing Input: {name}")
    if isinstance(value, list):
        try:
            return np.array(value, of.dtype.numpy)
        except (ValueError, TypeError, OverflowError):
            raise RuntimeError(
                f"Could not create tensor from given input list: {name} is {type_word(of)}"
            ) from None
    raise RuntimeError(
        f"Unable to handle object of type {type(value)} for input {name!r}: give a numpy array"
    )


def complaint(interface: Interface, feed: Mapping[str, object]) -> OrtError | None:
    """The exception that onnxruntime has for a feed whose inputs are not of their types."""
    types = interface.input_types | interface.default_types
    for argument in (*interface.inputs, *interface.defaults):
        of, value = types[argument.name], feed.get(argument.name)
        message = _misfit(argument, of.element if isinstance(of, OptionalType) else of, value)
        if message is not None:
            return error(InvalidArgument, message)
    return None


def disagreeing(interface: Interface, feed: Mapping[str, object]) -> frozenset[str]:
    """The names of sizes that have different values in a feed."""
    sizes: dict[str, set[int]] = defaultdict(set)
    for argument in (*interface.inputs, *interface.defaults):
        for name, size in zip(argument.shape, getattr(feed.get(argument.name), "shape", ()), strict=False):
            if isinstance(name, str):
                sizes[name].add(size)
    return frozenset(name for name, values in sizes.items() if len(values) > 1)


def _misfit(argument: NodeArg, of: Type, value: object) -> str | None:
    """What is wrong with one input, by its declared type and sizes."""
    if not isinstance(value, np.ndarray):
        return None
    if not isinstance(of, TensorType):
        return f"input with name: '{argument.name}' expected to be of type: {argument.type} but received a tensor"
    if not _fits(value, of.dtype):
        actual = _word(value)
        return f"Unexpected input data type. Actual: ({actual}) , expected: ({type_word(of)})"
    advice = "Please fix either the inputs/outputs or the model."
    if value.ndim != of.rank:
        return f"Invalid rank for input: {argument.name} Got: {value.ndim} Expected: {of.rank} {advice}"
    wrong = [
        f" index: {axis} Got: {size} Expected: {dim}\n"
        for axis, (size, dim) in enumerate(zip(value.shape, of.shape, strict=True))
        if isinstance(dim, int) and dim != size
    ]
    if wrong:
        where = "".join(wrong)
        return (
            f"Got invalid dimensions for input: {argument.name} for the following indices\n{where} {advice}"
        )
    return None


def _fits(array: np.ndarray, wanted: DType) -> bool:
    return array.dtype.kind in "OUS" if wanted.kind == "string" else array.dtype == wanted.numpy


def _word(array: np.ndarray) -> str:
    if array.dtype.kind in "OUS":
        return "tensor(string)"
    try:
        return type_word(dtype(array.dtype))
    except TallowError:
        return str(array.dtype)
