"""Bound steps: what a device is given of a run of kernel and flow steps once sizes and places are known."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from tallow.backend import BoundFlow, BoundStep
from tallow.runtime.layout import numbers_of, root_of, size_of, step_reads_writes
from tallow.runtime.numbers import Numbers, Take, taker
from tallow.schedule.program import FlowStep, KernelStep, Program

JUMPS = ("jump", "unless", "until", "again")
Place = tuple[int, int]  # number of a base, and bytes from there
Bound = BoundStep | BoundFlow


class Places:
    """Where slots lie: some always at one place, temporaries where each layout puts them."""

    def __init__(self, fixed: Callable[[int], Place | None]):
        self._fixed = fixed
        self._numbers: dict[int, int] = {}
        self._places: list[Place | None] = []
        self._open: list[tuple[int, int]] = []

    def taker(self, roots: Sequence[int]) -> Take:
        """What takes the places of these slots, which are no views, out of `values`."""
        return taker([self._number(root) for root in roots])

    def _number(self, root: int) -> int:
        if root not in self._numbers:
            number = self._numbers[root] = len(self._places)
            self._places.append(self._fixed(root))
            if self._places[-1] is None:
                self._open.append((number, root))
        return self._numbers[root]

    def values(self, temporaries: Mapping[int, Place]) -> list[Place | None]:
        """None for the temporaries of regions that are not entered."""
        places = self._places.copy()
        for number, root in self._open:
            places[number] = temporaries.get(root)
        return places


class Row(NamedTuple):
    """A step as far as it is known before sizes are. `take_sizes` takes a kernel's sizes, or a flow step's rows;
    `grid` is the place of a kernel's."""

    step: KernelStep | FlowStep
    take_places: Take
    take_sizes: Take
    grid: int
    label: str


class Run:
    """Consecutive steps of the device."""

    def __init__(self, program: Program, steps: Sequence[int], numbers: Numbers, places: Places):
        self.program, self.steps = program, tuple(steps)
        self.rows = [_row(program, number, numbers, places) for number in steps]
        self.reads = self._reads(self.steps)
        self.branches = any(isinstance(row.step, FlowStep) for row in self.rows)

    def _reads(self, steps: Sequence[int]) -> tuple[int, ...]:
        """The inputs and results of the host that these steps use."""
        used = (slot for n in steps for part in step_reads_writes(self.program.steps[n]) for slot in part)
        roots = dict.fromkeys(root_of(self.program, slot) for slot in used)
        return tuple(slot for slot in roots if self.program.slots[slot].kind in ("input", "host"))

    def bind(
        self,
        values: Sequence[int],
        places: Sequence[Place | None],
        sizes: Mapping[str, int],
        stops: Mapping[int, object],
        wide: bool,
    ) -> tuple[list[Bound], tuple[int, ...], tuple[int, ...]]:
        """The steps that have something to do, their numbers, and what they read of inputs and of the host.
        Regions behind one of the `stops` are left out. `wide`: some number may be beyond 64 bits."""
        pairs = zip(self.steps, self.rows, strict=True)
        if self.branches:
            pairs = [(number, row) for number, row in pairs if not self._is_closed(number, stops)]
        made = [
            (number, self._bind(number, row, values, places, sizes, stops, wide)) for number, row in pairs
        ]
        kept = tuple([number for number, one in made if one is not None])
        bound = [one for _, one in made if one is not None]
        if self.branches:
            self._aim(bound, kept)
        return bound, kept, self.reads if len(kept) == len(self.steps) else self._reads(kept)

    def _is_closed(self, number: int, stops: Collection[int]) -> bool:
        """Whether a step is behind a stop that ends the run before it."""
        return any(stop < number < self.program.steps[stop].target for stop in stops)

    def _aim(self, bound: list[Bound], kept: Sequence[int]) -> None:
        """Jumps lead to the first kept step that is not before their target."""
        for position, number in enumerate(kept):
            step = self.program.steps[number]
            if isinstance(step, FlowStep) and step.kind in JUMPS:
                bound[position] = bound[position]._replace(target=bisect_left(kept, step.target))

    def _bind(self, number: int, row: Row, values, places, sizes, stops, wide: bool) -> Bound | None:
        """One step, or None where there is nothing to do."""
        step = row.step
        if isinstance(step, KernelStep):
            grid = values[row.grid]
            if grid <= 0:
                return None
            if wide:
                numbers_of(step, sizes)
            taken = row.take_places(places), row.take_sizes(values)
            return BoundStep(step.entry, *taken, grid, step.grain, row.label)
        kind, size = step.kind, 0
        if kind == "guard":
            if number not in stops:
                return None
            kind = "stop"
        if kind in ("copy", "row"):
            size = size_of(self.program, step.reads[0], sizes)
        if kind == "copy" and not size:
            return None
        (rows,) = row.take_sizes(values)
        return BoundFlow(kind, row.take_places(places), 0, size, rows, row.label)


def _row(program: Program, number: int, numbers: Numbers, places: Places) -> Row:
    step = program.steps[number]
    if isinstance(step, KernelStep):
        arguments, sizes, grid = step.arguments, step.sizes, numbers.place(step.grid)
    else:
        arguments, sizes, grid = (*step.reads, *step.writes), (step.rows,), 0
    where = places.taker([root_of(program, slot) for slot in arguments])
    return Row(step, where, numbers.taker(sizes), grid, step.described)
