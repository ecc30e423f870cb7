"""Host steps: nodes that run through their numpy meaning, and the sizes that steps bind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tallow.dim import Expr, evaluate, symbols
from tallow.errors import InputError, TallowError
from tallow.graph import TensorType
from tallow.graph.types import Type
from tallow.ops import op
from tallow.schedule.program import HostStep


def bind_attribute(attribute, sizes: Mapping[str, int]):
    """An attribute with every Dim in it replaced by its value."""
    match attribute:
        case Expr():
            return evaluate(attribute, sizes)
        case tuple():
            return tuple(bind_attribute(part, sizes) for part in attribute)
    return attribute


def run_host_step(step: HostStep, arrays: Sequence[np.ndarray], sizes: Mapping[str, int]) -> tuple[np.ndarray, ...]:
    """The step's results; errors name the user's node."""
    attributes = {name: bind_attribute(a, sizes) for name, a in step.attributes.items() if name != "defines"}
    try:
        return tuple(op(step.op).evaluate(arrays, attributes))
    except TallowError as error:
        raise type(error)(f"{error} ({step.location})") from None
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        shapes = ", ".join(str(getattr(a, "shape", type(a).__name__)) for a in arrays)
        raise InputError(f"{step.op} failed on operands of shape {shapes}: {error} ({step.location})") from error


def bind_sizes(types: Sequence[Type], arrays: Sequence[np.ndarray], sizes: dict[str, int], where: object) -> None:
    """Learns unknown size symbols from actual shapes; InputError where a known size does not agree."""
    for type_, array in zip(types, arrays, strict=True):
        if not isinstance(type_, TensorType):
            continue
        if array.ndim != type_.rank:
            raise InputError(f"expected {type_}, got shape {array.shape} ({where})")
        for dim, extent in zip(type_.shape, array.shape, strict=True):
            unknown = [name for name in symbols(dim) if name not in sizes]
            if len(unknown) == 1 and str(dim) == unknown[0]:
                sizes[unknown[0]] = extent
            elif not unknown and evaluate(dim, sizes) != extent:
                raise InputError(f"expected {type_} with {dim} = {evaluate(dim, sizes)}, got shape {array.shape} ({where})")


def read_sizes(names: Sequence[str], values: np.ndarray, sizes: dict[str, int], where: object) -> None:
    """Binds symbols to the elements of an integer array."""
    for name, value in zip(names, np.asarray(values).reshape(-1).tolist(), strict=True):
        if value < 0:
            raise InputError(f"size {name} = {value} computed at run time: expected 0 or more ({where})")
        sizes[name] = value
