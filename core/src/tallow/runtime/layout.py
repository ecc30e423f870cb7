"""Layout: where each slot of a program lives once sizes are known, phase by phase.

A program runs in phases: a step that binds new sizes ends one. Sizes of a phase are all known when it
starts, so its temporaries get one arena, planned then and remembered for the next run with these sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tallow.dim import evaluate, symbols
from tallow.errors import InputError, TallowError
from tallow.runtime.numbers import Numbers
from tallow.schedule.checks import verify_sizes
from tallow.schedule.memory import LARGEST, Life, Planner
from tallow.schedule.program import ControlStep, FlowStep, KernelStep, Program, Step, root_among
from tallow.types import TensorType

BEYOND = 1 << 63  # numbers that kernels cannot be given
NATIVE = (KernelStep, FlowStep)  # what the device does without the host


def root_of(program: Program, slot: int) -> int:
    """The slot whose memory a view shares; the slot itself if it is no view."""
    return root_among(program.slots, slot)


def is_temporary(program: Program, slot: int) -> bool:
    """Whether a slot lies in memory that is used again after the last step that reads it."""
    return program.slots[root_of(program, slot)].kind == "temporary"


def phases_of(program: Program) -> list[tuple[int, ...]]:
    """Numbers of the steps of each phase; each but the last ends with a step that binds sizes."""
    phases: list[tuple[int, ...]] = []
    current: list[int] = []
    for number, step in enumerate(program.steps):
        current.append(number)
        if not isinstance(step, NATIVE) and step.defines:
            phases.append(tuple(current))
            current = []
    return [*phases, tuple(current)]


def step_reads_writes(step: Step) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The slots a step reads and those it writes."""
    if isinstance(step, KernelStep):
        return step.arguments, step.writes
    if isinstance(step, FlowStep):
        return step.reads, step.writes
    captured = getattr(step, "captured", {})
    return (*step.inputs, *(s for slots in captured.values() for s in slots)), step.outputs


def kernel_reads(program: Program) -> frozenset[int]:
    """The slots, views apart, that the device uses in steps of the program itself."""
    used = (
        slot for s in program.steps if isinstance(s, NATIVE) for part in step_reads_writes(s) for slot in part
    )
    return frozenset(root_of(program, slot) for slot in used)


def sent_to_regions(program: Program) -> frozenset[int]:
    """The slots that kernels of its regions, at any depth, use."""
    sent: set[int] = set()
    for step in program.steps:
        if isinstance(step, ControlStep):
            for name, region in step.regions.items():
                used = kernel_reads(region) | sent_to_regions(region)
                given = region.inputs[len(region.inputs) - len(step.captured[name]) :]
                sent.update(s for s, slot in zip(step.captured[name], given, strict=True) if slot in used)
    return frozenset(sent)


class Lives(NamedTuple):
    """For each owned slot (temporary or output): the steps of its first write and last use."""

    first: Mapping[int, int]
    last: Mapping[int, int]


def lives_of(program: Program) -> Lives:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        reads, writes = step_reads_writes(step)
        for slot in (*reads, *writes):
            root = root_of(program, slot)
            if program.slots[root].kind in ("temporary", "output"):
                first.setdefault(root, number)
                last[root] = number
    for slot in program.outputs:
        root = root_of(program, slot)
        if root in first:
            last[root] = len(program.steps)
    for head, end in loops_of(program):
        for slot in first:
            inside = head <= first[slot] <= end, head <= last[slot] <= end
            if inside == (False, True):
                last[slot] = end
            elif inside == (True, False):
                first[slot] = head
    return Lives(first, last)


def loops_of(program: Program) -> list[tuple[int, int]]:
    """First and last step of each loop among the steps, inner loops before those around them: what crosses
    the border of one is alive in all of it."""
    steps = enumerate(program.steps)
    return [(step.target, n) for n, step in steps if isinstance(step, FlowStep) and step.kind == "again"]


def shape_of(program: Program, slot: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(dim, sizes) for dim in program.slots[slot].type.shape)


def is_known(program: Program, slot: int, sizes: Mapping[str, int]) -> bool:
    """Whether the sizes tell the slot's shape."""
    return all(symbols(dim).keys() <= sizes.keys() for dim in program.slots[slot].type.shape)


def size_of(program: Program, slot: int, sizes: Mapping[str, int]) -> int:
    """Bytes of a slot; MemoryError for more than can be addressed."""
    shape = shape_of(program, slot, sizes)
    size = math.prod(shape) * program.slots[slot].type.dtype.itemsize
    if size > LARGEST:
        raise MemoryError(f"{program.slots[slot].name} of shape {list(shape)} is {size} bytes")
    return size


