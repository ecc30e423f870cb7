"""The files that hold a model's external data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from tallow_importers.onnx.weights import read_without_weights


def files(path: Path) -> list[Path]:
    """A model's file, and those beside it or below its folder that its tensors lie in."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_without_weights(path))
    except (DecodeError, ValueError, RecursionError):
        return [path]
    names = {
        entry.value
        for tensors in (_of_graph(model.graph), *(_of_nodes(f.node) for f in model.functions))
        for tensor in tensors
        for entry in tensor.external_data
        if entry.key == "location"
    }
    folder = path.parent.resolve()
    beside = sorted((folder / name).resolve() for name in names if "\0" not in name)
    return [path, *(file for file in beside if file.is_relative_to(folder) and file.is_file())]


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)
