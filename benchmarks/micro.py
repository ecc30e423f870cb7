"""`micro`: single operators, each as a share of what the core can do, which is measured in turns with it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.ceiling import Ceiling
from benchmarks.measure import describe_machine
from benchmarks.micro_cases import CASES
from tallow.testing.speed import add_options, chosen, measure_all, measure_case
from tallow.testing.speed_cases import Case


def micro(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Measure the cases whose name contains one of the filters; exit code 1 when one fails or is wrong."""
    add_options(parser)
    parser.add_argument("--threads", type=int, default=1, help="the ceiling is so many times one core's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    options = parser.parse_args(words)
    cases = chosen(CASES, parser, options.filters)
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    return _measure_all(cases, options)


def _measure_all(cases: Sequence[Case], options: argparse.Namespace) -> int:
    with Ceiling() as ceiling:
        how = (ceiling, options.threads, options.rounds, options.seconds)
        rows, failed = measure_all(cases, lambda case: measure_case(case, *how, cores=options.threads))
        best = {kind: ceiling.best.get(kind, 0.0) / 1e9 for kind in ("sgemm", "copy")}
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
