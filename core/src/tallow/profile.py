"""Profiles: what each step of a run took, as a table and as a Chrome trace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tallow.dim import evaluate
from tallow.errors import GraphError
from tallow.roofline import Roofline
from tallow.runtime.binding import Bound
from tallow.runtime.layout import size_of
from tallow.runtime.machine import Machine
from tallow.schedule.program import FlowStep, KernelStep, Program


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


def measure(
    program: Program, machine: Machine, bound: Bound, runs: int, roofline: Roofline | None = None
) -> Profile:
    """Runs the program `runs` times after one to warm up."""
    samples: dict[int, list[float]] = {}
    times: dict[int, int] = {}

    def note(step: int, seconds: float, count: int) -> None:
        samples.setdefault(step, []).append(seconds)
        times[step] = count

    machine.run(bound)
    for _ in range(runs):
        machine.run(bound, observe=note)
    return Profile(
        tuple(
            _step(program, n, median(taken), times[n], bound.sizes, roofline)
            for n, taken in sorted(samples.items())
        ),
        roofline,
    )


def observe(program: Program, machine: Machine, bound: Bound) -> tuple[list, Profile]:
    """The results of one run, and what each of its steps took."""
    noted: list[tuple[int, float, int]] = []
    results = machine.run(bound, observe=lambda *step: noted.append(step))
    return results, Profile(tuple(_step(program, *each, bound.sizes, None) for each in noted))


def _step(
    program: Program,
    number: int,
    seconds: float,
    count: int,
    sizes: dict[str, int],
    roofline: Roofline | None,
) -> StepTime:
    step = program.steps[number]
    if not isinstance(step, KernelStep):
        place = "device" if isinstance(step, FlowStep) else "host"
        label = f"{step.op}: {step.kind}" if isinstance(step, FlowStep) else step.op
        return StepTime(label, place, seconds, 0, 0, (step.location.name,))
    nodes = step.nodes
    try:
        moved = count * sum(size_of(program, slot, sizes) for slot in dict.fromkeys(step.arguments))
        flops = count * evaluate(step.flops, sizes)
    except GraphError:  # sizes that only the run can tell
        return StepTime(step.label, "device", seconds, 0, 0, nodes)
    if roofline is None or not seconds:
        return StepTime(step.label, "device", seconds, flops, moved, nodes)
    share = roofline.least_seconds(flops, moved) / seconds
    return StepTime(step.label, "device", seconds, flops, moved, nodes, share, roofline.limit(flops, moved))
