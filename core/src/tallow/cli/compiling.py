"""The verb compile: a model becomes a `.tallow` file."""

from __future__ import annotations

import time
from pathlib import Path

import click

import tallow
from tallow import artifact
from tallow.cli.options import (
    DEVICE,
    DIMS,
    FORCE,
    JSON,
    MODEL,
    STRICT,
    THREADS,
    TUNE,
    compiling,
    say_ignored,
    show_json,
    sizes_of,
    writable,
)
from tallow.compiler import compile_graph
from tallow.plan import arena_size


@click.command("compile")
@MODEL
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The .tallow file to write."
)
@DEVICE
@DIMS
@TUNE
@THREADS
@STRICT
@FORCE
@JSON
def compile_(
    model: Path, output: Path, device: str, dims, tune, threads, strict: bool, force: bool, as_json: bool
) -> None:
    """Compile a model into a .tallow file, which opens without importers or compiler."""
    writable(output, force)
    start = time.perf_counter()
    with compiling(model, tune) as progress:
        graph = tallow.load(model, sizes_of(dims)).graph
        compiled = compile_graph(graph, device, threads, progress, strict)
        artifact.write(compiled, output, force)
    say_ignored(compiled.tunings)
    facts = {
        "file": str(output),
        "target": ", ".join(map(str, compiled.targets)),
        "seconds": round(time.perf_counter() - start, 2),
        "steps": len(compiled.program.steps),
        "code_bytes": sum(len(part.code.blob) for part in compiled.parts),
        "file_bytes": output.stat().st_size,
        "arena_bytes": arena_size(compiled.program),
        "choices": len(compiled.tunings.choices),
        "measured": compiled.tunings.measured,
    }
    if as_json:
        show_json(facts)
    else:
        size = facts["file_bytes"] / 1e6
        click.echo(
            f"{output}: {facts['target']}, {facts['steps']} steps, {size:.1f} MB, {facts['seconds']} s"
        )
        if compiled.tunings.measured:
            click.echo(compiled.tunings)


VERBS = (compile_,)
