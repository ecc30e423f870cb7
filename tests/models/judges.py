"""What a model's results are compared with: onnxruntime, its exact mode, ONNX's own evaluator, also in f64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from catalogue import Entry
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator


def onnxruntime_session(path: Path, exact: bool = False) -> onnxruntime.InferenceSession:
    """A session on one thread: dynamic quantisation of recurrent layers depends on how work is shared out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if exact:  # 8-bit products are otherwise added in 16 bits that saturate on CPUs without VNNI
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def wanted(entry: Entry, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results that the entry's oracle gives, by name."""
    if entry.oracle == "reference":
        model = onnx.load(entry.path())
        for opset in model.opset_import:  # the evaluator begins with the quantisation of opset 19
            opset.version = max(opset.version, 19)
        evaluator = ReferenceEvaluator(model)
        return dict(zip(evaluator.output_names, evaluator.run(None, dict(given)), strict=True))
    if entry.oracle == "double":
        evaluator = ReferenceEvaluator(doubled(onnx.load(entry.path())))
        results = evaluator.run(None, {name: _double(array) for name, array in given.items()})
        return {n: _single(r) for n, r in zip(evaluator.output_names, results, strict=True)}
    session = onnxruntime_session(entry.path(), entry.oracle == "exact")
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(given)), strict=True))


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with f64 wherever it has f32; models whose nodes have subgraphs are not for it."""

    def widen(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_double(numpy_helper.to_array(tensor)), tensor.name))

    for tensor in model.graph.initializer:
        widen(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            assert attribute.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS), node.name
            if attribute.type == AttributeProto.TENSOR:
                widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


def _double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def error_of(result: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest value wanted; NaN must be where NaN is."""
    a, b = result.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    return float(np.nanmax(np.abs(a - b), initial=0) / max(np.nanmax(np.abs(b), initial=0), 0.01))
