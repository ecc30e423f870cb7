"""The verb compare: a device against numpy or onnxruntime, node by node."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import click
import numpy as np

import tallow
from tallow.cli import reference
from tallow.cli.arrays import Picture, parse_inputs
from tallow.cli.options import DEVICE, DIMS, INPUTS, JSON, MODEL, THREADS, Sizes, show_json, sizes_of, working
from tallow.graph import Graph, TensorType


@dataclass(frozen=True, slots=True)
class Pair:
    """One result from both sides, and the node that makes it."""

    node: str
    result: str
    got: np.ndarray
    wanted: np.ndarray


@click.command()
@MODEL
@INPUTS
@click.option(
    "--against",
    type=click.Choice(["evaluate", "onnxruntime"]),
    default="evaluate",
    show_default=True,
    help="The numpy meaning of Tallow's own operators, or onnxruntime on the ONNX file.",
)
@DEVICE
@DIMS
@THREADS
@click.option("--rtol", default=1e-3, show_default=True)
@click.option(
    "--atol", default=1e-4, show_default=True, help="Of each result's largest magnitude, 1 at least."
)
@JSON
def compare(model, inputs, against, device, dims, threads, rtol, atol, as_json) -> None:
    """Compare a model's results on a device, node by node; exit 1 and name the first that differs."""
    with working(f"comparing {model.name}"):
        sizes = sizes_of(dims)
        loaded = tallow.load(model, sizes)
        exe = tallow.compile(loaded, device, threads=threads)
        arrays = parse_inputs(inputs, exe.inputs, sizes, Picture())
        results = exe.run(arrays)
        sides = _with_onnxruntime if against == "onnxruntime" else _with_evaluate
        pairs = list(sides(loaded, device, sizes, arrays, results))
    first = next((facts for p in pairs if (facts := _difference(p, rtol, atol))), None)
    facts = {"agrees": first is None, "against": against, "compared": len(pairs), "first": first}
    if as_json:
        show_json(facts)
    elif first is None:
        click.echo(f"{len(pairs)} results agree with {against} within rtol {rtol}, atol {atol}")
    else:
        click.echo(
            f"first difference from {against} at {first['node']}, result {first['result']}: {first['why']}"
        )
    if first is not None:
        sys.exit(1)


def _with_evaluate(
    loaded: tallow.Model, device: str, sizes: Sizes, arrays: Mapping, results: Mapping
) -> Iterator[Pair]:
    graph, wanted = loaded.graph, {}
    final = tallow.evaluate(
        graph, arrays, lambda node, made: wanted.update(zip(node.outputs, made, strict=True))
    )
    probes = [
        (n, v)
        for n in graph.nodes
        for v in n.outputs
        if n.op != "constant" and isinstance(v.type, TensorType)
    ]
    names = [f"{number}" for number in range(len(probes))]
    probed = Graph(graph.name, graph.inputs, tuple(v for _, v in probes), graph.nodes, tuple(names))
    got = tallow.compile(probed, device).run(arrays) if probes else {}
    for name, (node, value) in zip(names, probes, strict=True):
        yield Pair(f"{node.location} ({node.op})", value.name, got[name], wanted[value])
    yield from _whole(results, final)


def _with_onnxruntime(
    loaded: tallow.Model, device: str, sizes: Sizes, arrays: Mapping, results: Mapping
) -> Iterator[Pair]:
    with reference.exposed(loaded.path) as model:
        final, inner = reference.run(model, arrays)
        got = tallow.compile(tallow.load(model.path, sizes), device).run(arrays)
    for name, node in model.makers.items():
        if name in inner and name in got:
            yield Pair(node, name, got[name], inner[name])
    yield from _whole(results, final)


def _whole(results: Mapping, final: Mapping) -> Iterator[Pair]:
    """The model's own results, with everything fused that can be."""
    for name, array in results.items():
        if name in final and isinstance(array, np.ndarray):
            yield Pair("the whole model, though every node agrees on its own", name, array, final[name])


def _difference(pair: Pair, rtol: float, atol: float) -> dict | None:
    why = _why(pair, rtol, atol)
    return {"node": pair.node, "result": pair.result, "why": why} if why else None


def _why(pair: Pair, rtol: float, atol: float) -> str:
    """How two results differ, or ""."""
    got, wanted = np.asarray(pair.got), np.asarray(pair.wanted)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype}{list(got.shape)}, expected {wanted.dtype}{list(wanted.shape)}"
    if got.dtype == object:
        return "" if got.tolist() == wanted.tolist() else "texts differ"
    wide = np.complex128 if got.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), wanted.astype(wide)
    scale = np.abs(b[np.isfinite(b)]).max(initial=1.0)
    close = np.isclose(a, b, rtol, atol * scale, equal_nan=True)
    if close.all():
        return ""
    with np.errstate(invalid="ignore"):
        largest = np.nanmax(np.abs(a - b))
    place = tuple(int(i) for i in np.argwhere(~close)[0])
    return f"{int((~close).sum())} of {close.size} elements, largest difference {largest:.3g}, first at {list(place)}"


VERBS = (compare,)
