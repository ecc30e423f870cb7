"""onnxruntime as a reference: an ONNX model with every intermediate result made an output."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tallow.errors import InputError, Unavailable

LARGEST = 1 << 30  # bytes of a model that is written as one file


@dataclass(frozen=True, slots=True)
class Exposed:
    """A copy of a model on disk whose outputs are all results of its nodes; `makers` says which node
    makes each, in order; `outputs` are the model's own."""

    path: Path
    makers: Mapping[str, str]
    outputs: tuple[str, ...]


def _packages():
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise Unavailable(
            f"comparing with onnxruntime needs {error.name}: pip install onnx onnxruntime"
        ) from None
    return onnx, onnxruntime


@contextmanager
def exposed(path: Path) -> Iterator[Exposed]:
    """The model of a file with everything exposed, for as long as the context lasts."""
    onnx, _ = _packages()
    if path.suffix != ".onnx":
        raise InputError(f"onnxruntime reads .onnx files, got {path.name}: compare it --against evaluate")
    model = onnx.load(path)
    own = tuple(o.name for o in model.graph.output)
    makers = {
        name: f'{node.op_type} node "{node.name or node.output[0]}"'
        for node in model.graph.node
        for name in node.output
        if name
    }
    for name in makers:
        if name not in own:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        large = model.ByteSize() > LARGEST
        onnx.save(model, copy, save_as_external_data=large, location="weights" if large else None)
        yield Exposed(copy, makers, own)


def run(model: Exposed, arrays: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """The model's own results, and those of every node, as onnxruntime computes them unoptimised.

    Left out is what its Python interface cannot hold: sequences, and dtypes that numpy lacks.
    """
    _, onnxruntime = _packages()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        kept = [o.name for o in session.get_outputs() if _is_plain(o.type)]
        taken = {i.name for i in session.get_inputs()}
        values = session.run(kept, {n: a for n, a in arrays.items() if n in taken})
    except Exception as error:  # onnxruntime's own errors share no base class
        raise InputError(f"onnxruntime cannot run this model: {str(error).strip()[:400]}") from None
    inner = dict(zip(kept, values, strict=True))
    return {n: inner[n] for n in model.outputs if n in inner}, inner


def _is_plain(kind: str) -> bool:
    return kind.startswith("tensor(") and not any(w in kind for w in ("bfloat16", "float8", "float4", "int4"))
