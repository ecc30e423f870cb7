"""Transfers: what moves between the host and devices with memory of their own, known before the run.

The machine moves a value when the other side first needs it; this walk tells the same in advance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from tallow.runtime.layout import root_of, step_reads_writes
from tallow.schedule.program import ControlStep, FlowStep, KernelStep, PlacedStep, Program, Step

HOST = -1  # where the host's memory is; devices of their own memory are at their numbers


@dataclass(frozen=True, slots=True)
class Transfer:
    """A slot's copy between the host and a device of a list, which is a number: `upload` or `download`."""

    kind: Literal["upload", "download"]
    slot: int
    device: int = 0


@dataclass(slots=True)
class _Places:
    """Where the values of a program are; constants are wherever they are read."""

    program: Program
    at: dict[int, set[int]] = field(default_factory=dict)

    def put(self, slots: Iterable[int], place: int) -> None:
        self.at.update((root_of(self.program, slot), {place}) for slot in slots)

    def need(self, slots: Iterable[int], place: int) -> Iterator[Transfer]:
        """The copies that bring values to a place, by way of the host."""
        for root in dict.fromkeys(root_of(self.program, slot) for slot in slots):
            have = self.at.get(root)
            if have is None or place in have:
                continue
            if HOST not in have:
                yield Transfer("download", root, min(have))
            if place != HOST:
                yield Transfer("upload", root, place)
            have.update((HOST, place))


def steps_with_transfers(
    program: Program, hosts: frozenset[int] = frozenset(), device: int = 0
) -> Iterator[Step | Transfer]:
    """The steps of a program with the transfers that each needs before it, and at last those of results.
    hosts: numbers of the devices that work on the host's memory. device: the program's own; a program of
    another than the first gets its inputs there, and its results stay."""

    def place_of(number: int) -> int:
        return HOST if number in hosts else number

    own = place_of(device)
    places = _Places(program)
    places.put(program.inputs, own if device else HOST)
    for step in program.steps:
        match step:
            case KernelStep() | FlowStep():
                reads, _ = step_reads_writes(step)
                yield from places.need((s for s in reads if s not in step.writes), own)
                places.put(step.writes, own)
            case PlacedStep():
                there = place_of(step.device)
                yield from places.need(step.inputs, there)
                made = zip(step.outputs, step.program.outputs, strict=True)
                stay = {slot for slot, result in made if _written(step.program, result)}
                places.put(stay, there)
                places.put(set(step.outputs) - stay, HOST)
            case ControlStep():
                yield from places.need(step.inputs[: 1 if step.op == "if" else 2], HOST)
                made = _made_on_device(step)
                places.put(made, own)
                places.put(set(step.outputs) - made, HOST)
            case _:
                yield from places.need(step.inputs, HOST)
                places.put(step.outputs, HOST)
        yield step
    if not device:
        yield from places.need(program.outputs, HOST)


def _made_on_device(step: ControlStep) -> set[int]:
    """The results that kernels of every region write, so that the machine leaves them there. A loop's
    scanned results are stacked on the host."""
    skipped, scanned = (1, len(step.inputs) - 2) if step.op == "loop" else (0, len(step.outputs))
    return {
        slot
        for position, slot in enumerate(step.outputs[:scanned])
        if all(_written(region, region.outputs[skipped + position]) for region in step.regions.values())
    }


def _written(region: Program, slot: int) -> bool:
    return region.slots[root_of(region, slot)].kind == "output"
