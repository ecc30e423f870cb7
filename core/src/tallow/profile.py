"""Profiles: what each step of a run took, as a table and as a Chrome trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tallow.backend import device_names
from tallow.compiled import Compiled
from tallow.dim import evaluate
from tallow.errors import GraphError
from tallow.roofline import Roofline
from tallow.runtime.binding import Bound
from tallow.runtime.layout import size_of
from tallow.runtime.machine import Machine
from tallow.schedule.program import FlowStep, KernelStep, PlacedStep, Program

DEVICE = "device"  # the place of kernels, where there is one device alone
StepPath = tuple[int, ...]  # the number of a step, or those of a placed step and of one inside


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step: seconds (median), arithmetic, bytes of its operands and results, and its nodes; of a step of
    a loop those of all iterations.

    `share` is the least time that the roofline allows over the time it took, `limit` what bounds it
    ("compute" or "memory"); None for host steps and where no roofline was measured.
    """

    label: str
    place: str
    seconds: float
    flops: int
    bytes: int
    nodes: tuple[str, ...]
    share: float | None = None
    limit: str | None = None

    @property
    def gflops(self) -> float:
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gigabytes(self) -> float:
        """GB/s."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """Steps in order of execution, and the roofline they are measured against."""

    steps: tuple[StepTime, ...]
    roofline: Roofline | None = None

    @property
    def total(self) -> float:
        return sum(s.seconds for s in self.steps)

    def __str__(self) -> str:
        lines = ["      ms    time  GFLOP/s    GB/s  roofline  step"]
        for s in sorted(self.steps, key=lambda s: -s.seconds):
            part = s.seconds / self.total if self.total else 0.0
            reached = "" if s.share is None else f"{s.share:.0%} {s.limit[:3]}"
            lines.append(
                f"{s.seconds * 1e3:8.3f} {part:7.1%} {s.gflops:8.1f} {s.gigabytes:7.1f} {reached:>9}  "
                f"{s.label} [{s.place}] {s.nodes[0] if s.nodes else ''}"
            )
        return "\n".join([*lines, f"{self.total * 1e3:8.3f} ms in {len(self.steps)} steps", *self._note()])

    def _note(self) -> list[str]:
        return [str(self.roofline)] if self.roofline else []

    def write_trace(self, path: str | Path) -> None:
        """A file for chrome://tracing or Perfetto."""
        events, start = [], 0.0
        for s in self.steps:
            details = {"flops": s.flops, "bytes": s.bytes, "nodes": s.nodes}
            events.append(
                {
                    "name": s.label,
                    "ph": "X",
                    "pid": 0,
                    "tid": s.place,
                    "ts": start * 1e6,
                    "dur": s.seconds * 1e6,
                    "args": details,
                }
            )
            start += s.seconds
        Path(path).write_text(json.dumps({"traceEvents": events}))


def names_of(compiled: Compiled) -> list[str]:
    """What profiles call the devices that a program is made for."""
    return device_names(compiled.targets) if compiled.others else [DEVICE]


def measure(
    program: Program,
    machine: Machine,
    bound: Bound,
    runs: int,
    roofline: Roofline | None = None,
    names: Sequence[str] = (DEVICE,),
) -> Profile:
    """Runs the program `runs` times after one to warm up. `names`: what the profile calls the devices."""
    samples: dict[StepPath, list[float]] = {}
    times: dict[StepPath, int] = {}

    def note(step: int | StepPath, seconds: float, count: int) -> None:
        samples.setdefault(_path(step), []).append(seconds)
        times[_path(step)] = count

    machine.run(bound)
    for _ in range(runs):
        machine.run(bound, observe=note)
    medians = [(path, median(taken), times[path]) for path, taken in sorted(samples.items())]
    return _profile(program, medians, bound.sizes, roofline, names)


def observe(
    program: Program, machine: Machine, bound: Bound, names: Sequence[str] = (DEVICE,)
) -> tuple[list, Profile]:
    """The results of one run, and what each of its steps took."""
    noted: list[tuple[StepPath, float, int]] = []

    def note(step: int | StepPath, seconds: float, count: int) -> None:
        noted.append((_path(step), seconds, count))

    results = machine.run(bound, observe=note)
    return results, _profile(program, noted, bound.sizes, None, names)


def _path(step: int | StepPath) -> StepPath:
    """The number of a step, or those of a placed step and of one inside."""
    return step if isinstance(step, tuple) else (step,)


def _profile(
    program: Program,
    taken: Sequence[tuple[StepPath, float, int]],
    sizes: Mapping[str, int],
    roofline: Roofline | None,
    names: Sequence[str],
) -> Profile:
    steps = []
    for path, seconds, count in taken:
        owner, device = program, 0
        for number in path[:-1]:
            placed = owner.steps[number]
            owner, device = placed.program, placed.device
        limits = None if device else roofline
        steps.append(_step(owner, path[-1], seconds, count, sizes, limits, names[device], names))
    return Profile(tuple(steps), roofline)


def _step(
    program: Program,
    number: int,
    seconds: float,
    count: int,
    sizes: Mapping[str, int],
    roofline: Roofline | None,
    place: str,
    names: Sequence[str],
) -> StepTime:
    step = program.steps[number]
    if isinstance(step, PlacedStep):
        nodes = tuple(each.node for each in step.moved if each.node)
        return StepTime(f"copies for {names[step.device]}", "copy", seconds, 0, 0, nodes)
    if not isinstance(step, KernelStep):
        label = f"{step.op}: {step.kind}" if isinstance(step, FlowStep) else step.op
        place = place if isinstance(step, FlowStep) else "host"
        return StepTime(label, place, seconds, 0, 0, (step.location.name,))
    nodes = step.nodes
    try:
        moved = count * sum(size_of(program, slot, sizes) for slot in dict.fromkeys(step.arguments))
        flops = count * evaluate(step.flops, sizes)
    except GraphError:  # sizes that only the run can tell
        return StepTime(step.label, place, seconds, 0, 0, nodes)
    if roofline is None or not seconds:
        return StepTime(step.label, place, seconds, flops, moved, nodes)
    share = roofline.least_seconds(flops, moved) / seconds
    return StepTime(step.label, place, seconds, flops, moved, nodes, share, roofline.limit(flops, moved))
