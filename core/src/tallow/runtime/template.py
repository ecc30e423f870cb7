"""A phase's template: all that sizes do not change, found once, so that new sizes only fill numbers in."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from tallow.backend import Module
from tallow.runtime.bind_steps import Place, Places, Run
from tallow.runtime.frame import PhasePlan, Segment
from tallow.runtime.layout import (
    BEYOND,
    NATIVE,
    Layouter,
    Lives,
    PhaseLayout,
    is_known,
    root_of,
    size_of,
)
from tallow.runtime.numbers import Numbers
from tallow.schedule.checks import verify_sizes
from tallow.schedule.memory import LARGEST
from tallow.schedule.program import Program


class Template:
    """Phase `number` of a program. `fixed` says where a slot lies that is no temporary; `known` are the
    names of the sizes that are bound when the phase begins."""

    def __init__(
        self,
        program: Program,
        lives: Lives,
        phase: tuple[int, ...],
        number: int,
        fixed: Callable[[int], Place | None],
        known: Collection[str],
    ):
        self.program, self.number = program, number
        self.numbers, self.places = Numbers(), Places(fixed)
        self.checks = [check for check in program.checks if check.sizes <= set(known)]
        self.layouter = Layouter(program, lives, phase, self.numbers)
        self.results = []
        for position, slot in enumerate(program.outputs):
            root = root_of(program, slot)
            made = program.slots[root].kind == "output" and lives.first.get(root) in phase
            first = all(root != before for before, *_ in self.results)
            if made and first and is_known(program, slot, dict.fromkeys(known, 0)):
                type_ = program.slots[slot].type
                self.results.append((root, position, self.numbers.taker(type_.shape), type_.dtype.itemsize))
        self.runs: list[Run | int] = []  # what the device does at a stretch, and steps that are not its own
        stretch: list[int] = []
        for step in (*phase, None):
            if step is not None and isinstance(program.steps[step], NATIVE):
                stretch.append(step)
                continue
            if stretch:
                self.runs.append(Run(program, stretch, self.numbers, self.places))
            stretch = []
            if step is not None:
                self.runs.append(step)

    def bind(
        self, sizes: Mapping[str, int], earlier: Mapping[int, PhaseLayout], module: Module, threads: int
    ) -> PhasePlan:
        """The phase for known sizes; `earlier` are the layouts of the phases before. InputError or
        MemoryError for sizes that do not do."""
        for check in self.checks:
            verify_sizes(check, sizes)
        some_fail = self.layouter.guarded  # sizes that no step can run with are behind guards
        values = self.numbers.lazily(sizes) if some_fail else self.numbers.values(sizes)
        wide = some_fail or max(map(abs, values), default=0) >= BEYOND
        layout, results = self.layouter.lay_out(values, sizes), self._results(values, sizes)
        places = {s: (1 + n, offset) for n, before in earlier.items() for s, offset in before.offsets.items()}
        places |= {s: (1 + self.number, offset) for s, offset in layout.offsets.items()}
        at = self.places.values(places)
        segments = []
        for run in self.runs:
            if not isinstance(run, Run):
                segments.append(Segment(None, (run,)))
                continue
            bound, kept, reads = run.bind(values, at, sizes, layout.stops, wide)
            if bound:
                segments.append(Segment(module.prepare(bound, threads), kept, reads, run.branches))
        return PhasePlan(layout, tuple(segments), results)

    def _results(self, values, sizes: Mapping[str, int]) -> tuple:
        """Arrays to make: shaped as the first result that a slot is, which may be a view of it."""
        found = []
        for root, position, take, itemsize in self.results:
            shape = take(values)
            if math.prod(shape) * itemsize > LARGEST:
                size_of(self.program, root, sizes)
            found.append((root, position, shape))
        return tuple(found)
