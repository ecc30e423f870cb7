"""A run as markdown tables and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.engines import ENGINES
from benchmarks.results import (
    ONNXRUNTIME,
    OURS,
    ModelResult,
    Ratio,
    Run,
    best_ratio,
    geometric_mean,
    ratio,
)

WAYS = {"cold": "cold", "warm": "cached", "saved": "from its saved file"}
NOTHING = "-"


def markdown(run: Run) -> str:
    """Latency, start, memory and size of each model, and who was left out and why."""
    versions = ", ".join(f"{ENGINES[e].title} {v}" for e, v in run.versions.items())
    parts = [
        f"{run.machine}. {versions}. Float32, batch 1; a ratio above 1 says that Tallow is faster.",
        latency_table(run),
        _table(*_starts(run)),
        _table(*_sizes(run)),
    ]
    reasons = [f"- {name}: {reason}" for name, reason in run.left_out.items()]
    for model in run.models:
        reasons += [f"- {ENGINES[e].title} on {model.title}: {why}" for e, why in model.left_out.items()]
    if reasons:
        parts.append("Left out:\n\n" + "\n".join(reasons))
    return "\n\n".join(parts) + "\n"


def latency_table(run: Run) -> str:
    """Least times in milliseconds; ratios are the median over rounds, in parentheses of the least times."""
    engines = run.engines
    head = [
        "model",
        "threads",
        *(f"{ENGINES[e].title} ms" for e in engines),
        "vs onnxruntime",
        "vs best peer",
    ]
    rows, versus, best = [], {t: [] for t in run.threads}, {t: [] for t in run.threads}
    for model in run.models:
        for threads in run.threads:
            times = [model.latency(e, threads) for e in engines]
            if not any(times):
                continue
            one, other = ratio(model, ONNXRUNTIME, threads), best_ratio(model, threads)
            versus[threads] += [one] * (one is not None)
            best[threads] += [other] * (other is not None)
            cells = [_milliseconds(t.least) if t else NOTHING for t in times]
            name = f", {ENGINES[other.peer].title}" if other else ""
            rows.append([model.title, threads, *cells, _ratio(one), _ratio(other) + name])
    for threads in run.threads:
        means = [_mean(versus[threads]), _mean(best[threads])]
        rows.append([f"**geometric mean of {len(best[threads])}**", threads, *[""] * len(engines), *means])
    return _table(head, rows)


def _mean(ratios: Sequence[Ratio]) -> str:
    middle, least = geometric_mean(r.median for r in ratios), geometric_mean(r.least for r in ratios)
    return f"**{middle:.2f}x** ({least:.2f}x)" if ratios else NOTHING


def _ratio(found: Ratio | None) -> str:
    return f"{found.median:.2f}x ({found.least:.2f}x)" if found else NOTHING


def _milliseconds(seconds: float) -> str:
    """Three significant digits."""
    number = seconds * 1e3
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _starts(run: Run) -> tuple[list[str], list[list]]:
    """Seconds to the first result, and in parentheses of loading alone; an engine's cold load compiles."""
    ways = _ways(run)
    head = ["first result s (loading s)", *(f"{ENGINES[e].title}, {WAYS[w]}" for e, w in ways)]
    rows = []
    for model in run.models:
        starts = [model.start(engine, way) for engine, way in ways]
        rows.append([model.title, *(f"{s.first_s:.3g} ({s.load_s:.3g})" if s else NOTHING for s in starts)])
    return head, rows


def _sizes(run: Run) -> tuple[list[str], list[list]]:
    ways, engines = _ways(run), [e for e in run.versions if any(e in m.kept_bytes for m in run.models)]
    head = ["peak MB", *(f"{ENGINES[e].title}, {WAYS[w]}" for e, w in ways)]
    head += ["model file MB", *(f"{ENGINES[e].title} keeps MB" for e in engines)]
    rows = []
    for model in run.models:
        peaks = [f"{s.peak_mb:.0f}" if (s := model.start(e, w)) else NOTHING for e, w in ways]
        kept = [_megabytes(model.kept_bytes.get(e)) for e in engines]
        rows.append([model.title, *peaks, _megabytes(model.file_bytes), *kept])
    return head, rows


def _megabytes(size: int | None) -> str:
    return NOTHING if size is None else f"{size / 1e6:.3g}" if size < 1e8 else f"{size / 1e6:.0f}"


def _ways(run: Run) -> list[tuple[str, str]]:
    measured = {(start.engine, start.way) for model in run.models for start in model.starts}
    return [(e, w) for e in run.versions for w in ENGINES[e].ways if (e, w) in measured]


def _table(head: Sequence, rows: Iterable[Sequence]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plot(run: Run, path: Path) -> None:
    """A picture of the ratios, one row of dots for each model; ImportError without matplotlib."""
    from matplotlib.figure import Figure

    peers = [e for e in run.engines if e != OURS]
    figure = Figure(figsize=(5 * len(run.threads) + 2, 1.5 + 0.32 * len(run.models)), layout="constrained")
    panels = figure.subplots(1, len(run.threads), sharey=True, squeeze=False)[0]
    for axes, threads in zip(panels, run.threads, strict=True):
        for place, peer in enumerate(peers):
            _draw_peer(axes, run.models, peer, threads, marker="oDs^v"[place % 5])
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        axes.minorticks_off()
        axes.set_yticks(range(len(run.models)), [model.title for model in run.models])
        axes.grid(alpha=0.3)
        axes.set_title(f"{threads} thread{'s' if threads > 1 else ''}")
        axes.set_xlabel("peer's time / Tallow's time (right: Tallow is faster)")
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(peers))
    figure.savefig(path, dpi=150)


def _draw_peer(axes, models: Sequence[ModelResult], peer: str, threads: int, marker: str) -> None:
    points = [(r.median, row) for row, m in enumerate(models) if (r := ratio(m, peer, threads)) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker, label=ENGINES[peer].title, markersize=5, alpha=0.8)
