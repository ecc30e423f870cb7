"""The CNNs that the onnx package ships without weights, with seeded weights that keep activations of unit scale.

In the package's files nearly every weight is a ConstantOfShape of one small number, so that a result hardly
depends on the input. Here each becomes an initializer of noise, and the few trained ones are drawn anew.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
RESIDUAL = 0.3  # scale of a normalisation that ends a residual branch: sums of many blocks stay bounded
CLASSIFIER = 0.1  # variance that the last layer adds: softmax does not saturate

Spread = tuple[float, float]  # centre and standard deviation
_NEAR_ONE, _NEAR_ZERO = (1.0, 0.1), (0.0, 0.05)
_PASSING = ("BatchNormalization", "Mul", "Add", "Sum")  # Relu after these cuts off what was before them
_ALIASES = ("Unsqueeze", "Reshape")


def write(name: str, path: Path) -> None:
    """Write light_NAME of the onnx package with weights."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {n: tuple(t.dims) for n, t in known.items() if t.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(int(d) for d in numpy_helper.to_array(known[node.input[0]]))
    weights = [
        numpy_helper.from_array(_draw(weight, shapes[weight], spread), weight)
        for weight, spread in _spreads(graph, shapes).items()
    ]
    _replace(graph.node, [n for n in graph.node if n.op_type != "ConstantOfShape"])
    _name_axis_of_softmax(graph)
    used = {name for node in graph.node for name in node.input} - {tensor.name for tensor in weights}
    _replace(graph.initializer, [t for t in graph.initializer if t.name in used] + weights)
    _replace(graph.input, [i for i in graph.input if i.name in used and i.name not in known])
    model.ir_version = max(model.ir_version, 4)  # the first whose initializers need not be inputs
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _replace(repeated, items: list) -> None:
    del repeated[:]
    repeated.extend(items)


def _name_axis_of_softmax(graph: onnx.GraphProto) -> None:
    """Write the default axis of this opset out, because MNN takes that of later ones."""
    for node in graph.node:
        if node.op_type == "Softmax" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("axis", 1))


def _spreads(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Spread]:
    """How each weight is drawn: He-normal (He et al., 2015) for convolutions and matrix products, near
    one for scales and variances, near zero for biases and means."""
    aliases = {n.output[0]: n.input[0] for n in graph.node if n.op_type in _ALIASES}
    rectified: set[str] = set()
    summed: set[str] = set()
    spreads: dict[str, Spread] = {}
    last = True
    for node in reversed(graph.node):
        result = node.output[0]
        operands = [aliases.get(operand, operand) for operand in node.input]
        match node.op_type:
            case "Conv" | "Gemm":
                gain = CLASSIFIER if last else 2.0 if result in rectified else 1.0
                spreads |= dict.fromkeys(operands[2:], _NEAR_ZERO)
                spreads[operands[1]] = (0.0, math.sqrt(gain / _fan(node, shapes[operands[1]])))
                last = False
            case "BatchNormalization":
                scale = RESIDUAL if result in summed else 1.0
                factors, *moments = operands[1:]
                spreads |= dict(zip(moments, (_NEAR_ZERO, _NEAR_ZERO, _NEAR_ONE), strict=True))
                spreads[factors] = (scale, scale * 0.1)
            case "Mul" | "Add":
                near = _NEAR_ONE if node.op_type == "Mul" else _NEAR_ZERO
                spreads |= {name: near for name in operands if name in shapes}
            case "Sum":
                summed.update(node.input)
        if node.op_type == "Relu" or (node.op_type in _PASSING and result in rectified):
            rectified.update(node.input)
    return spreads


def _fan(node: onnx.NodeProto, shape: tuple[int, ...]) -> int:
    """How many products each element of the result sums."""
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return shape[-1] if transposed else shape[-2]


def _draw(name: str, shape: tuple[int, ...], spread: Spread) -> np.ndarray:
    """Noise that depends on the weight's name alone, not on the order of drawing."""
    centre, deviation = (np.float32(number) for number in spread)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    return centre + deviation * noise
