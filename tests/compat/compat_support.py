"""Shared by the tests of compatibility: models, and one action on onnxruntime and on Tallow side by side."""

from __future__ import annotations

import logging
import warnings
from enum import Enum

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import tallow.compat.onnxruntime as ours

MODULES = (onnxruntime, ours)
CPU = ["CPUExecutionProvider"]


def port(name, kind, shape=()):
    """An input or output: a tensor of that element type, or of a type of its own."""
    if isinstance(kind, onnx.TypeProto):
        return helper.make_value_info(name, kind)
    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape)


def model(nodes, inputs, outputs, constants=(), opset=17, **facts):
    """The bytes of a model."""
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    graph = helper.make_graph(nodes, "named", list(inputs), list(outputs), tensors)
    graph.doc_string = "of the graph"
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, **facts)


def sums() -> onnx.ModelProto:
    """y = x + 1 and the shape of x, where x is [batch, ?, 3]."""
    nodes = [helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node("Shape", ["x"], ["s"])]
    facts = dict(
        producer_name="maker", producer_version="1.2", domain="a.b", model_version=7, doc_string="doc"
    )
    results = [port("y", "FLOAT", None), port("s", "INT64", [3])]
    proto = model(nodes, [port("x", "FLOAT", ["batch", None, 3])], results, {"w": np.ones(3, "f4")}, **facts)
    helper.set_model_props(proto, {"letters": "a\nb", "producer": "someone else"})
    return proto


def product() -> onnx.ModelProto:
    """c = a @ b, sizes n, k and m."""
    ports = [port("a", "FLOAT", ["n", "k"]), port("b", "FLOAT", ["k", "m"])]
    return model([helper.make_node("MatMul", ["a", "b"], ["c"])], ports, [port("c", "FLOAT", ["n", "m"])])


def operator(op, inputs, outputs, constants=(), domain="", opset=17, **attributes) -> onnx.ModelProto:
    """A model of one node."""
    names = [i.name for i in inputs] + list(constants)
    node = helper.make_node(op, names, [o.name for o in outputs], domain=domain, **attributes)
    return model([node], inputs, outputs, constants, opset)


def session(module, proto, *arguments, **options):
    """A session of a module on the CPU."""
    return module.InferenceSession(proto.SerializeToString(), *arguments, providers=CPU, **options)


def outcome(action, module) -> tuple:
    """What an action gives, or the class of what it raises, as values of no module."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "gives", neutral(action(module))
    except Exception as raised:
        return "raises", type(raised).__name__


def neutral(value):
    """A result without the classes of a module; arrays with dtype and shape."""
    match value:
        case np.ndarray():
            return "array", str(value.dtype), value.shape, value.tolist()
        case dict():
            return {key: neutral(element) for key, element in value.items()}
        case list() | tuple():
            return type(value).__name__, [neutral(element) for element in value]
        case _ if hasattr(type(value), "__members__") or isinstance(value, Enum):
            return value.name
    return value


def same(action) -> tuple:
    """The outcome of an action, which is the same on both modules."""
    theirs, mine = (outcome(action, module) for module in MODULES)
    assert mine == theirs
    return mine


class Heard(logging.Handler):
    """Collects what the compatibility module logs."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())
