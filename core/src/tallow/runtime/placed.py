"""Placed steps: what other devices than a program's own run, on copies of the values that they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tallow.backend import Module
from tallow.runtime.binding import Bound, check_bounds
from tallow.runtime.device_array import DeviceArray
from tallow.runtime.frame import Frame
from tallow.runtime.memory import Constants, Memory
from tallow.schedule.program import PlacedStep


class Place(NamedTuple):
    """Where the steps of one device run: its code, memory and constants."""

    module: Module
    memory: Memory
    constants: Constants


Places = Mapping[int, Place | None]  # by the number of a device; None where a program has nothing on it


class Runs(Protocol):
    """The machine of a placed step."""

    memory: Memory

    def run(self, bound: Bound, *arguments, **options) -> list: ...

    def run_direct(self, arrays: Sequence, around: tuple[int, ...]) -> list | None: ...


class Values(NamedTuple):
    """A program's values by slot: where they lie, and on the host."""

    frame: Frame
    lying: Callable[[Frame, int], object]
    on_host: Callable[[Frame, int], object]

    def on(self, memory: Memory, slot: int):
        """A value for a device: what came to the host or to the device once is not copied again."""
        value = self.lying(self.frame, slot)
        if isinstance(value, DeviceArray) and value.device is memory.device:
            return value
        value = self.on_host(self.frame, slot)
        if memory.device.is_host or not isinstance(value, np.ndarray) or value.dtype == object:
            return value
        key = slot, memory
        if key not in self.frame.sent:
            self.frame.sent[key] = memory.keep(value)
        return self.frame.sent[key]


def run_placed(machine: Runs, values: Values, step: PlacedStep, number: int, observe) -> tuple[list, float]:
    """The results of a step on another device, which stay there, and the seconds of steps inside that were
    observed; the sizes that it binds are learnt."""
    spent = [0.0]

    def note(inside: int, seconds: float, count: int) -> None:
        observe((number, inside), seconds, count)
        spent.append(seconds)

    given = tuple(values.on(machine.memory, slot) for slot in step.inputs)
    sizes, around = dict(values.frame.sizes), tuple(values.frame.sizes.values())
    results = None if observe else machine.run_direct(given, around)
    if results is None:
        check_bounds(step.program, sizes, f"the inputs' sizes do not fit ({step.location})")
        bound, seen = Bound(given, sizes), observe and note
        results = machine.run(bound, observe=seen, stay=True, around=around, learn=sizes)
        values.frame.sizes.update((name, sizes[name]) for name in step.defines)
    return results, sum(spent)
