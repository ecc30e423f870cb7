"""Compiled: what compiling makes and a `.tallow` file holds; nothing of it belongs to a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np

from tallow.backend import Code, Target
from tallow.choices import Chosen
from tallow.schedule.program import Program, programs_of


class Tuning(NamedTuple):
    """What was chosen for a program.

    machine, threads: for which measurements counted; "" where no machine here runs the code.
    ignored: other processors that have measurements for choices that were estimated.
    """

    machine: str = ""
    threads: int = 0
    choices: tuple[Chosen, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def measured(self) -> int:
        """How many choices measurements decided."""
        return sum(c.measured for c in self.choices)

    def __str__(self) -> str:
        text = f"choices: {len(self.choices)}, measured: {self.measured}"
        if self.measured:
            text += f" on {self.machine} with {self.threads} threads"
        if self.ignored:
            text += f"; measurements on {', '.join(self.ignored)} are not applied to this processor"
        return text


@dataclass(frozen=True, slots=True)
class Part:
    """What is made for one device: its target, machine code, constants by key, which may lie anywhere in memory,
    and what was chosen for it."""

    target: Target
    code: Code
    constants: Mapping[str, np.ndarray]
    tuning: Tuning = Tuning()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program with what is made for the device that runs it. others: what is made for further devices of a
    list, which run placed steps of the program."""

    program: Program
    target: Target
    code: Code
    constants: Mapping[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)
    tuning: Tuning = Tuning()
    others: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is made for each device, the first before the others."""
        return Part(self.target, self.code, self.constants, self.tuning), *self.others

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.target, *(part.target for part in self.others)

    @property
    def tunings(self) -> Tuning:
        """What was chosen for all devices, and measured for the first that anything was measured for."""
        found = [part.tuning for part in self.parts]
        measured = next((t for t in found if t.machine), found[0])
        choices = tuple(choice for t in found for choice in t.choices)
        ignored = tuple(dict.fromkeys(other for t in found for other in t.ignored))
        return measured._replace(choices=choices, ignored=ignored)

    @property
    def used(self) -> frozenset[int]:
        """Numbers of the devices that a run needs."""
        return frozenset(device for device, _ in programs_of(self.program))


Made = TypeVar("Made", Part, Compiled)


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


def with_aligned_constants(compiled: Made) -> Made:
    """The same with constants as kernels read them: in C order, from multiples of 64 bytes on."""
    constants = {key: aligned(array) for key, array in compiled.constants.items()}
    if all(constants[key] is array for key, array in compiled.constants.items()):
        return compiled
    return replace(compiled, constants=constants)
