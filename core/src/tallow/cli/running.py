"""The verb run: inputs from files, pictures or noise; results described, labelled, saved and compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from tallow.cli.arrays import described, parse_inputs, read_file
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
    picture_options,
    show_json,
    show_table,
    sizes_of,
    writable,
)
from tallow.errors import InputError


@click.command()
@MODEL
@INPUTS
@DEVICE
@DIMS
@THREADS
@TUNE
@STRICT
@picture_options
@click.option(
    "--labels", type=click.Path(exists=True, path_type=Path), help="One label a line, or a JSON list."
)
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Labels to print.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the results to an .npz file.")
@FORCE
@click.option(
    "--expect", "expected", multiple=True, metavar="NAME=@FILE.npy", help="Fail when a result differs."
)
@click.option("--rtol", default=1e-3, show_default=True)
@click.option("--atol", default=1e-5, show_default=True)
@JSON
def run(
    model,
    inputs,
    device,
    dims,
    threads,
    tune,
    strict,
    picture,
    labels,
    top,
    save,
    force,
    expected,
    rtol,
    atol,
    as_json,
) -> None:
    """Run a model. Values are @file.npy, @picture.png, numbers, lists such as [1,2], or random."""
    writable(save, force)
    names = _labels(labels) if labels else None
    exe = opened(model, device, dims, threads, tune, strict)
    wanted = _wanted(expected, [p.name for p in exe.outputs])
    results = exe.run(parse_inputs(inputs, exe.inputs, sizes_of(dims), picture))
    if save:
        with open(save, "wb") as file:
            np.savez(file, **results)
    facts = {name: described(array) for name, array in results.items()}
    best = _best(next(iter(results.values())), names, top) if names else []
    checks = [_compared(name, results[name], array, rtol, atol) for name, array in wanted.items()]
    if as_json:
        show_json(facts | ({"labels": best} if names else {}) | ({"expect": checks} if checks else {}))
    else:
        _print(facts, best, checks)
    if not all(check["agrees"] for check in checks):
        sys.exit(1)


def _print(facts: Mapping[str, dict], best: Sequence[dict], checks: Sequence[dict]) -> None:
    for name, row in facts.items():
        numbers = " ".join(f"{k} {v:.6g}" for k, v in row.items() if k not in ("dtype", "shape", "type"))
        kind = f"{row['dtype']}{row['shape']}" if "dtype" in row else row["type"]
        click.echo(f"{name}: {kind} {numbers}".rstrip())
    if best:
        show_table(best)
    for check in checks:
        verdict = "agrees with" if check["agrees"] else "differs from"
        click.echo(f"{check['name']} {verdict} what was expected: {check['why']}", err=not check["agrees"])


def _labels(path: Path) -> list[str]:
    text = path.read_text()
    if path.suffix != ".json":
        return text.splitlines()
    try:
        names = json.loads(text)
    except ValueError as error:
        raise InputError(f"labels {path}: bad JSON ({error})") from None
    if isinstance(names, dict):  # "0": "cat", as Hugging Face's id2label
        names = [names.get(str(n)) for n in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(f"labels {path}: expected a JSON list of texts")
    return names


def _best(scores: np.ndarray, names: Sequence[str], top: int) -> list[dict]:
    """The best labels for each row of scores [..., labels]."""
    count = scores.shape[-1] if scores.ndim else 0
    if count != len(names):
        raise InputError(f"{len(names)} labels do not fit a result of shape {list(scores.shape)}")
    rows = []
    for number, row in enumerate(scores.reshape(-1, count).astype(np.float64)):
        for place in np.argsort(-row, kind="stable")[:top]:
            rows.append({"row": number, "label": names[place], "score": float(row[place])})
    return rows


def _wanted(expected: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray]:
    found = {}
    for word in expected:
        name, _, text = word.partition("=@")
        if name not in outputs or not text:
            raise click.UsageError(
                f"--expect {word}: expected NAME=@FILE.npy with NAME one of {', '.join(outputs)}"
            )
        found[name] = read_file(Path(text))
    return found


def _compared(name: str, got, wanted: np.ndarray, rtol: float, atol: float) -> dict:
    """Whether a result is what was expected, and the largest difference."""
    if not isinstance(got, np.ndarray) or got.shape != wanted.shape:
        shape = list(got.shape) if isinstance(got, np.ndarray) else type(got).__name__
        return {"name": name, "agrees": False, "why": f"shape {shape}, expected {list(wanted.shape)}"}
    if got.dtype.kind in "OUS" or wanted.dtype.kind in "OUS":
        agrees = bool(np.array_equal(got.astype(object), wanted.astype(object)))
        return {"name": name, "agrees": agrees, "why": "texts are equal" if agrees else "texts differ"}
    wide = np.complex128 if "c" in (got.dtype.kind, wanted.dtype.kind) else np.float64
    a, b = got.astype(wide), wanted.astype(wide)
    close = np.isclose(a, b, rtol, atol, equal_nan=True)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)[np.isfinite(a) & np.isfinite(b)].max(initial=0.0)
    why = f"{int(np.sum(~close))} of {close.size} elements differ, largest difference {difference:.3g}"
    return {"name": name, "agrees": bool(close.all()), "why": why, "difference": float(difference)}


VERBS = (run,)
