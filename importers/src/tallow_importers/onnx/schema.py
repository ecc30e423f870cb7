"""What ONNX's schemas say of a node: operands and attributes it must have, and of which type each of these is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import onnx

from tallow_importers.onnx.context import Unsupported

_NAMES = {number: name for name, number in onnx.AttributeProto.AttributeType.items()}


@dataclass(frozen=True, slots=True)
class _Signature:
    """Type number of each attribute, those that must be there, and least and greatest number of operands."""

    types: dict[str, int]
    required: tuple[str, ...]
    operands: tuple[int, int]


@cache
def _signature(op: str, opset: int, domain: str) -> _Signature | None:
    """None for operators without a schema."""
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None
    types = {name: int(a.type.value) for name, a in schema.attributes.items()}
    required = tuple(sorted(name for name, a in schema.attributes.items() if a.required))
    return _Signature(types, required, (schema.min_input, schema.max_input))


def check_node(node: onnx.NodeProto, domain: str, opset: int) -> None:
    """Unsupported where an operand or an attribute is missing, or of another type than its operator takes.
    Some files have operands where their opset knows attributes, or the other way round: handlers read both."""
    known = _signature(node.op_type, opset, domain)
    if known is None:
        return
    said = f"{node.op_type} of opset {opset}"
    for attribute in node.attribute:
        wanted = known.types.get(attribute.name, attribute.type)
        if attribute.type != wanted:
            kind = _NAMES.get(attribute.type, str(attribute.type))
            raise Unsupported(f'attribute "{attribute.name}" of type {kind}: {said} takes {_NAMES[wanted]}')
    given = {a.name for a in node.attribute}
    missing = [name for name in known.required if name not in given]
    least, most = known.operands
    if missing and len(node.input) <= most:
        raise Unsupported(f"no attribute {', '.join(missing)}: {said} needs it")
    if len(node.input) < least and given <= known.types.keys():
        raise Unsupported(f"{len(node.input)} operands: {said} takes at least {least}")
