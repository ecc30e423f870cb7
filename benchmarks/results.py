"""What was measured, as plain data, and the arithmetic on it. A ratio above 1 says that Tallow is faster."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

OURS = "tallow"
ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Start:
    """Loading a model in one way, to its first result: medians over repeated starts. `first_s` spans
    importing the engine, loading, and one run."""

    engine: str
    way: str
    load_s: float
    first_s: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Run time of an engine: the median of each round, and the least of all runs, in seconds.
    `difference` is the largest from the reference's results, relative to their largest value."""

    engine: str
    threads: int
    rounds: Sequence[float]
    least: float
    difference: float | None


@dataclass(slots=True)
class ModelResult:
    """Everything measured on one model; `left_out` gives the reason for each engine that is missing."""

    name: str
    title: str
    file_bytes: int
    kept_bytes: dict[str, int] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def latency(self, engine: str, threads: int) -> Latency | None:
        return next((x for x in self.latencies if (x.engine, x.threads) == (engine, threads)), None)

    def start(self, engine: str, way: str) -> Start | None:
        return next((x for x in self.starts if (x.engine, x.way) == (engine, way)), None)


@dataclass(slots=True)
class Run:
    """One or several runs on one machine: its description, the engines' versions, and the models."""

    machine: str
    versions: dict[str, str]
    models: list[ModelResult] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def engines(self) -> list[str]:
        """Engines with a latency on any model, in the order of `versions`."""
        seen = {latency.engine for model in self.models for latency in model.latencies}
        return [engine for engine in self.versions if engine in seen]

    @property
    def threads(self) -> list[int]:
        return sorted({latency.threads for model in self.models for latency in model.latencies})


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times a peer's time ours is: by the median over rounds, and by the least times."""

    peer: str
    median: float
    least: float


def ratio(model: ModelResult, peer: str, threads: int) -> Ratio | None:
    """The peer's time over ours, round by round; None when either was not measured."""
    ours, theirs = model.latency(OURS, threads), model.latency(peer, threads)
    if ours is None or theirs is None:
        return None
    rounds = [b / a for a, b in zip(ours.rounds, theirs.rounds, strict=True)]
    return Ratio(peer, statistics.median(rounds), theirs.least / ours.least)


def best_ratio(model: ModelResult, threads: int) -> Ratio | None:
    """The ratio against the fastest peer of a model."""
    engines = {latency.engine for latency in model.latencies} - {OURS}
    ratios = [found for engine in sorted(engines) if (found := ratio(model, engine, threads)) is not None]
    return min(ratios, key=lambda r: r.median, default=None)


def geometric_mean(numbers: Iterable[float]) -> float | None:
    """None for no numbers."""
    logarithms = [math.log(number) for number in numbers]
    return math.exp(statistics.fmean(logarithms)) if logarithms else None


def save(run: Run, path: Path) -> None:
    """Write a run as JSON."""
    path.write_text(json.dumps(asdict(run), indent=1) + "\n")


def load(path: Path) -> Run:
    """The run in a JSON file that `save` wrote; ValueError when it is something else."""
    try:
        data = json.loads(path.read_text())
        return Run(**{**data, "models": [_model(model) for model in data["models"]]})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the JSON of a benchmark run ({error})") from None


def _model(data: Mapping) -> ModelResult:
    starts = [Start(**start) for start in data["starts"]]
    return ModelResult(**{**data, "starts": starts, "latencies": [Latency(**x) for x in data["latencies"]]})


def merge(runs: Sequence[Run]) -> Run:
    """Runs of different models on one machine as one; a model measured twice counts as measured last.
    ValueError when machines or versions differ, as such numbers do not belong in one table."""
    first = runs[0]
    for other in runs[1:]:
        if (other.machine, other.versions) != (first.machine, first.versions):
            raise ValueError(f"runs of different machines or versions: {first.machine} {first.versions} and "
                             f"{other.machine} {other.versions}. Report each on its own")  # fmt: skip
    models = {model.name: model for run in runs for model in run.models}
    left_out = {name: reason for run in runs for name, reason in run.left_out.items() if name not in models}
    return Run(first.machine, first.versions, list(models.values()), left_out)
