"""Results: which arrays the caller may have, and what `out` arrays must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tallow.errors import InputError
from tallow.types import TensorType, Type


def arrays_in(value) -> list[np.ndarray]:
    """An array, or those in a sequence."""
    if isinstance(value, list):
        return [array for element in value for array in arrays_in(element)]
    return [value] if isinstance(value, np.ndarray) else []


def fresh(value):
    """A sequence, map or absent value whose arrays belong to the caller alone."""
    if isinstance(value, list):
        return [fresh(v) for v in value]
    return value.copy() if isinstance(value, (np.ndarray, dict)) else value


def carrier(type_: Type) -> np.dtype | None:
    """The numpy dtype of a tensor whose elements lie in memory."""
    if not isinstance(type_, TensorType) or type_.dtype.kind == "string":
        return None
    return type_.dtype.numpy


def shares_memory(array: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    return any(np.may_share_memory(array, other) for other in others)


def check_out(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuses an `out` array that results cannot be written into."""
    flags = array.flags
    wrong = [w for w, right in (("read-only", flags.writeable), ("strided", flags.c_contiguous)) if not right]
    wrong += [] if flags.aligned else ["unaligned"]
    if array.dtype != dtype or array.shape != shape or wrong:
        raise InputError(
            f'out "{name}": expected a writable C-contiguous {dtype} array of shape {shape}, '
            f"got {array.dtype} {array.shape}{''.join(f', {w}' for w in wrong)}"
        )
