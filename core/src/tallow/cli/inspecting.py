"""Verbs that look at a model without running it: inspect, check and show."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

import tallow
from tallow import plugins
from tallow.backend import split_device
from tallow.cli.options import DEVICE, DIMS, JSON, MODEL, show_json, show_table, sizes_of, working
from tallow.errors import ImportFailed
from tallow.graph import print_graph, walk
from tallow.kernel.text import print_kernel
from tallow.schedule.program import ControlStep, HostStep, Program
from tallow.stages import lower, prepare

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
    plan, tuning = exe.plan, exe.compiled.tuning
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
@JSON
def check(model: Path, device: str, dims, as_json: bool) -> None:
    """Say, without compiling, whether a model is supported, and which steps will run on the host and why."""
    name, arch = split_device(device)
    backend = plugins.backend(name)
    target = backend.target(arch)
    try:
        with working(f"checking {model.name}"):
            graph = tallow.load(model, sizes_of(dims)).graph
            program = lower(prepare(graph, backend, target), backend, target).program
    except ImportFailed as error:
        if not as_json:
            raise
        show_json({"supported": False, "error": str(error)})
        sys.exit(1)
    rows = list(_host_steps(program))
    if as_json:
        show_json({"supported": True, "steps": len(program.steps), "host": rows})
        return
    click.echo(
        f"{model.name}: every operator is supported; {len(rows)} of {len(program.steps)} steps run on the host"
    )
    if rows:
        show_table(rows)


def _host_steps(program: Program):
    for step in program.steps:
        if isinstance(step, HostStep):
            yield {"op": step.op, "node": step.location.name, "reason": step.reason}
        elif isinstance(step, ControlStep):
            yield {"op": step.op, "node": step.location.name, "reason": f"control flow: {step.reason}"}
            for region in step.regions.values():
                yield from _host_steps(region)


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
    name, arch = split_device(device)
    backend = plugins.backend(name)
    target = backend.target(arch)
    graph = prepare(graph, backend, target)
    if stage == "prepared":
        return print_graph(graph, large)
    scheduled = lower(graph, backend, target)
    if stage == "program":
        return "\n".join(f"{number:4} {step}" for number, step in enumerate(scheduled.program.steps))
    kernels = list(scheduled.kernels.values())
    return (
        "\n".join(map(print_kernel, kernels))
        if stage == "kernels"
        else backend.source(kernels, target, stage)
    )


VERBS = (inspect, check, show)
