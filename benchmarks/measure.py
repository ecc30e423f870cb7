"""Measuring models: each engine in a worker process, in short turns, results checked before anything is timed."""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.catalogue import Model, Signature, signature
from benchmarks.engines import ENGINES, Job
from benchmarks.results import OURS, Latency, ModelResult, Start

TOLERANCE = 1e-3  # of the largest value: float32 sums in another order, or by Winograd's algorithm
PAUSE = 0.01  # seconds between turns, in which the threads of the last engine go to sleep
MOST_RUNS = 20000  # in one turn


class Failed(Exception):
    """An engine cannot do what is asked of it; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Settings:
    """threads: counts to measure with. rounds: turns of each engine, each of about `seconds`.
    starts: how often each way of loading is repeated."""

    threads: Sequence[int] = (1, 2)
    rounds: int = 15
    seconds: float = 0.2
    starts: int = 3


class Worker:
    """A process with one engine and one loaded model. Failed says why it cannot be had."""

    def __init__(self, job: Job, inputs: Path):
        folder = Path(job.folder)
        self._results = folder / "results.npz"
        self._log = folder / "log.txt"
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=Path(__file__).parents[1],
                env=_environment(),
            )
        try:
            self.facts = self.ask(job=asdict(job), inputs=str(inputs), results=str(self._results))
        except Failed:
            self.close()
            raise

    def ask(self, **request) -> dict:
        """The answer to a request."""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the empty answer says
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{_ending(self._process.wait())}: {_last_line(self._log)}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(_shortened(answer["error"]))
        return answer

    def results(self) -> dict[str, np.ndarray]:
        """What the first run gave."""
        with np.load(self._results) as stored:
            return dict(stored)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _environment() -> dict[str, str]:
    """This process's, but for what keeps Python from storing bytecode: a package installed by pip has it,
    and one that is compiled at each start would be timed for something else."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _ending(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return _shortened(lines[-1]) if lines else "it printed nothing"


def _shortened(text: str, length: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length] + " ..."


def measure(
    model: Model, path: Path, engines: Sequence[str], settings: Settings, tell: Callable[[str], None]
) -> ModelResult:
    """Everything about one model. An engine that fails or gives other results is left out by name."""
    found = ModelResult(model.name, model.title, path.stat().st_size)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as base:
        inputs = Path(base) / "inputs.npz"
        described = signature(model, path)
        np.savez(inputs, **described.inputs)
        bench = _Bench(path, described, inputs, Path(base), settings, found)
        for engine in engines:
            (Path(base) / engine).mkdir()
        tell("starting")
        bench.measure_starts(engines)
        for threads in settings.threads:
            tell(f"{threads} threads")
            bench.measure_latency([e for e in engines if e not in found.left_out], threads)
    found.latencies = [x for x in found.latencies if x.engine not in found.left_out]
    return found


@dataclass(slots=True)
class _Bench:
    """What the measurements of one model share."""

    path: Path
    signature: Signature
    inputs: Path
    base: Path
    settings: Settings
    found: ModelResult

    def worker(self, engine: str, way: str, threads: int) -> Worker:
        folder = str(self.base / engine)
        return Worker(Job(engine, way, str(self.path), threads, folder, self.signature.outputs), self.inputs)

    def measure_starts(self, engines: Sequence[str]) -> None:
        """Load in every way, the cold one first, which also leaves what the others open."""
        facts: dict[tuple[str, str], list[dict]] = {}
        for _ in range(self.settings.starts):
            for engine in engines:
                for way in ENGINES[engine].ways if engine not in self.found.left_out else ():
                    try:
                        with self.worker(engine, way, max(self.settings.threads)) as worker:
                            facts.setdefault((engine, way), []).append(worker.facts)
                    except Failed as error:
                        self.found.left_out[engine] = f"{way} start: {error}"
                        break
        for (engine, way), repeats in facts.items():
            values = {k: statistics.median(r[k] for r in repeats) for k in ("load_s", "first_s", "peak_mb")}
            self.found.starts.append(Start(engine, way, **values))
            if "kept_bytes" in repeats[-1]:
                self.found.kept_bytes[engine] = repeats[-1]["kept_bytes"]

    def measure_latency(self, engines: Sequence[str], threads: int) -> None:
        """Turns of all engines whose results agree."""
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for engine in engines:
                try:
                    worker = self.worker(engine, ENGINES[engine].timed, threads)
                    workers[engine] = stack.enter_context(worker)
                except Failed as error:
                    self.found.left_out[engine] = f"{threads} threads: {error}"
            differences = check({e: w.results() for e, w in workers.items()}, self.found.left_out)
            workers = {e: w for e, w in workers.items() if e in differences}
            try:
                rounds = take_turns(workers, self.settings)
            except Failed as error:
                raise Failed(f"{self.found.name}, {threads} threads: {error}") from None
        for engine, turns in rounds.items():
            medians = [turn["median"] for turn in turns]
            least = min(turn["least"] for turn in turns)
            self.found.latencies.append(Latency(engine, threads, medians, least, differences[engine]))


def take_turns(workers: Mapping[str, Worker], settings: Settings) -> dict[str, list[dict]]:
    """A B C A B C ...: the answers of each engine, one for each round."""
    runs = {e: _runs(worker.ask(runs=3)["median"], settings.seconds) for e, worker in workers.items()}
    rounds: dict[str, list[dict]] = {engine: [] for engine in workers}
    for _ in range(settings.rounds):
        for engine, worker in workers.items():
            time.sleep(PAUSE)
            rounds[engine].append(worker.ask(runs=runs[engine]))
    return rounds


def _runs(seconds_of_one: float, seconds: float) -> int:
    return min(MOST_RUNS, max(1, round(seconds / max(seconds_of_one, 1e-9))))


def check(
    results: Mapping[str, Mapping[str, np.ndarray]], left_out: dict[str, str]
) -> dict[str, float | None]:
    """Differences of the engines from the reference, which is the first peer; one beyond TOLERANCE is
    left out. Alone, an engine's difference is None."""
    reference = next((engine for engine in results if engine != OURS), None)
    if reference is None:
        return dict.fromkeys(results)
    differences: dict[str, float | None] = {}
    for engine, arrays in results.items():
        found = difference(arrays, results[reference])
        if found <= TOLERANCE:
            differences[engine] = found
        else:
            left_out[engine] = f"results differ from {reference}'s by {found:.2g} of their largest value"
    return differences


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


def describe_machine() -> str:
    """The processor and how many cores may be used."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = [x for x in information.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {usable} cores, {platform.system()}"
