"""`micro`: single operators, each as a share of what the core can do, which is measured in turns with it."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

import tallow
from benchmarks.ceiling import Ceiling
from benchmarks.measure import TOLERANCE, describe_machine, difference
from benchmarks.micro_cases import CASES, Case, bytes_moved
from benchmarks.results import geometric_mean
from tallow.errors import TallowError
from tallow.graph import Graph

LARGE = (
    4 << 20
)  # bytes of a result from which each run is given the memory for it: fresh memory comes page by page


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


def micro(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Measure the cases whose name contains one of the filters; exit code 1 when one fails or is wrong."""
    parser.add_argument("filters", nargs="*", metavar="FILTER", help="parts of names, such as conv or gemv")
    parser.add_argument("--threads", type=int, default=1, help="the ceiling is so many times one core's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.03, help="of each turn")
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    options = parser.parse_args(words)
    cases = [case for case in CASES if any(f in case.name for f in options.filters or [""])]
    if not cases:
        families = dict.fromkeys(case.name.split()[0] for case in CASES)
        parser.error(f"no case matches {' '.join(options.filters)}: the families are {', '.join(families)}")
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    return _measure_all(cases, options)


def _measure_all(cases: Sequence[Case], options: argparse.Namespace) -> int:
    rows, failed = [], []
    print("| case | us | GFLOP/s | GB/s | share of the ceiling | bound by |\n|---|---|---|---|---|---|")
    with Ceiling() as ceiling:
        for case in cases:
            try:
                row = measure_case(case, ceiling, options.threads, options.rounds, options.seconds)
            except (WrongResult, TallowError) as error:
                failed.append(f"{case.name}: {error}")
                print(f"| {case.name} | {error} | | | | |", flush=True)
                continue
            rows.append(row)
            print(as_row(row), flush=True)
        best = {kind: ceiling.best.get(kind, 0.0) / 1e9 for kind in ("sgemm", "copy")}
    print("\n".join(family_means(rows)))
    print(
        f"\none core: {best['sgemm']:.1f} GFLOP/s by sgemm, {best['copy']:.1f} GB/s by copy; {describe_machine()}"
    )
    if options.json:
        facts = {"machine": describe_machine(), "threads": options.threads, "one_core": best}
        options.json.write_text(
            json.dumps({**facts, "cases": [asdict(row) for row in rows]}, indent=1) + "\n"
        )
    for reason in failed:
        print(reason, file=sys.stderr)
    return int(bool(failed))


class WrongResult(Exception):
    """A case gives something else than its numpy meaning."""


def measure_case(case: Case, ceiling: Ceiling, threads: int, rounds: int, seconds: float) -> Measured:
    """Check a case against numpy, then time it in turns with the ceiling that bounds it."""
    graph = case.graph()
    run, inputs = tallow.compile(graph, threads=threads), make_inputs(graph)
    arrays = list(inputs.values())
    y = run(*arrays)
    found = difference({"y": y}, tallow.evaluate(graph, inputs))
    if found > TOLERANCE:
        raise WrongResult(f"differs from numpy by {found:.2g} of the largest value")
    moved = bytes_moved(graph)
    bound = bound_of(case.operations, moved, ceiling.ask("sgemm"), ceiling.ask("copy"))
    amount = case.operations if bound == "sgemm" else moved
    if y.nbytes >= LARGE:
        run = partial(run, out=y)
    runs = max(1, round(seconds / _time(run, arrays, 2)))
    rates, times = [], []
    for _ in range(rounds):
        rates.append(ceiling.ask(bound) * threads)
        times.append(_time(run, arrays, runs))
    return Measured(
        name=case.name,
        seconds=min(times),
        gigaflops=case.operations / min(times) / 1e9,
        gigabytes=moved / min(times) / 1e9,
        bound=bound,
        share=statistics.median(amount / rate / t for rate, t in zip(rates, times, strict=True)),
        least=amount / max(rates) / min(times),
    )


def make_inputs(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {v.name: rng.standard_normal(v.shape, np.float32) for v in graph.inputs}


def bound_of(operations: int, moved: int, flops: float, bandwidth: float) -> str:
    """The ceiling that allows a case less: arithmetic or memory."""
    return "sgemm" if operations / flops > moved / bandwidth else "copy"


def _time(run, arrays: Sequence[np.ndarray], runs: int) -> float:
    """The least time of some runs, after one that is not counted."""
    run(*arrays)
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        run(*arrays)
        times.append(time.perf_counter() - begin)
    return min(times)


def as_row(row: Measured) -> str:
    rates = f"{row.gigaflops:.1f} | {row.gigabytes:.1f}"
    return f"| {row.name} | {row.seconds * 1e6:.1f} | {rates} | {row.share:.0%} ({row.least:.0%}) | {row.bound} |"


def family_means(rows: Sequence[Measured]) -> list[str]:
    """One row for each family: the geometric means of its shares."""
    lines = []
    for family in dict.fromkeys(row.name.split()[0] for row in rows):
        members = [row for row in rows if row.name.split()[0] == family]
        share, least = (geometric_mean(getattr(r, key) for r in members) for key in ("share", "least"))
        lines.append(f"| **{family}, geometric mean** | | | | **{share:.0%}** ({least:.0%}) | |")
    return lines
