"""The CNNs of the onnx package with seeded weights in place of their constant ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

LIGHT = ("resnet50", "squeezenet", "shufflenet", "densenet121", "inception_v1")
FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"


def build_light(name: str, folder: Path) -> Path:
    """Write light_NAME with He-normal weights and batch normalisation near 1; the file's path."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    rng = np.random.default_rng(0)
    graph = model.graph
    roles = {v: (n.op_type, i) for n in graph.node for i, v in enumerate(n.input)}
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = [int(d) for d in shapes[node.input[0]]]
        graph.initializer.append(
            numpy_helper.from_array(_weights(rng, shape, *roles[node.output[0]]), node.output[0])
        )
    del graph.node[:]
    graph.node.extend(kept)
    path = folder / f"{name}.onnx"
    model = helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=max(model.ir_version, 4)
    )
    onnx.save(model, path)
    return path


def _weights(rng: np.random.Generator, shape: list[int], op: str, place: int) -> np.ndarray:
    if op == "BatchNormalization":
        values = rng.uniform(0.8, 1.2, shape) if place in (1, 4) else rng.normal(0, 0.1, shape)
    elif len(shape) > 1:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    else:
        values = rng.normal(0, 0.01, shape)
    return values.astype(np.float32)
