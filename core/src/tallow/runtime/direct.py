"""Runs that are one native call: for input shapes seen before, everything but addresses is known."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tallow.backend import Prepared

_address = ctypes.addressof
_byte = ctypes.c_char.from_buffer


def address_of(array: np.ndarray) -> int:
    """Where an array's elements are; a buffer tells it three times as fast as numpy's interface, but only
    of arrays that are not empty and may be written."""
    try:
        return _address(_byte(array))
    except (TypeError, ValueError):
        return array.ctypes.data


class Direct(NamedTuple):
    """A program of kernels alone, bound to input shapes. Bases are numbered as in the machine.

    inputs: base of each input. outputs: base, shape and dtype of each result that kernels write. kept:
    position, shape, and number or array of each that is an input or a constant. arena: bytes of base 1.
    """

    prepared: Prepared | None
    bases: int
    inputs: tuple[int, ...]
    outputs: tuple[tuple[int, tuple[int, ...], np.dtype], ...]
    arena: int
    kept: tuple[tuple[int, tuple[int, ...], int | np.ndarray], ...] = ()

    def run(self, arrays: Sequence[np.ndarray], arena: int) -> list[np.ndarray] | None:
        """Fresh results of arrays of the shapes that this was bound to; `arena` is an address. None where the
        run came to a branch that cannot be taken."""
        bases = [0] * self.bases
        bases[1] = arena
        for base, array in zip(self.inputs, arrays, strict=True):
            bases[base] = address_of(array)
        results = []
        for base, shape, dtype in self.outputs:
            result = np.empty(shape, dtype)
            bases[base] = address_of(result)
            results.append(result)
        if self.prepared is not None and self.prepared.run(bases) is not None:
            return None
        for position, shape, source in self.kept:
            value = arrays[source] if isinstance(source, int) else source
            results.insert(position, value.reshape(shape).copy())
        return results
