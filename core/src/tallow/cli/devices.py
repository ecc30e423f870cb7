"""Verbs about what is installed: devices and plugins."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import numpy as np

import tallow
from tallow import plugins
from tallow.backend import DeviceInfo
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
        source = _source(registered.distribution)
        found, reason = _devices_of(name)
        if reason:
            rows.append(_row(name, source, f"not usable: {reason}"))
        for device in found:
            verdict = try_device(device.name) if test else None
            failed |= verdict not in (None, "ok")
            memory = f"{device.memory / 2**30:.1f} GiB" if device.memory else ""
            row = _row(device.name, source, device.description, memory, device.features)
            rows.append(row | ({"test": verdict} if test else {}))
    for info in plugins.host().infos:
        if info.error:
            rows.append(_row(info.name, f"{info.distribution} {info.version}", f"not usable: {info.error}"))
    if test:
        rows = [row | {"test": row.get("test", "not run")} for row in rows]
    _print(rows, as_json, "no backend is installed: pip install tallow-cpu")
    if failed:
        sys.exit(1)


def _source(distribution: str) -> str:
    """A distribution with its version."""
    versions = {info.distribution: info.version for info in plugins.host().infos}
    return f"{distribution} {versions.get(distribution, '')}".strip()


def _devices_of(name: str) -> tuple[Sequence[DeviceInfo], str]:
    """The devices of a backend, or why there are none, on one line."""
    try:
        found = plugins.backend(name).devices()
    except TallowError as error:
        return (), " ".join(str(error).split())
    except Exception as error:  # a driver may fail in any way; the other backends are listed all the same
        return (), " ".join(f"{type(error).__name__}: {error}".split())
    return found, "" if found else "it finds no device here"


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
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}"
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
