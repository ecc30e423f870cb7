"""Transfers: what moves between the host and a device with memory of its own, known before the run.

The machine moves a value when the other side first needs it; this walk tells the same in advance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tallow.runtime.layout import root_of, step_reads_writes
from tallow.schedule.program import ControlStep, FlowStep, KernelStep, Program, Step


@dataclass(frozen=True, slots=True)
class Transfer:
    """A slot's copy to the other side: `upload` to the device or `download` from it."""

    kind: Literal["upload", "download"]
    slot: int


def steps_with_transfers(program: Program) -> Iterator[Step | Transfer]:
    """The steps of a program with the transfers that each needs before it, and at last those of results."""
    host = {s for s, slot in enumerate(program.slots) if slot.kind in ("input", "constant")}
    device = {s for s, slot in enumerate(program.slots) if slot.kind == "constant"}

    def needed(slots, there: set[int], kind) -> Iterator[Transfer]:
        for root in dict.fromkeys(root_of(program, slot) for slot in slots):
            if root not in there:
                there.add(root)
                yield Transfer(kind, root)

    for step in program.steps:
        match step:
            case KernelStep() | FlowStep():
                reads, _ = step_reads_writes(step)
                yield from needed((s for s in reads if s not in step.writes), device, "upload")
                device.update(root_of(program, slot) for slot in step.writes)
            case ControlStep():
                yield from needed(step.inputs[: 1 if step.op == "if" else 2], host, "download")
                made = _made_on_device(step)
                device |= made
                host.update(set(step.outputs) - made)
            case _:
                yield from needed(step.inputs, host, "download")
                host.update(step.outputs)
        yield step
    yield from needed(program.outputs, host, "download")


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
