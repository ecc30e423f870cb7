"""Compiled: what compiling makes and a `.tallow` file holds; nothing of it belongs to a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tallow.backend import Code, Target
from tallow.schedule.program import Program


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program for a target, its machine code, and its constants by key, which may lie anywhere in memory."""

    program: Program
    target: Target
    code: Code
    constants: Mapping[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)


def aligned(array: np.ndarray) -> np.ndarray:
    """The array in C order, starting at a multiple of 64 bytes, copied if it is not: a vector load that
    crosses cache lines costs twice."""
    if not array.flags.c_contiguous and array.dtype == object:
        return np.ascontiguousarray(array)
    start = array.ctypes.data % 64
    if array.flags.c_contiguous and (
        array.dtype == object or start == 0 or (array.nbytes < 64 and array.flags.aligned)
    ):
        return array
    raw = np.empty(array.nbytes + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    copy = raw[skip : skip + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def with_aligned_constants(compiled: Compiled) -> Compiled:
    """The same with constants as kernels read them: in C order, from multiples of 64 bytes on."""
    constants = {key: aligned(array) for key, array in compiled.constants.items()}
    if all(constants[key] is array for key, array in compiled.constants.items()):
        return compiled
    return replace(compiled, constants=constants)
