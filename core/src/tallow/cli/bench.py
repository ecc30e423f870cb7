"""Verbs that take time: bench for the whole model, profile for each step."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from tallow.cli.arrays import Picture, parse_inputs
from tallow.cli.options import (
    DEVICE,
    DIMS,
    FORCE,
    INPUTS,
    JSON,
    MODEL,
    STRICT,
    THREADS,
    TUNE,
    opened,
    show_json,
    show_table,
    sizes_of,
    writable,
)
from tallow.profile import Profile

RUNS = click.IntRange(min=1)


@click.command()
@MODEL
@INPUTS
@DEVICE
@DIMS
@THREADS
@TUNE
@STRICT
@click.option("--runs", default=50, show_default=True, type=RUNS)
@JSON
def bench(model, inputs, device, dims, threads, tune, strict, runs, as_json) -> None:
    """Time a model: median and spread over runs, after one to warm up."""
    start = time.perf_counter()
    exe = opened(model, device, dims, threads, tune, strict)
    ready = time.perf_counter() - start
    arrays = parse_inputs(inputs, exe.inputs, sizes_of(dims), Picture())
    exe.run(arrays)
    times = []
    hidden = as_json or not sys.stderr.isatty()
    for _ in track(range(runs), "running", console=Console(stderr=True), disable=hidden):
        start = time.perf_counter()
        exe.run(arrays)
        times.append((time.perf_counter() - start) * 1e3)
    facts = {
        "open_s": ready,
        "runs": runs,
        "threads": exe.threads,
        "median_ms": statistics.median(times),
        "mean_ms": statistics.fmean(times),
        "deviation_ms": statistics.pstdev(times),
        "min_ms": min(times),
        "max_ms": max(times),
    }
    if as_json:
        show_json(facts)
    else:
        spread = f"min {facts['min_ms']:.3f}, max {facts['max_ms']:.3f}"
        click.echo(f"median {facts['median_ms']:.3f} ms ({spread}) over {runs} runs, ready in {ready:.2f} s")


@click.command()
@MODEL
@INPUTS
@DEVICE
@DIMS
@THREADS
@TUNE
@STRICT
@click.option("--runs", default=10, show_default=True, type=RUNS)
@click.option("--trace", type=click.Path(path_type=Path), help="Write a Chrome trace.")
@FORCE
@click.option("--top", default=25, show_default=True, type=RUNS, help="Steps to print.")
@click.option("--roofline/--no-roofline", default=True, help="Measure what this machine can reach.")
@JSON
def profile(
    model, inputs, device, dims, threads, tune, strict, runs, trace, force, top, roofline, as_json
) -> None:
    """Time each step of a model, against what this machine can reach."""
    writable(trace, force)
    exe = opened(model, device, dims, threads, tune, strict)
    arrays = parse_inputs(inputs, exe.inputs, sizes_of(dims), Picture())
    measured = exe.profile(arrays, runs, roofline)
    if trace:
        measured.write_trace(trace)
    if as_json:
        steps = [asdict(s) | {"gflops": s.gflops, "gigabytes": s.gigabytes} for s in measured.steps]
        limits = asdict(measured.roofline) if measured.roofline else None
        show_json({"total_s": measured.total, "roofline": limits, "steps": steps})
    else:
        _print(measured, top)


def _print(measured: Profile, top: int) -> None:
    rows = [
        {
            "ms": f"{s.seconds * 1e3:.3f}",
            "time": f"{s.seconds / measured.total:.1%}" if measured.total else "",
            "GFLOP/s": f"{s.gflops:.1f}",
            "GB/s": f"{s.gigabytes:.1f}",
            "roofline": "" if s.share is None else f"{s.share:.0%} {s.limit}",
            "step": s.label,
            "place": s.place,
            "node": s.nodes[0] if s.nodes else "",
        }
        for s in sorted(measured.steps, key=lambda s: -s.seconds)[:top]
    ]
    if rows:
        show_table(rows)
    left = len(measured.steps) - len(rows)
    click.echo(
        f"{measured.total * 1e3:.3f} ms in {len(measured.steps)} steps{f', {left} not shown' if left else ''}"
    )
    if measured.roofline:
        click.echo(measured.roofline)


VERBS = (bench, profile)
