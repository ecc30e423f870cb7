"""Operators that ONNX defines by a function body: the body, for the types at hand."""

from __future__ import annotations

import onnx

from tallow.dtype import DType
from tallow.graph import (
    VARIES,
    NothingType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnrankedType,
)
from tallow_importers.onnx.tensors import ONNX_DTYPES

_NUMBERS: dict[DType, int] = {dtype: number for number, dtype in ONNX_DTYPES.items()}


def type_proto(type_: Type) -> onnx.TypeProto:
    """A type in ONNX's own form, symbolic sizes by name."""
    match type_:
        case TensorType():
            shape = [None if d == VARIES else d if isinstance(d, int) else str(d) for d in type_.shape]
            return onnx.helper.make_tensor_type_proto(_NUMBERS[type_.dtype], shape)
        case UnrankedType() | NothingType():
            return onnx.helper.make_tensor_type_proto(_NUMBERS[type_.dtype], None)
        case SequenceType():
            return onnx.helper.make_sequence_type_proto(type_proto(type_.element))
        case OptionalType():
            return onnx.helper.make_optional_type_proto(type_proto(type_.element))
    return onnx.helper.make_map_type_proto(_NUMBERS[type_.key], type_proto(type_.element))


def body_of(importer, node: onnx.NodeProto, domain: str, opset: int, types) -> tuple | None:
    """`(function, None)` of an operator that has a body at this opset, else None. Without `types`, only
    whether there is one."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.deprecated:
        return None
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        if versions:
            return onnx.FunctionProto.FromString(schema.get_function_with_opset_version(max(versions))), None
    if schema.has_context_dependent_function:
        if types is None:
            return onnx.FunctionProto(), None
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        empty = onnx.TypeProto()
        given = [(empty if t is None else t).SerializeToString() for t in types]
        if versions:
            text = schema.get_context_dependent_function_with_opset_version(
                max(versions), node.SerializeToString(), given
            )
            return onnx.FunctionProto.FromString(text), None
    return None
