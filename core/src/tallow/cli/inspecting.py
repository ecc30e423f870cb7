"""Verbs that look at a model without running it: inspect, check and show."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

import tallow
from tallow.backend import device_names
from tallow.building import build, lower_placed, prepare_placed
from tallow.cli.options import DEVICE, DIMS, JSON, MODEL, show_json, show_table, sizes_of, working
from tallow.compiler import benches_of, makers_of
from tallow.errors import ImportFailed
from tallow.graph import print_graph, walk
from tallow.kernel.text import print_kernel
from tallow.placement.decide import MOVED
from tallow.schedule.leaving import leaving
from tallow.schedule.program import ControlStep, HostStep, PlacedStep, Program, programs_of

STAGES = ["graph", "prepared", "program", "kernels", "source", "assembly"]


@click.command()
@MODEL
@DIMS
@JSON
def inspect(model: Path, dims, as_json: bool) -> None:
    """Show a model's inputs, outputs, operators and metadata; of a .tallow file, its steps and what was chosen."""
    if model.suffix == ".tallow":
        _inspect_artifact(model, as_json)
        return
    loaded = tallow.load(model, sizes_of(dims))
    counts = Counter(node.op for node in walk(loaded.graph))
    parameters = sum(n["value"].size for n in walk(loaded.graph) if n.op == "constant")
    ports = {"inputs": [str(p) for p in loaded.inputs], "outputs": [str(p) for p in loaded.outputs]}
    facts = {**ports, "parameters": parameters, "operators": counts, "metadata": dict(loaded.metadata)}
    if as_json:
        show_json(facts)
        return
    rows = [{"": kind[:-1], "value": text} for kind in ports for text in facts[kind]]
    rows += [{"": key, "value": value} for key, value in facts["metadata"].items() if value]
    show_table(rows, f"{model.name}: {parameters / 1e6:.2f} M parameters, {counts.total()} nodes")
    click.echo(", ".join(f"{op} {n}" for op, n in counts.most_common()))


def _inspect_artifact(path: Path, as_json: bool) -> None:
    exe = tallow.open(path)
    plan, tuning = exe.plan, exe.compiled.tunings
    ports = {"inputs": [str(p) for p in exe.inputs], "outputs": [str(p) for p in exe.outputs]}
    chosen = [{"question": c.question, "answer": c.value, "measured": c.measured} for c in tuning.choices]
    if as_json:
        facts = {"target": plan.target, "steps": [asdict(s) for s in plan.steps], "choices": chosen}
        measured_on = {"machine": tuning.machine, "threads": tuning.threads}
        show_json({**ports, **facts, "measured_on": measured_on, "metadata": dict(exe.compiled.metadata)})
        return
    for kind, texts in ports.items():
        click.echo(f"{kind}: {'; '.join(texts)}")
    click.echo(plan)
    for choice in tuning.choices:
        click.echo(f"  {choice}")


@click.command()
@MODEL
@DEVICE
@DIMS
@click.option(
    "--strict", is_flag=True, help="The first device alone; exit with 1 when a node would leave it."
)
@JSON
def check(model: Path, device: str, dims, strict: bool, as_json: bool) -> None:
    """Say, without compiling, whether a model is supported, and which steps will run on the host, or on another
    device than the first, and why."""
    makers = makers_of(benches_of(device)[: 1 if strict else None])
    try:
        with working(f"checking {model.name}"):
            program, _ = build([tallow.load(model, sizes_of(dims)).graph], makers)
    except ImportFailed as error:
        if not as_json:
            raise
        show_json({"supported": False, "error": str(error)})
        sys.exit(1)
    names = device_names([maker.bench.target for maker in makers])
    rows, moved = list(_host_steps(program)), list(_moved(program, names))
    steps = sum(not isinstance(step, PlacedStep) for _, part in programs_of(program) for step in part.steps)
    if as_json:
        show_json({"supported": True, "steps": steps, "host": rows, "moved": moved})
    else:
        _say(model, steps, rows, moved)
    if strict and any(leaving(program)):
        sys.exit(1)


def _say(model: Path, steps: int, rows: list[dict], moved: list[dict]) -> None:
    """In words and tables; nodes that follow others are counted."""
    counts = Counter(row["on"] for row in moved)
    elsewhere = "".join(f", {count} nodes on {name}" for name, count in counts.items())
    head = f"{model.name}: every operator is supported; {len(rows)} of {steps} steps run on the host"
    click.echo(head + elsewhere)
    refused = [row for row in moved if row["reason"] != MOVED]
    for table in (rows, refused):
        if table:
            show_table(table)
    if len(refused) < len(moved):
        click.echo(f"{len(moved) - len(refused)} nodes are where others are: {MOVED}")


def _host_steps(program: Program):
    for _, part in programs_of(program):
        for step in part.steps:
            if isinstance(step, HostStep) and step.op != "fail":
                yield {"op": step.op, "node": step.location.name, "reason": step.reason}
            elif isinstance(step, ControlStep):
                yield {"op": step.op, "node": step.location.name, "reason": f"control flow: {step.reason}"}


def _moved(program: Program, names: Sequence[str]):
    for _, part in programs_of(program):
        for step in part.steps:
            if isinstance(step, PlacedStep):
                for op, node, reason in step.moved:
                    yield {"op": op, "node": node, "on": names[step.device], "reason": reason}


@click.command()
@MODEL
@click.option("--stage", type=click.Choice(STAGES), default="graph", show_default=True)
@click.option("--full", is_flag=True, help="Write all constants out, so that the text can be parsed again.")
@DEVICE
@DIMS
@JSON
def show(model: Path, stage: str, full: bool, device: str, dims, as_json: bool) -> None:
    """Print a stage of compilation."""
    text = _stage(model, stage, "hex" if full else "elide", device, sizes_of(dims))
    if as_json:
        show_json({"model": str(model), "stage": stage, "device": device, "text": text})
    else:
        click.echo(text)


def _stage(model: Path, stage: str, large: str, device: str, sizes) -> str:
    graph = tallow.load(model, sizes).graph
    if stage == "graph":
        return print_graph(graph, large)
    makers = makers_of(benches_of(device))
    graph = prepare_placed([graph], makers)
    if stage == "prepared":
        return print_graph(graph, large)
    program, made = lower_placed(graph, makers)
    if stage == "program":
        return "\n".join(f"{number:4} {step}" for number, step in enumerate(program.steps))
    texts = []
    for maker, scheduled in zip(makers, made, strict=True):
        kernels = [] if scheduled is None else list(scheduled.kernels.values())
        if stage == "kernels":
            texts += map(print_kernel, kernels)
        elif kernels:
            texts.append(maker.bench.backend.source(kernels, maker.bench.target, stage))
    return "\n".join(texts)


VERBS = (inspect, check, show)
