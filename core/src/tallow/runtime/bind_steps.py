"""Bound steps: what a device is given of a run of kernel and flow steps once sizes and places are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tallow.backend import BoundFlow, BoundStep
from tallow.dim import evaluate
from tallow.runtime.layout import numbers_of, size_of
from tallow.schedule.program import FlowStep, KernelStep, Program

JUMPS = ("jump", "unless", "until", "again")
Place = Callable[[int], tuple[int, int]]


def bind_steps(
    program: Program, run: Sequence[int], place: Place, sizes: Mapping[str, int], stops: Mapping[int, object]
) -> tuple[list[BoundStep | BoundFlow], list[int]]:
    """The steps of a run of consecutive numbers that have something to do, and their numbers. Regions behind
    one of the `stops` are left out."""
    bound: list[BoundStep | BoundFlow] = []
    kept: list[int] = []
    index: dict[int, int] = {}  # of the first bound step that is not before one of the run
    closed = 0
    for number in run:
        index[number] = len(bound)
        if number < closed:
            continue
        if number in stops:
            closed = program.steps[number].target
        one = _bind(program, number, place, sizes, stops)
        if one is not None:
            bound.append(one)
            kept.append(number)
    index |= {run[-1] + 1: len(bound)} if run else {}
    for position, number in enumerate(kept):
        step = program.steps[number]
        if isinstance(step, FlowStep) and step.kind in JUMPS:
            bound[position] = bound[position]._replace(target=index[step.target])
    return bound, kept


def _bind(program: Program, number: int, place: Place, sizes, stops) -> BoundStep | BoundFlow | None:
    """One step, or None where there is nothing to do."""
    step = program.steps[number]
    if isinstance(step, KernelStep):
        grid, values = numbers_of(step, sizes)
        if not grid:
            return None
        arguments = tuple(map(place, step.arguments))
        return BoundStep(step.entry, arguments, values, grid, step.grain, step.described)
    kind = step.kind
    if kind == "guard":
        if number not in stops:
            return None
        kind = "stop"
    size = size_of(program, step.reads[0], sizes) if kind in ("copy", "row") else 0
    if kind == "copy" and not size:
        return None
    arguments = tuple(place(slot) for slot in (*step.reads, *step.writes))
    return BoundFlow(kind, arguments, 0, size, evaluate(step.rows, sizes), step.described)
