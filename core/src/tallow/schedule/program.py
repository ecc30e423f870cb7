"""The Program: ordered steps over numbered slots of memory, for one target; no device is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from tallow.dim import Dim
from tallow.location import Location
from tallow.schedule.checks import Check
from tallow.types import Type

if TYPE_CHECKING:
    from tallow.kernel.grammar import Kernel

SlotKind = Literal["input", "output", "constant", "temporary", "host"]


class Slot(NamedTuple):
    """A materialised value: where it lives and what it is.

    output: written straight into the caller's array. temporary: a place in the arena. host: made by a
    host step, owned by the run. A view names the slot whose memory it shares.
    """

    name: str
    type: Type
    kind: SlotKind
    view_of: int | None = None


def root_among(slots: Sequence[Slot], slot: int) -> int:
    """The slot whose memory a view shares; the slot itself if it is no view."""
    while (below := slots[slot].view_of) is not None:
        slot = below
    return slot


class KernelStep(NamedTuple):
    """One kernel call. `entry` names the kernel; `arguments` are slots, one for each parameter."""

    entry: str
    arguments: tuple[int, ...]
    sizes: tuple[Dim, ...]
    grid: Dim
    grain: int
    flops: Dim
    writes: tuple[int, ...]
    location: tuple[Location, ...]
    label: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the user's nodes in it."""
        return tuple(place.name for place in self.location if place.name)

    @property
    def described(self) -> str:
        """What errors call it."""
        return f"{self.label} ({', '.join(self.nodes)})" if self.nodes else self.label


class HostStep(NamedTuple):
    """A node that runs in Python through its numpy meaning; `reason` says why."""

    op: str
    attributes: Mapping[str, object]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    defines: tuple[str, ...]
    location: Location
    reason: str


class ControlStep(NamedTuple):
    """An `if` or `loop` that runs in Python, `reason` says why; each region is a Program whose inputs are its
    own, then what it captures."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    regions: Mapping[str, Program]
    captured: Mapping[str, tuple[int, ...]]
    defines: tuple[str, ...]
    location: Location
    reason: str


FlowKind = Literal["jump", "unless", "until", "again", "copy", "row", "exactly", "stop", "guard"]


class FlowStep(NamedTuple):
    """What a device that branches does itself between the kernels of an `if` or `loop` (`op`); what each
    kind means is in `backend.BoundFlow`.

    target: a step. rows: a number of the kind. message: why a `stop` is there. A `guard` enters a region of
    steps that ends before its target, and is a stop where sizes do not fit there: `checks` fail, or shapes
    come out negative.
    """

    kind: FlowKind
    op: str
    location: Location
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    target: int = 0
    rows: Dim = 0
    checks: tuple[Check, ...] = ()
    message: str = ""

    @property
    def described(self) -> str:
        """What errors call it."""
        return f"{self.op} ({self.location.name})" if self.location.name else self.op


class Moved(NamedTuple):
    """A node that runs on another device than the first, and why."""

    op: str
    node: str
    reason: str


class PlacedStep(NamedTuple):
    """Steps that run on another device, number `device` of the list: a Program of its own, which takes
    `inputs`, gives `outputs` and binds the sizes that it `defines`."""

    device: int
    program: Program
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    defines: tuple[str, ...]
    location: Location
    moved: tuple[Moved, ...]

    @property
    def op(self) -> str:
        """What plans and errors call it."""
        return f"work for device {self.device} of the list"


Step = KernelStep | HostStep | ControlStep | FlowStep | PlacedStep


class Program(NamedTuple):
    """Everything a run needs but the machine code and the constants' bytes.

    constants: slot -> key of the array in the executable's constants. lengths: arena bytes are planned
    when sizes are bound. symbols: name -> (lower, upper) bounds of the sizes that inputs bind. checks:
    what must hold of sizes once they are known.
    """

    name: str
    slots: tuple[Slot, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    constants: Mapping[int, str]
    steps: tuple[Step, ...]
    symbols: Mapping[str, tuple[int, int | None]] = {}
    checks: tuple[Check, ...] = ()


def programs_of(program: Program, device: int = 0) -> Iterator[tuple[int, Program]]:
    """The program and those inside its steps, each with the number of the device that it runs on."""
    yield device, program
    for step in program.steps:
        match step:
            case ControlStep():
                for region in step.regions.values():
                    yield from programs_of(region, device)
            case PlacedStep():
                yield from programs_of(step.program, step.device)


def operators_of(program: Program) -> set[str]:
    """The operators whose rows a run needs: those of host steps and of checks."""
    found = {check.op for check in program.checks}
    for step in program.steps:
        match step:
            case HostStep():
                found.add(step.op)
            case ControlStep():
                found = found.union(*map(operators_of, step.regions.values()))
            case PlacedStep():
                found |= operators_of(step.program)
            case FlowStep():
                found |= {check.op for check in step.checks}
                found |= {step.op} if step.kind == "stop" else set()
    return found


class Scheduled(NamedTuple):
    """A program with the kernels that its steps name and the arrays of its constants."""

    program: Program
    kernels: Mapping[str, Kernel]
    constants: Mapping[str, object]
