"""The plan of an executable: its steps, where and why each runs, and the memory it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap

import numpy as np

from tallow.backend import device_names
from tallow.compiled import Compiled, Tuning
from tallow.dim import substitute, symbols
from tallow.runtime.layout import lay_out, lives_of, phases_of
from tallow.runtime.transfers import Transfer, steps_with_transfers
from tallow.schedule.program import (
    ControlStep,
    FlowStep,
    HostStep,
    KernelStep,
    Moved,
    PlacedStep,
    Program,
    programs_of,
)


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step: what it does, where it runs and why, and the user's own nodes in it. `flops` is a number
    or an expression in the sizes. The place of a copy between host and device is "copy"; its reason says of
    what, and with which device of several."""

    label: str
    place: str
    reason: str
    nodes: tuple[str, ...]
    flops: str


@dataclass(frozen=True, slots=True)
class Weight:
    """One constant. `state`: "mapped" when its bytes are used where they lie in a file, "copied" when
    memory holds them (repacked, computed at compile time, or read)."""

    name: str
    type: str
    bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order; sizes in bytes. `arena` is what temporaries take, known before the run; None while
    it depends on sizes (`Executable.plan_for` gives them). `tuning`: what was chosen and by what."""

    target: str
    steps: tuple[PlanStep, ...]
    weights: tuple[Weight, ...]
    constants: int
    code: int
    arena: int | None
    tuning: Tuning = Tuning()

    @property
    def mapped(self) -> int:
        """Bytes of the constants that are used where they lie in a file."""
        return sum(w.bytes for w in self.weights if w.state == "mapped")

    def __str__(self) -> str:
        arena = "depends on sizes" if self.arena is None else f"{self.arena / 1e6:.2f} MB"
        weights = f"constants {self.constants / 1e6:.2f} MB ({self.mapped / 1e6:.2f} MB mapped)"
        head = (
            f"{self.target}: {len(self.steps)} steps, arena {arena}, {weights}, code {self.code / 1e3:.0f} kB"
        )
        chosen = [f"  {self.tuning}"] if self.tuning.choices else []
        return "\n".join([head, *chosen, *(_line(s) for s in self.steps)])


def _line(step: PlanStep) -> str:
    reason = f"  ({step.reason})" if step.reason else ""
    nodes = f"  {', '.join(step.nodes)}" if any(step.nodes) else ""
    return f"  {step.place:6} {step.label}{reason}{nodes}"


def describe(
    compiled: Compiled, threads: int, sizes: Mapping[str, int], hosts: frozenset[int] = frozenset({0})
) -> Plan:
    """The plan of a compiled program, with these sizes filled in, and with the copies to and from devices other
    than `hosts`, which are numbers in the list that it is made for."""
    weights = tuple(_weight(name, array) for name, array in _named(compiled))
    return Plan(
        f"{', '.join(map(str, compiled.targets))}, {threads} threads",
        tuple(_Describer(compiled, sizes, hosts).steps(compiled.program, 0)),
        weights,
        sum(w.bytes for w in weights),
        sum(len(part.code.blob) for part in compiled.parts),
        arena_size(compiled.program, sizes),
        compiled.tunings,
    )


def _named(compiled: Compiled) -> list[tuple[str, np.ndarray]]:
    """Each constant of each device once, under the name of the first slot that holds it."""
    names: dict[tuple[int, str], str] = {}
    for device, program in programs_of(compiled.program):
        for slot, key in program.constants.items():
            names.setdefault((device, key), program.slots[slot].name)
    return [
        (names.get((device, key), key), array)
        for device, part in enumerate(compiled.parts)
        for key, array in part.constants.items()
    ]


def _weight(name: str, array: np.ndarray) -> Weight:
    text = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
    return Weight(name, text, array.nbytes, "mapped" if is_mapped(array) else "copied")


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array's bytes lie in a mapped file."""
    base: object = array
    while base is not None:
        if isinstance(base, (np.memmap, mmap)):
            return True
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return False


class _Describer:
    """Says what each step of a program is and where it runs; steps on other devices stand among the rest."""

    def __init__(self, compiled: Compiled, sizes: Mapping[str, int], hosts: frozenset[int]):
        self.names = device_names(compiled.targets)
        self.sizes, self.hosts = sizes, hosts

    def steps(self, program: Program, device: int, moved: Sequence[Moved] = ()) -> Iterator[PlanStep]:
        whys = {each.node: each.reason for each in moved if each.node}
        nameless = "; ".join(dict.fromkeys(each.reason for each in moved if not each.node))
        for step in steps_with_transfers(program, self.hosts, device):
            match step:
                case Transfer(kind, slot, number):
                    value = program.slots[slot]
                    which = f", {self.names[number]}" * (len(self.names) > 1)
                    yield PlanStep(kind, "copy", f"{value.type}{which}", (value.name,), "0")
                case PlacedStep():
                    yield from self.steps(step.program, step.device, step.moved)
                case KernelStep():
                    why = "; ".join(dict.fromkeys(whys[n] for n in step.nodes if n in whys)) or nameless
                    flops = str(substitute(step.flops, self.sizes))
                    yield PlanStep(step.label, self.names[device], why, step.nodes, flops)
                case HostStep():
                    yield PlanStep(step.op, "host", step.reason, (step.location.name,), "0")
                case ControlStep():
                    inner = sum(len(r.steps) for r in step.regions.values())
                    why = f"control flow over {inner} steps in Python: {step.reason}"
                    yield PlanStep(step.op, "host", why, (step.location.name,), "0")
                case FlowStep():
                    label, names = f"{step.op}: {step.kind}", (step.location.name,)
                    yield PlanStep(label, self.names[device], _meaning(program, step), names, "0")


def _meaning(program: Program, step: FlowStep) -> str:
    """What a step of control flow does, in words."""
    names = [program.slots[slot].name for slot in (*step.reads, *step.writes)]
    match step.kind:
        case "jump":
            return f"goes on at step {step.target}"
        case "unless":
            return f"goes on at step {step.target} unless {names[0]}"
        case "until":
            return f"goes on at step {step.target} unless {names[0]} < {names[1]}"
        case "again":
            return f"counts {names[0]} and goes on at step {step.target}"
        case "copy" | "row":
            return f"{names[0]} to {names[-1]}"
        case "exactly":
            return f"expects {step.rows} iterations"
        case "guard":
            return f"steps to {step.target - 1}, if sizes fit there"
    return step.message


def arena_size(program: Program, sizes: Mapping[str, int] | None = None) -> int | None:
    """Bytes of temporaries for these sizes, on all devices; None when a size is not given."""
    known = sizes or {}
    needed = {n for s in program.slots for d in getattr(s.type, "shape", ()) for n in symbols(d)}
    if needed - set(known):
        return None
    lives, total = lives_of(program), 0
    for step in program.steps:
        if isinstance(step, PlacedStep):
            inner = arena_size(step.program, known)
            if inner is None:
                return None
            total += inner
    return total + sum(lay_out(program, lives, phase, known).arena for phase in phases_of(program))
