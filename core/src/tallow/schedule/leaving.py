"""Leaving: which nodes of a program run elsewhere than on its first device, and their refusal where that must not be."""

from __future__ import annotations

from collections.abc import Iterator

from tallow.errors import CompileError
from tallow.schedule.program import HostStep, Moved, PlacedStep, Program, programs_of
from tallow.target import Target


def leaving(program: Program) -> Iterator[Moved]:
    """The nodes that run on other devices, or in numpy. Decisions of control flow and sizes that the host
    reads are none, nor are branches that cannot run."""
    for _, part in programs_of(program):
        for step in part.steps:
            match step:
                case HostStep() if step.outputs and step.op != "fail":
                    yield Moved(step.op, step.location.name, step.reason)
                case PlacedStep():
                    yield from step.moved


def refuse_leaving(program: Program, target: Target) -> None:
    """CompileError that lists every node which would leave the first device."""
    found = list(leaving(program))
    if found:
        listed = "".join(f'\n  {op} "{node}": {reason}' for op, node, reason in found)
        count = "1 node" if len(found) == 1 else f"{len(found)} nodes"
        raise CompileError(
            f"{program.name} cannot run on {target} alone: {count} would leave it. Compile without strict, or for "
            f"a device that runs them:{listed}"
        )
