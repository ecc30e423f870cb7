"""One engine in a process of its own: a line of JSON on stdin asks, a line on stdout answers, between them it idles.

The first line is a Job with the file of its inputs; later ones ask for so many runs. What an engine prints
goes to stderr, so that the answers stay alone on stdout. An error is answered as {"error": ...}.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

import numpy as np

from benchmarks.engines import ENGINES, Job, Session


def serve(requests: Iterable[str], answer: Callable[[dict], None]) -> None:
    """Load the model of the first request, then run it as later ones ask."""
    lines = iter(requests)
    try:
        first = json.loads(next(lines))
        session, facts = start(Job(**first["job"]), Path(first["inputs"]), Path(first["results"]))
        answer(facts)
        for line in lines:
            answer(_serve(session, json.loads(line)))
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})


def start(job: Job, inputs: Path, results: Path) -> tuple[Session, dict]:
    """Load a model and run it once; the results go to a file, what it cost into the answer."""
    with np.load(inputs) as stored:
        arrays = dict(stored)
    engine = ENGINES[job.engine]
    begin = time.perf_counter()
    importlib.import_module(engine.module)
    imported = time.perf_counter()
    session = engine.load(job, arrays)
    loaded = time.perf_counter()
    found = session.run()
    done = time.perf_counter()
    facts = {"import_s": imported - begin, "load_s": loaded - imported, "first_s": done - begin}
    facts["peak_mb"] = peak_megabytes()
    np.savez(results, **session.results(found))
    if job.way == "cold":
        facts["kept_bytes"] = size_of(engine.save(job))
    return session, facts


def _serve(session: Session, request: dict) -> dict:
    session.run()  # brings data and code back into the caches, which the others have used since
    times = []
    for _ in range(request["runs"]):
        begin = time.perf_counter()
        session.run()
        times.append(time.perf_counter() - begin)
    return {"median": statistics.median(times), "least": min(times)}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def peak_megabytes() -> float:
    """The most memory this process has held. Linux carries ru_maxrss over from the process that started
    this one, so that its own status comes first."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def main() -> None:
    answers: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(facts: dict) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    serve(sys.stdin, answer)


if __name__ == "__main__":
    main()
