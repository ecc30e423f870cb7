"""The verbs of `tallow`. Exit codes: 0 done, 1 failed or different, 2 misused."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import tallow
from tallow import artifact, plugins
from tallow.cli.arrays import described, parse_inputs
from tallow.compile import compile_graph, find_lowering, lower, prepare, split_device
from tallow.errors import TallowError
from tallow.graph import Graph, walk
from tallow.graph.text import print_graph
from tallow.kernel.text import print_kernel
from tallow.ops import OPS
from tallow.plan import arena_size
from tallow.runtime.binding import bind_inputs

console = Console(highlight=False)
MODEL = click.argument("model", type=click.Path(exists=True, path_type=Path))
DEVICE = click.option("--device", default="cpu", show_default=True, help="Backend, or backend:architecture.")
DIMS = click.option(
    "--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Fix a symbolic size; may be repeated."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
THREADS = click.option("--threads", type=int, help="Use at most so many threads.")


class Group(click.Group):
    """Errors of Tallow end in one line and exit code 1."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except TallowError as error:
            click.echo(f"tallow: {error}", err=True)
            context.exit(1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tallow.__version__, prog_name="tallow")
def main() -> None:
    """Compile models and run them."""


def sizes_of(dims: tuple[str, ...]) -> dict[str, int]:
    try:
        return {name: int(size) for name, size in (d.split("=") for d in dims)}
    except ValueError:
        raise click.UsageError(f"--dim {' '.join(dims)}: expected NAME=SIZE") from None


def opened(model: Path, device: str, dims: tuple[str, ...], threads: int | None):
    if model.suffix == ".tallow":
        return tallow.open(model, threads)
    with console.status(f"compiling {model.name}") if sys.stdout.isatty() else _Quiet():
        return tallow.compile(model, device, dims=sizes_of(dims), threads=threads)


class _Quiet:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def show_json(value) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


@main.command()
@MODEL
@DIMS
@JSON
def inspect(model: Path, dims, as_json: bool) -> None:
    """Show a model's inputs, outputs, operators and metadata."""
    loaded = tallow.load(model, sizes_of(dims))
    counts: dict[str, int] = {}
    for node in walk(loaded.graph):
        counts[node.op] = counts.get(node.op, 0) + 1
    parameters = sum(n["value"].size for n in walk(loaded.graph) if n.op == "constant")
    ports = {"inputs": [str(p) for p in loaded.inputs], "outputs": [str(p) for p in loaded.outputs]}
    facts = {**ports, "parameters": parameters, "operators": counts, "metadata": dict(loaded.metadata)}
    if as_json:
        show_json(facts)
        return
    for kind in ("inputs", "outputs"):
        for text in facts[kind]:
            click.echo(f"{kind[:-1]:7} {text}")
    click.echo(f"{parameters / 1e6:.2f} M parameters, {sum(counts.values())} nodes")
    click.echo(", ".join(f"{op} {n}" for op, n in sorted(counts.items(), key=lambda c: -c[1])))


@main.command()
@MODEL
@DEVICE
@DIMS
@JSON
def check(model: Path, device: str, dims, as_json: bool) -> None:
    """Say, without compiling, whether a model is supported, and which nodes will run on the host."""
    graph = tallow.load(model, sizes_of(dims)).graph
    name, arch = split_device(device)
    backend = plugins.backend(name)
    target = backend.target(arch)
    rows = []
    for node in prepare(graph, backend, target).nodes:
        if node.op == "constant":
            continue
        reason = backend.supports(node, target)
        if reason is None and find_lowering(backend, target, node) is None and OPS[node.op].index is None:
            reason = f"no kernel for {node.op}"
        if reason:
            rows.append({"op": node.op, "node": node.location.name, "reason": reason})
    if as_json:
        show_json({"supported": True, "host": rows})
        return
    click.echo(f"{model.name}: every operator is supported; {len(rows)} nodes run on the host")
    for row in rows:
        click.echo(f'  {row["op"]} "{row["node"]}": {row["reason"]}')


@main.command("compile")
@MODEL
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The .tallow file to write."
)
@DEVICE
@DIMS
@click.option("--force", is_flag=True, help="Overwrite the output.")
@JSON
def compile_(model: Path, output: Path, device: str, dims, force: bool, as_json: bool) -> None:
    """Compile a model into a .tallow file, which opens without importers or compiler."""
    start = time.perf_counter()
    loaded = tallow.load(model, sizes_of(dims))
    compiled = compile_graph(loaded.graph, device)
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


