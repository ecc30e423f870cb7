"""The kit's micro-benchmark: `python -m tallow.testing.speed --device NAME`, shares of the device's own ceiling.

The ceiling is measured on the device in turns with each case: the best packed product that it does, and how
fast its own kernels copy. So a share says what an operator leaves unused, not how good the device's product is.
Times are those of a call with fresh results, and on a device with memory of its own hold the way there and back.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

import tallow
from tallow.errors import TallowError
from tallow.executable import Executable
from tallow.graph import Graph
from tallow.schedule.program import HostStep
from tallow.testing.speed_cases import CASES, Case, bytes_moved, copy, matmul

TOLERANCE = 1e-3  # of the largest value: float32 sums in another order, or by Winograd's algorithm
SQUARES = (256, 512, 1024, 2048)  # of the products that may set the ceiling
LARGE = 4 << 20  # bytes of a result
PATIENCE = 0.3  # seconds of a product after which no larger one is tried


class Rates(Protocol):
    """What bounds a case: operations ("sgemm") or bytes read and written ("copy") in one second, measured now."""

    best: dict[str, float]

    def ask(self, kind: str) -> float: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """One case. `share` is the median over rounds of (time at the ceiling's rate / time taken), and
    `least` the same of the highest rate and the least time; an algorithm that needs less arithmetic, or
    data that stay in a cache, can take both beyond 1."""

    name: str
    seconds: float
    gigaflops: float
    gigabytes: float
    bound: str
    share: float
    least: float


class WrongResult(Exception):
    """A case gives something else than its numpy meaning."""


class NotThere(Exception):
    """The device leaves a case to the host."""


class DeviceRates:
    """The ceilings of a device, by its own kernels. Without a product of its own only memory bounds."""

    def __init__(self, device: str, threads: int | None):
        self.best: dict[str, float] = {}
        self._jobs: dict[str, tuple[float, Callable[[], object]]] = {}
        for size in SQUARES:
            try:
                amount, work = _job(
                    matmul(size, size, size, True), device, threads, lambda case: case.operations
                )
            except NotThere:
                break
            seconds = time_of(work, 2)
            if "sgemm" not in self._jobs or amount / seconds > self.best["sgemm"]:
                self._jobs["sgemm"], self.best["sgemm"] = (amount, work), amount / seconds
            if seconds > PATIENCE:
                break
        self._jobs["copy"] = _job(copy(4096, 4096), device, threads, lambda case: bytes_moved(case.graph()))

    def ask(self, kind: str) -> float:
        """The rate now: the best of a few tries; infinite for products that the device does not do."""
        if kind not in self._jobs:
            return math.inf
        amount, work = self._jobs[kind]
        rate = amount / time_of(work, 3)
        self.best[kind] = max(rate, self.best.get(kind, 0.0))
        return rate


def _job(
    case: Case, device: str, threads: int | None, amount: Callable
) -> tuple[float, Callable[[], object]]:
    """What a case amounts to, and a call that does it into the same array each time."""
    graph = case.graph()
    run, arrays = compiled(graph, device, threads), list(make_inputs(graph).values())
    out = np.zeros(graph.outputs[0].shape, np.float32)
    return amount(case), lambda: run(*arrays, out=out)


def compiled(graph: Graph, device: str, threads: int | None) -> Executable:
    """The executable of a graph; NotThere with the reason when any of it runs on the host."""
    run = tallow.compile(graph, device, threads=threads)
    reasons = [step.reason for step in run.compiled.program.steps if isinstance(step, HostStep)]
    if reasons:
        raise NotThere("; ".join(reasons))
    return run


def measure_case(
    case: Case,
    rates: Rates,
    threads: int | None,
    rounds: int,
    seconds: float,
    device: str = "cpu",
    cores: int = 1,
) -> Measured:
    """Check a case against numpy, then time it in turns with the ceiling that bounds it, `cores` times which it
    may reach."""
    graph = case.graph()
    run, inputs = compiled(graph, device, threads), make_inputs(graph)
    arrays = list(inputs.values())
    y = run(*arrays)
    found = difference({"y": y}, tallow.evaluate(graph, inputs))
    if found > TOLERANCE:
        raise WrongResult(f"differs from numpy by {found:.2g} of the largest value")
    moved = bytes_moved(graph)
    bound = bound_of(case.operations, moved, rates.ask("sgemm"), rates.ask("copy"))
    amount = case.operations if bound == "sgemm" else moved
    # Fresh memory comes page by page: large results go where the first one lies.
    work = partial(run, *arrays, out=y if y.nbytes >= LARGE else None)
    runs = max(1, round(seconds / time_of(work, 2)))
    found_rates, times = [], []
    for _ in range(rounds):
        found_rates.append(rates.ask(bound) * cores)
        times.append(time_of(work, runs))
    return Measured(
        name=case.name,
        seconds=min(times),
        gigaflops=case.operations / min(times) / 1e9,
        gigabytes=moved / min(times) / 1e9,
        bound=bound,
        share=statistics.median(amount / rate / t for rate, t in zip(found_rates, times, strict=True)),
        least=amount / max(found_rates) / min(times),
    )


def difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """The largest difference over all results, relative to the largest value of each; infinity for
    results that are missing, of another shape, or not finite."""
    worst = 0.0
    for name, wanted in theirs.items():
        found = ours.get(name)
        if found is None or found.shape != wanted.shape:
            return np.inf
        if wanted.size:
            a, b = found.astype(np.float64), wanted.astype(np.float64)
            distance = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
            worst = max(worst, distance) if np.isfinite(distance) else np.inf
    return float(worst)


def make_inputs(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {v.name: rng.standard_normal(v.shape, np.float32) for v in graph.inputs}


def bound_of(operations: int, moved: int, flops: float, bandwidth: float) -> str:
    """The ceiling that allows a case less: arithmetic or memory."""
    return "sgemm" if operations / flops > moved / bandwidth else "copy"


def time_of(work: Callable[[], object], runs: int) -> float:
    """The least time of some runs, after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


# The table ----------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("filters", nargs="*", metavar="FILTER", help="parts of names, such as conv or gemv")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.03, help="of each turn")
    parser.add_argument("--list", action="store_true", help="only print the names")


def chosen(cases: Sequence[Case], parser: argparse.ArgumentParser, filters: Sequence[str]) -> list[Case]:
    """The cases whose name contains one of the filters; an error of the parser when there are none."""
    found = [case for case in cases if any(f in case.name for f in filters or [""])]
    if not found:
        families = dict.fromkeys(case.name.split()[0] for case in cases)
        parser.error(f"no case matches {' '.join(filters)}: the families are {', '.join(families)}")
    return found


def measure_all(
    cases: Sequence[Case], measure: Callable[[Case], Measured]
) -> tuple[list[Measured], list[str]]:
    """Rows of a table, printed as they come, then the means of families; and what is wrong with the others."""
    rows, failed = [], []
    print("| case | us | GFLOP/s | GB/s | share of the ceiling | bound by |\n|---|---|---|---|---|---|")
    for case in cases:
        try:
            row = measure(case)
        except (WrongResult, NotThere, TallowError) as error:
            if not isinstance(error, NotThere):
                failed.append(f"{case.name}: {error}")
            print(f"| {case.name} | {error} | | | | |", flush=True)
            continue
        rows.append(row)
        print(as_row(row), flush=True)
    print("\n".join(family_means(rows)))
    return rows, failed


def as_row(row: Measured) -> str:
    rates = f"{row.gigaflops:.1f} | {row.gigabytes:.1f}"
    return f"| {row.name} | {row.seconds * 1e6:.1f} | {rates} | {row.share:.0%} ({row.least:.0%}) | {row.bound} |"


def family_means(rows: Sequence[Measured]) -> list[str]:
    """One row for each family: the geometric means of its shares."""
    lines = []
    for family in dict.fromkeys(row.name.split()[0] for row in rows):
        members = [row for row in rows if row.name.split()[0] == family]
        share, least = (
            statistics.geometric_mean(getattr(r, key) for r in members) for key in ("share", "least")
        )
        lines.append(f"| **{family}, geometric mean** | | | | **{share:.0%}** ({least:.0%}) | |")
    return lines


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 1 when a case fails or is wrong; one that the device leaves to the host is a row with the reason."""
    parser = argparse.ArgumentParser("python -m tallow.testing.speed", description=__doc__)
    parser.add_argument("--device", required=True, metavar="NAME")
    parser.add_argument("--threads", type=int, help="at most so many, by default all cores")
    add_options(parser)
    options = parser.parse_args(words)
    cases = chosen(CASES, parser, options.filters)
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    try:
        rates = DeviceRates(options.device, options.threads)
    except (TallowError, NotThere) as error:
        print(f"{options.device}: the ceiling cannot be measured: {error}", file=sys.stderr)
        return 1
    how = (options.threads, options.rounds, options.seconds, options.device)
    _, failed = measure_all(cases, lambda case: measure_case(case, rates, *how))
    product = (
        f"{rates.best['sgemm'] / 1e9:.1f} GFLOP/s by its largest product"
        if "sgemm" in rates.best
        else "no product"
    )
    print(f"\n{options.device}: {product}, {rates.best.get('copy', 0.0) / 1e9:.1f} GB/s by copy")
    for reason in failed:
        print(reason, file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
