"""Profiles: what each step of a run took, as a table and as a Chrome trace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tallow.dim import evaluate
from tallow.runtime.binding import Bound
from tallow.runtime.layout import size_of
from tallow.runtime.machine import Machine
from tallow.schedule.program import KernelStep, Program


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step: seconds (median), arithmetic, bytes of its operands and results, and its nodes."""

    label: str
    place: str
    seconds: float
    flops: int
    bytes: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """Steps in order of execution."""

    steps: tuple[StepTime, ...]

    @property
    def total(self) -> float:
        return sum(s.seconds for s in self.steps)

    def __str__(self) -> str:
        lines = ["      ms   share  GFLOP/s    GB/s  step"]
        for s in sorted(self.steps, key=lambda s: -s.seconds):
            rate, traffic = (v / s.seconds / 1e9 if s.seconds else 0.0 for v in (s.flops, s.bytes))
            share = s.seconds / self.total if self.total else 0.0
            where = s.nodes[0] if s.nodes else ""
            lines.append(
                f"{s.seconds * 1e3:8.3f} {share:6.1%} {rate:8.1f} {traffic:7.1f}  {s.label} [{s.place}] {where}"
            )
        return "\n".join(lines)

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


def measure(program: Program, machine: Machine, bound: Bound, runs: int) -> Profile:
    """Runs the program `runs` times after one to warm up."""
    samples: dict[int, list[float]] = {}
    machine.run(bound)
    for _ in range(runs):
        machine.run(bound, observe=lambda step, seconds: samples.setdefault(step, []).append(seconds))
    return Profile(
        tuple(_step(program, n, median(times), bound.sizes) for n, times in sorted(samples.items()))
    )


def _step(program: Program, number: int, seconds: float, sizes: dict[str, int]) -> StepTime:
    step = program.steps[number]
    if not isinstance(step, KernelStep):
        return StepTime(step.op, "host", seconds, 0, 0, (step.location.name,))
    try:
        moved = sum(size_of(program, slot, sizes) for slot in dict.fromkeys(step.arguments))
        flops = evaluate(step.flops, sizes)
    except Exception:  # sizes that only the run can tell
        moved = flops = 0
    return StepTime(
        step.label, "device", seconds, flops, moved, tuple(loc.name for loc in step.location if loc.name)
    )
