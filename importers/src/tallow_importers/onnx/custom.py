"""ONNX nodes of operators that others have registered: operands and attributes are passed on."""

from __future__ import annotations

import onnx

from tallow.errors import ImportFailed
from tallow.graph import Value
from tallow.ops import OPS
from tallow_importers.onnx.context import Context, NodeView, Unsupported


def is_custom(name: str) -> bool:
    """Whether `domain.type` is an operator that a plugin or the program has added."""
    return name in OPS and bool(OPS[name].definition)


def write_custom(context: Context, node: NodeView) -> list[Value]:
    """The results of the operator `domain.type`, its attributes as Python values: lists as tuples, tensors as
    arrays. Operands may be left out at the end only."""
    name = f"{node.proto.domain}.{node.op_type}"
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    if None in inputs:
        raise Unsupported(f"{name} with operand {inputs.index(None)} left out and others after it")
    attributes = {key: _plain(context, name, key, value) for key, value in node.attributes.items()}
    reserved = attributes.keys() & {"name", "names", "name_of_op", "defines"}
    if reserved:
        raise Unsupported(f"{name} with an attribute called {', '.join(sorted(reserved))}")
    found = context.builder.emit(name, *inputs, **attributes)
    results = list(found) if isinstance(found, tuple) else [found]
    if len(node.proto.output) > len(results):
        raise ImportFailed(
            f"{context.builder.location} has {len(node.proto.output)} results: {name} gives {len(results)}"
        )
    return results


def _plain(context: Context, name: str, key: str, value):
    match value:
        case list() if all(isinstance(v, (int, float, str)) for v in value):
            return tuple(value)
        case int() | float() | str():
            return value
        case onnx.TensorProto():
            return context.tensor(value)
    raise Unsupported(f"{name} with the attribute {key}, which is neither number, text nor tensor")
