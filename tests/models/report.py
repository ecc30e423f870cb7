"""Prints the table of docs/models.md: `python tests/models/report.py [part of a name ...]`.

Agreement with each model's oracle, the time of onnxruntime on one thread over Tallow's on one thread (least of
interleaved runs), and the steps that run on the host.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter

import numpy as np
from catalogue import CATALOGUE, Entry
from judges import error_of, onnxruntime_session, wanted

import tallow

SECONDS = 1.5


def least(runs: list) -> list[float]:
    """The least time of each of several callables, called in turn."""
    best = [float("inf")] * len(runs)
    end, rounds = time.perf_counter() + SECONDS, 0
    while rounds < 3 or time.perf_counter() < end:
        for number, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[number] = min(best[number], time.perf_counter() - start)
        rounds += 1
    return best


def row(name: str, entry: Entry) -> str:
    given = entry.inputs()
    executable = tallow.compile(entry.path(), threads=1)
    results = executable.run(given)
    worst = 0.0
    for output, want in wanted(entry, given).items():
        differs = (
            error_of(results[output], want)
            if want.dtype.kind == "f"
            else float(np.any(results[output] != want))
        )
        worst = max(worst, differs)
    session = onnxruntime_session(entry.path(), exact=entry.oracle != "onnxruntime")
    ours, theirs = least([lambda: executable.run(given), lambda: session.run(None, given)])
    hosted = Counter(step.label for step in executable.plan.steps if step.place == "host")
    steps = ", ".join(f"{count} {label}" for label, count in hosted.items()) or "none"
    agrees = "the bit" if worst == 0 else f"{worst:.0e}"
    return f"| {name} | {entry.task} | {agrees} ({entry.oracle}) | {theirs / ours:.2f} | {steps} |"


def main() -> None:
    warnings.simplefilter("ignore")
    print("| model | task | agrees to | speed | host steps |")
    print("|---|---|---|---|---|")
    for name, entry in CATALOGUE.items():
        if not sys.argv[1:] or any(part in name for part in sys.argv[1:]):
            print(row(name, entry), flush=True)


if __name__ == "__main__":
    main()