@main.command()
@MODEL
@click.argument("inputs", nargs=-1, metavar="[NAME=VALUE]...")
@DEVICE
@DIMS
@THREADS
@click.option("--mean", default="0", help="Per channel, for pictures.")
@click.option("--std", default="1", help="Per channel, for pictures.")
@click.option("--scale", default=1 / 255, show_default="1/255", help="Factor on pixels, before mean and std.")
@click.option(
    "--labels", type=click.Path(exists=True, path_type=Path), help="One label a line: print the best five."
)
@click.option("--save", type=click.Path(path_type=Path), help="Write the results to an .npz file.")
@click.option(
    "--expect", "expected", multiple=True, metavar="NAME=@FILE.npy", help="Fail when a result differs."
)
@click.option("--rtol", default=1e-3, show_default=True)
@click.option("--atol", default=1e-5, show_default=True)
@JSON
def run(
    model, inputs, device, dims, threads, mean, std, scale, labels, save, expected, rtol, atol, as_json
) -> None:
    """Run a model. Values are @file.npy, @picture.png, numbers, or random."""
    exe = opened(model, device, dims, threads)
    picture = {"mean": _numbers(mean), "std": _numbers(std), "scale": scale}
    results = exe.run(parse_inputs(inputs, exe.inputs, sizes_of(dims), picture))
    if save:
        np.savez(save, **results)
    if as_json:
        show_json({name: described(a) for name, a in results.items()})
    else:
        for name, array in results.items():
            facts = described(array)
            click.echo(
                f"{name}: {facts.pop('dtype')}{facts.pop('shape')} "
                + " ".join(f"{k} {v:.6g}" for k, v in facts.items())
            )
    if labels:
        _print_labels(labels, next(iter(results.values())))
    _expect(expected, results, rtol, atol)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{text!r}: expected numbers with commas between") from None


def _print_labels(path: Path, scores: np.ndarray) -> None:
    names = path.read_text().splitlines()
    flat = scores.reshape(-1)
    for place in np.argsort(-flat)[:5]:
        click.echo(f"  {flat[place]:10.4f}  {names[place] if place < len(names) else place}")


def _expect(expected, results, rtol: float, atol: float) -> None:
    for word in expected:
        name, _, text = word.partition("=@")
        if name not in results or not text:
            raise click.UsageError(
                f"--expect {word}: expected NAME=@FILE.npy with NAME one of {', '.join(results)}"
            )
        wanted = np.load(text)
        if results[name].shape != wanted.shape or not np.allclose(
            results[name], wanted, rtol, atol, equal_nan=True
        ):
            click.echo(f"{name} differs from {text}", err=True)
            sys.exit(1)
        click.echo(f"{name} agrees with {text}")


@main.command()
@MODEL
@click.argument("inputs", nargs=-1, metavar="[NAME=VALUE]...")
@DEVICE
@DIMS
@THREADS
@click.option("--runs", default=50, show_default=True)
@JSON
def bench(model, inputs, device, dims, threads, runs, as_json) -> None:
    """Time a model: median and spread over runs."""
    start = time.perf_counter()
    exe = opened(model, device, dims, threads)
    opening = time.perf_counter() - start
    arrays = parse_inputs(inputs, exe.inputs, sizes_of(dims), {"mean": [0], "std": [1], "scale": 1 / 255})
    exe.run(arrays)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        exe.run(arrays)
        times.append(time.perf_counter() - start)
    facts = {
        "open_s": opening,
        "median_ms": statistics.median(times) * 1e3,
        "min_ms": min(times) * 1e3,
        "max_ms": max(times) * 1e3,
    }
    if as_json:
        show_json(facts)
    else:
        spread = f"min {facts['min_ms']:.3f}, max {facts['max_ms']:.3f}"
        click.echo(
            f"median {facts['median_ms']:.3f} ms ({spread}) over {runs} runs, ready in {opening:.2f} s"
        )


@main.command()
@MODEL
@click.argument("inputs", nargs=-1, metavar="[NAME=VALUE]...")
@DEVICE
@DIMS
@THREADS
@click.option("--runs", default=10, show_default=True)
@click.option("--trace", type=click.Path(path_type=Path), help="Write a Chrome trace.")
@click.option("--top", default=25, show_default=True)
@JSON
def profile(model, inputs, device, dims, threads, runs, trace, top, as_json) -> None:
    """Time each step of a model."""
    exe = opened(model, device, dims, threads)
    arrays = parse_inputs(inputs, exe.inputs, sizes_of(dims), {"mean": [0], "std": [1], "scale": 1 / 255})
    measured = exe.profile(arrays, runs)
    if trace:
        measured.write_trace(trace)
    if as_json:
        show_json([{k: getattr(s, k) for k in s.__dataclass_fields__} for s in measured.steps])
    else:
        click.echo("\n".join(str(measured).splitlines()[: top + 1]))


