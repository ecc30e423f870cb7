"""The plan of an executable: its steps, where and why each runs, and the memory it needs."""

from __future__ import annotations

from dataclasses import dataclass

from tallow.compiled import Compiled
from tallow.dim import evaluate, symbols
from tallow.runtime.layout import lay_out, lives_of, phases_of
from tallow.schedule.program import ControlStep, HostStep, KernelStep, Program


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step: what it does, where it runs and why, and the user's own nodes in it."""

    label: str
    place: str
    reason: str
    nodes: tuple[str, ...]
    flops: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order; sizes in bytes. `arena` is None while sizes are symbolic."""

    target: str
    steps: tuple[PlanStep, ...]
    constants: int
    code: int
    arena: int | None

    def __str__(self) -> str:
        arena = "depends on sizes" if self.arena is None else f"{self.arena / 1e6:.2f} MB"
        head = (
            f"{self.target}: {len(self.steps)} steps, arena {arena}, constants {self.constants / 1e6:.2f} MB"
        )
        lines = [f"  {s.place:6} {s.label}" + (f"  ({s.reason})" if s.reason else "") for s in self.steps]
        return "\n".join([f"{head}, code {self.code / 1e3:.0f} kB", *lines])


def describe(compiled: Compiled, threads: int) -> Plan:
    """The plan of a compiled program."""
    program = compiled.program
    steps = tuple(_step(s, compiled.target.backend) for s in program.steps)
    constants = sum(a.nbytes for a in compiled.constants.values())
    return Plan(
        f"{compiled.target}, {threads} threads",
        steps,
        constants,
        len(compiled.code.blob),
        arena_size(program),
    )


def _step(step, backend: str) -> PlanStep:
    match step:
        case KernelStep():
            names = tuple(loc.name for loc in step.location if loc.name)
            return PlanStep(step.label, backend, "", names, str(step.flops))
        case HostStep():
            return PlanStep(step.op, "host", step.reason, (step.location.name,), "0")
        case ControlStep():
            inner = sum(len(r.steps) for r in step.regions.values())
            return PlanStep(step.op, "host", f"control flow over {inner} steps", (step.location.name,), "0")


def arena_size(program: Program, sizes: dict[str, int] | None = None) -> int | None:
    """Bytes of temporaries for these sizes; None when a size is not given."""
    known = sizes or {}
    lives = lives_of(program)
    needed = {n for s in program.slots for d in getattr(s.type, "shape", ()) for n in symbols(d)}
    if needed - set(known):
        return None
    return sum(lay_out(program, lives, phase, known).arena for phase in phases_of(program))


def step_flops(step, sizes: dict[str, int]) -> int:
    """Arithmetic of a step for known sizes."""
    return evaluate(step.flops, sizes) if isinstance(step, KernelStep) else 0
