"""What ONNX's schemas say of a node's attributes: those it must have, and of which type each is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import onnx

from tallow_importers.onnx.context import Unsupported

_NAMES = {number: name for name, number in onnx.AttributeProto.AttributeType.items()}


@dataclass(frozen=True, slots=True)
class _Signature:
    """Type number of each attribute, those that must be there, and how many operands there may be."""

    types: dict[str, int]
    required: tuple[str, ...]
    operands: int


@cache
def _signature(op: str, opset: int, domain: str) -> _Signature | None:
    """None for operators without a schema."""
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None
    types = {name: int(a.type.value) for name, a in schema.attributes.items()}
    required = tuple(sorted(name for name, a in schema.attributes.items() if a.required))
    return _Signature(types, required, schema.max_input)


def check_attributes(node: onnx.NodeProto, domain: str, opset: int) -> None:
    """Unsupported where an attribute is missing, or of another type than its operator takes. A node with
    more operands than its opset knows has there what once was an attribute."""
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
    if missing and len(node.input) <= known.operands:
        raise Unsupported(f"no attribute {', '.join(missing)}: {said} needs it")