def numbers_of(step: KernelStep, sizes: Mapping[str, int]) -> tuple[int, tuple[int, ...]]:
    """The grid of a kernel and the sizes it is given, none where there is nothing to do; InputError for
    numbers that are beyond what it can be given."""
    grid = evaluate(step.grid, sizes)
    if grid <= 0:
        return 0, ()
    values = tuple(evaluate(dim, sizes) for dim in step.sizes)
    if max((grid, *map(abs, values))) >= BEYOND:
        raise InputError(
            f"{step.described}: numbers that follow from these sizes are beyond 64 bits: expected smaller inputs"
        )
    return grid, values


class PhaseLayout(NamedTuple):
    """Byte offsets in the phase's arena of the temporaries first written in it, and the arena's size. stops:
    steps that enter regions in which these sizes do not fit, and why not."""

    offsets: Mapping[int, int]
    arena: int
    stops: Mapping[int, TallowError | MemoryError] = {}


class Layouter:
    """Lays the temporaries of one phase out, for any sizes: what does not depend on them is found once."""

    def __init__(self, program: Program, lives: Lives, phase: Sequence[int], numbers: Numbers):
        self.program, self.phase = program, phase
        steps = set(phase)
        self.slots = [
            slot
            for slot, at in lives.first.items()
            if at in steps
            and program.slots[slot].kind == "temporary"
            and isinstance(program.slots[slot].type, TensorType)
        ]
        self.lives = [Life(lives.first[slot], lives.last[slot]) for slot in self.slots]
        self.planner = Planner(self.lives)
        types = [program.slots[slot].type for slot in self.slots]
        self.shapes = [(numbers.taker(t.shape), t.dtype.itemsize) for t in types]
        self.guarded = any(is_guard(program.steps[number]) for number in phase)

    def lay_out(self, values: Sequence[int], sizes: Mapping[str, int]) -> PhaseLayout:
        """MemoryError for more than can be addressed."""
        slots, shapes, planner, stops = self.slots, self.shapes, self.planner, {}
        if self.guarded:
            stops = _stops(self.program, self.phase, sizes)
        if stops:
            closed = [range(number, self.program.steps[number].target) for number in stops]
            inside = [any(first in c and last in c for c in closed) for first, last in self.lives]
            slots, shapes, lives = (
                [each for each, shut in zip(every, inside, strict=True) if not shut]
                for every in (slots, shapes, self.lives)
            )
            planner = Planner(lives)
        room = [math.prod(take(values)) * itemsize for take, itemsize in shapes]
        if max(room, default=0) > LARGEST:
            for slot in slots:
                size_of(self.program, slot, sizes)
        plan = planner.plan(room)
        return PhaseLayout(dict(zip(slots, plan.offsets, strict=True)), plan.size, stops)


def lay_out(program: Program, lives: Lives, phase: Sequence[int], sizes: Mapping[str, int]) -> PhaseLayout:
    """The layout of a phase for sizes that are needed once."""
    numbers = Numbers()
    layouter = Layouter(program, lives, phase, numbers)
    return layouter.lay_out(numbers.lazily(sizes), sizes)


def is_guard(step: Step) -> bool:
    return isinstance(step, FlowStep) and step.kind == "guard"


def _stops(
    program: Program, phase: Sequence[int], sizes: Mapping[str, int]
) -> dict[int, TallowError | MemoryError]:
    """The steps of a phase that enter a region for which the sizes do not do."""
    stops: dict[int, TallowError | MemoryError] = {}
    for number in phase:
        step = program.steps[number]
        if is_guard(step):
            try:
                for check in step.checks:
                    verify_sizes(check, sizes)
                _verify_steps(program, range(number + 1, step.target), sizes)
            except (TallowError, MemoryError) as error:
                stops[number] = error
    return stops


def _verify_steps(program: Program, steps: range, sizes: Mapping[str, int]) -> None:
    """InputError or MemoryError where one of these steps cannot run; regions among them see for themselves."""
    inner = 0
    for number in steps:
        step = program.steps[number]
        if number < inner:
            continue
        if is_guard(step):
            inner = step.target
        if isinstance(step, KernelStep):
            numbers_of(step, sizes)
        reads, writes = step_reads_writes(step)
        for slot in (*reads, *writes):
            shape = shape_of(program, slot, sizes)
            size_of(program, slot, sizes)
            if min(shape, default=0) < 0:
                value = program.slots[slot]
                raise InputError(
                    f"the inputs' sizes do not fit: {value.name} of {value.type} would be {shape}"
                )