@main.command()
@MODEL
@click.argument("inputs", nargs=-1, metavar="[NAME=VALUE]...")
@DEVICE
@DIMS
@click.option("--rtol", default=1e-3, show_default=True)
@click.option("--atol", default=1e-4, show_default=True)
@JSON
def compare(model, inputs, device, dims, rtol, atol, as_json) -> None:
    """Run a model on a device and in numpy; exit 1 and name the results that differ."""
    loaded = tallow.load(model, sizes_of(dims))
    exe = tallow.compile(loaded, device)
    arrays = parse_inputs(inputs, exe.inputs, sizes_of(dims), {"mean": [0], "std": [1], "scale": 1 / 255})
    bind_inputs(exe.compiled.program, [arrays[p.name] for p in exe.inputs])
    first = _first_difference(loaded.graph, arrays, device, rtol, atol)
    if as_json:
        show_json({"agrees": first is None, "first": first})
    elif first is None:
        click.echo(f"every result agrees within rtol {rtol}, atol {atol}")
    else:
        click.echo(f"first difference at {first['node']} ({first['op']}): largest {first['difference']:.3g}")
    if first is not None:
        sys.exit(1)


def _first_difference(graph: Graph, arrays, device: str, rtol: float, atol: float) -> dict | None:
    """The first value, in order of execution, that the device computes otherwise than numpy."""
    probes = [
        (n, v)
        for n in graph.nodes
        for v in n.outputs
        if n.op != "constant" and v.dtype.kind in ("float", "int", "uint")
    ]
    wanted: dict = {}
    tallow.evaluate(
        graph, arrays, lambda node, results: wanted.update(zip(node.outputs, results, strict=True))
    )
    probed = Graph(
        graph.name, graph.inputs, tuple(v for _, v in probes), graph.nodes, tuple(v.name for _, v in probes)
    )
    got = tallow.compile(probed, device).run(arrays)
    for node, value in probes:
        a, b = got[value.name].astype(np.float64), np.asarray(wanted[value]).astype(np.float64)
        if not np.allclose(a, b, rtol, atol, equal_nan=True):
            return {"node": str(node.location), "op": node.op, "difference": float(np.nanmax(np.abs(a - b)))}
    return None


@main.command()
@JSON
def devices(as_json: bool) -> None:
    """List backends and their devices, or why there are none."""
    rows = []
    for name, registered in sorted(plugins.host().tables["backend"].items()):
        try:
            for device in plugins.backend(name).devices():
                rows.append(
                    {
                        "device": device.name,
                        "from": registered.distribution,
                        "what": device.description,
                        "features": " ".join(device.features),
                    }
                )
        except TallowError as error:
            rows.append(
                {
                    "device": name,
                    "from": registered.distribution,
                    "what": f"not usable: {error}",
                    "features": "",
                }
            )
    for info in plugins.host().infos:
        if info.error:
            rows.append(
                {
                    "device": info.name,
                    "from": info.distribution,
                    "what": f"not usable: {info.error}",
                    "features": "",
                }
            )
    _table(rows, as_json, "no backend is installed: pip install tallow-cpu")


@main.command("plugins")
@JSON
def plugins_(as_json: bool) -> None:
    """List plugins, what each provides, and what is wrong with broken ones."""
    rows = [
        {
            "plugin": i.name,
            "from": f"{i.distribution} {i.version}",
            "provides": ", ".join(i.provides),
            "error": i.error or "",
        }
        for i in plugins.host().infos
    ]
    _table(rows, as_json, "no plugin is installed: pip install tallow-cpu tallow-importers")


def _table(rows: list[dict], as_json: bool, empty: str) -> None:
    if as_json:
        show_json(rows)
        return
    if not rows:
        click.echo(empty)
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


@main.command()
@MODEL
@click.option(
    "--stage",
    type=click.Choice(["graph", "prepared", "program", "kernels", "source", "assembly"]),
    default="graph",
)
@DEVICE
@DIMS
def show(model: Path, stage: str, device: str, dims) -> None:
    """Print a stage of compilation."""
    graph = tallow.load(model, sizes_of(dims)).graph
    name, arch = split_device(device)
    backend = plugins.backend(name)
    target = backend.target(arch)
    if stage == "graph":
        click.echo(print_graph(graph))
        return
    prepared = prepare(graph, backend, target)
    if stage == "prepared":
        click.echo(print_graph(prepared))
        return
    scheduled = lower(prepared, backend, target)
    if stage == "program":
        for number, step in enumerate(scheduled.program.steps):
            click.echo(f"{number:4} {step}")
    elif stage == "kernels":
        for kernel in scheduled.kernels.values():
            click.echo(print_kernel(kernel))
    else:
        click.echo(backend.source(list(scheduled.kernels.values()), target, stage))


for _command in plugins.host().commands:
    main.add_command(_command)
