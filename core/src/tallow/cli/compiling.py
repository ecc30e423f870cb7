"""The verb compile: a model becomes a `.tallow` file."""

from __future__ import annotations

import time
from pathlib import Path

import click

import tallow
from tallow import artifact
from tallow.cli.options import DEVICE, DIMS, FORCE, JSON, MODEL, show_json, sizes_of, working, writable
from tallow.compiler import compile_graph
from tallow.plan import arena_size


@click.command("compile")
@MODEL
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The .tallow file to write."
)
@DEVICE
@DIMS
@FORCE
@JSON
def compile_(model: Path, output: Path, device: str, dims, force: bool, as_json: bool) -> None:
    """Compile a model into a .tallow file, which opens without importers or compiler."""
    writable(output, force)
    start = time.perf_counter()
    with working(f"compiling {model.name}"):
        compiled = compile_graph(tallow.load(model, sizes_of(dims)).graph, device)
        artifact.write(compiled, output, force)
    facts = {
        "file": str(output),
        "target": str(compiled.target),
        "seconds": round(time.perf_counter() - start, 2),
        "steps": len(compiled.program.steps),
        "code_bytes": len(compiled.code.blob),
        "file_bytes": output.stat().st_size,
        "arena_bytes": arena_size(compiled.program),
    }
    if as_json:
        show_json(facts)
    else:
        size = facts["file_bytes"] / 1e6
        click.echo(
            f"{output}: {facts['target']}, {facts['steps']} steps, {size:.1f} MB, {facts['seconds']} s"
        )


VERBS = (compile_,)
