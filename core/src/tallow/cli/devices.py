"""Verbs about what is installed: devices and plugins."""

from __future__ import annotations

import sys

import click
import numpy as np

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.cli.options import JSON, show_json, show_table
from tallow.errors import TallowError
from tallow.graph import Graph


@click.command()
@click.option(
    "--test", is_flag=True, help="Compile a small model for each device, run it, check its results."
)
@JSON
def devices(test: bool, as_json: bool) -> None:
    """List backends and their devices, or why there are none."""
    rows, failed = [], False
    for name, registered in sorted(plugins.host().tables["backend"].items()):
        try:
            found = plugins.backend(name).devices()
        except TallowError as error:
            rows.append(_row(name, registered.distribution, f"not usable: {error}"))
            continue
        for device in found:
            verdict = try_device(device.name) if test else None
            failed |= verdict not in (None, "ok")
            memory = f"{device.memory / 2**30:.1f} GiB" if device.memory else ""
            row = _row(device.name, registered.distribution, device.description, memory, device.features)
            rows.append(row | ({"test": verdict} if test else {}))
    for info in plugins.host().infos:
        if info.error:
            rows.append(_row(info.name, info.distribution, f"not usable: {info.error}"))
    if test:
        rows = [row | {"test": row.get("test", "not run")} for row in rows]
    _print(rows, as_json, "no backend is installed: pip install tallow-cpu")
    if failed:
        sys.exit(1)


def _row(device: str, source: str, what: str, memory: str = "", features=()) -> dict[str, str]:
    return {"device": device, "from": source, "what": what, "memory": memory, "features": " ".join(features)}


def try_device(device: str) -> str:
    """ "ok" when the device computes a small model right, else what is wrong."""
    graph = _small_model()
    inputs = {"x": np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)}
    wanted = tallow.evaluate(graph, inputs)
    try:
        results = tallow.compile(graph, device).run(inputs)
    except TallowError as error:
        return f"failed: {error}"
    wrong = [n for n in wanted if not np.allclose(results[n], wanted[n], 1e-4, 1e-5)]
    return f"failed: wrong results for {', '.join(wrong)}" if wrong else "ok"


def _small_model() -> Graph:
    """A product, a row kernel, a reduction and a movement."""
    b = Builder("device test")
    x = b.input("x", "f32", ["n", 7])
    weights = np.random.default_rng(1).standard_normal((7, 9)).astype(np.float32)
    y = b.softmax(b.relu(b.matmul(x, b.constant(weights))), axis=1)
    total = b.reduce(b.exp(x), function="add", axes=(0,), keepdims=False)
    return b.finish({"rows": b.transpose(y, permutation=(1, 0)), "total": total})


@click.command("plugins")
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
    _print(rows, as_json, "no plugin is installed: pip install tallow-cpu tallow-importers")


def _print(rows: list[dict], as_json: bool, empty: str) -> None:
    if as_json:
        show_json(rows)
    elif rows:
        show_table(rows)
    else:
        click.echo(empty)


VERBS = (devices, plugins_)
