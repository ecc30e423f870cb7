"""What an ONNX file says of itself: producer, texts, and the names of sizes as they are written."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from tallow.declared import Declared, Sizes
from tallow_importers.onnx.tensors import ONNX_DTYPES


def declaration(model: onnx.ModelProto, fed: Collection[str] = ()) -> Declared:
    """The facts of a model's file that its Graph has no place for; `fed` are inputs whose defaults do not count."""
    graph = model.graph
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    constants.difference_update(fed)
    inputs = [i for i in graph.input if i.name not in constants]
    ports = {info.name: shape for info in (*inputs, *graph.output) if (shape := _shape(info)) is not None}
    meanings = {info.name: tuple(d.denotation for d in _shape(info).dim) for info in inputs if _shape(info)}
    defaults = {
        info.name: (str(ONNX_DTYPES[info.type.tensor_type.elem_type]), _sizes(info.type.tensor_type.shape))
        for info in graph.input
        if info.name in constants and info.type.tensor_type.elem_type in ONNX_DTYPES
    }
    return Declared(
        sizes={name: _sizes(shape) for name, shape in ports.items()},
        meanings={name: words for name, words in meanings.items() if any(words)},
        defaults=defaults,
        producer=model.producer_name,
        domain=model.domain,
        description=model.doc_string,
        version=model.model_version if model.HasField("model_version") else None,
        graph=graph.name,
        graph_description=graph.doc_string,
        properties={p.key: p.value for p in model.metadata_props},
    )


def _shape(info: onnx.ValueInfoProto) -> onnx.TensorShapeProto | None:
    """The shape of a tensor, or of what an optional tensor holds."""
    optional = info.type.WhichOneof("value") == "optional_type"
    type_ = info.type.optional_type.elem_type if optional else info.type
    tensor = type_.tensor_type
    return tensor.shape if type_.HasField("tensor_type") and tensor.HasField("shape") else None


def _sizes(shape: onnx.TensorShapeProto) -> Sizes:
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in shape.dim)
