"""A random graph inside control flow: in a branch, in an iteration, in a branch of an iteration."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from comparing import difference
from drafts import Draft, Value
from onnx import TensorProto, helper, numpy_helper

import tallow
from tallow.errors import TallowError

TRIPS = 2
BOOL, I64 = TensorProto.BOOL, TensorProto.INT64


def untyped(names) -> list[onnx.ValueInfoProto]:
    return [onnx.ValueInfoProto(name=name) for name in names]


def _branch(nodes, results: list[Value], names: list[str]) -> onnx.NodeProto:
    """An `If` on the input "flag" whose other branch gives zeros of the same types."""
    inner = [f"{name}.then" for name in names]
    ends = [helper.make_node("Identity", [v.name], [n]) for v, n in zip(results, inner, strict=True)]
    then = helper.make_graph([*nodes, *ends], "then", [], untyped(inner))
    zeros = [
        helper.make_node(
            "Constant", [], [f"{n}.zeros"], value=numpy_helper.from_array(np.zeros_like(v.array))
        )
        for v, n in zip(results, names, strict=True)
    ]
    other = helper.make_graph(zeros, "other", [], untyped([f"{n}.zeros" for n in names]))
    return helper.make_node("If", ["flag"], names, then_branch=then, else_branch=other)


def _loop(nodes, inner: list[str], names: list[str]) -> onnx.NodeProto:
    """A `Loop` of `TRIPS` iterations, unless "flag" is false, that keeps the results of each."""
    ends = [helper.make_node("Identity", ["going"], ["again"])]
    ends += [helper.make_node("Identity", [name], [f"{name}.row"]) for name in inner]
    inputs = [
        helper.make_tensor_value_info("number", I64, []),
        helper.make_tensor_value_info("going", BOOL, []),
    ]
    body = helper.make_graph(
        [*nodes, *ends], "body", inputs, untyped(["again", *(f"{n}.row" for n in inner)])
    )
    return helper.make_node("Loop", ["trips", "flag"], names, body=body)


def nested(draft: Draft, kind: str) -> onnx.ModelProto:
    """The draft's model with all nodes inside control flow; results are named as the draft's values."""
    model = draft.model()
    values = {v.name: v for v in draft.values}
    results = [values[port.name] for port in model.graph.output]
    names = [f"{v.name}.out" for v in results]
    nodes = list(model.graph.node)
    if kind == "branch":
        made = [_branch(nodes, results, names)]
    elif kind == "loop":
        made = [_loop(nodes, [v.name for v in results], names)]
    else:
        inner = [f"{v.name}.in" for v in results]
        made = [_loop([_branch(nodes, results, inner)], inner, names)]
    del model.graph.node[:]
    model.graph.node.extend(made)
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(
            n,
            helper.np_dtype_to_tensor_dtype(v.array.dtype),
            [None] * (v.rank + (kind != "branch")),
        )
        for v, n in zip(results, names, strict=True)
    )
    model.graph.input.append(helper.make_tensor_value_info("flag", BOOL, []))
    model.graph.initializer.append(numpy_helper.from_array(np.array(TRIPS), "trips"))
    return model


def check(draft: Draft, kind: str) -> str | None:
    """What differs when the draft runs inside control flow, or None."""
    if not draft.nodes:
        return None
    model = nested(draft, kind)
    feed = draft.feed(draft.model()) | {"flag": np.array(True)}
    values = {v.name: v for v in draft.values}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        try:
            executable = tallow.compile(path)
            runs = [executable.run(feed), executable.run(feed)]
        except TallowError as error:
            return f"refused: {type(error).__name__}: {error}"
    for results in runs:
        for name, got in results.items():
            rows = [got] if kind == "branch" else list(got)
            if kind != "branch" and len(rows) != TRIPS:
                return f"{name}: {len(rows)} rows of {TRIPS} iterations"
            for row in rows:
                text = difference(values[name.removesuffix(".out")], row)
                if text is not None:
                    return f"{name}: {text}"
    return None
