"""What is wrong with many files and has one sound reading: found, read so, and said in a warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import onnx

from tallow.dtype import i32, i64
from tallow.graph import Location, TensorType, Value
from tallow_importers.onnx.context import Context
from tallow_importers.onnx.tensors import ONNX_DTYPES

ANONYMOUS = {"", "unknown", "-1"}  # names of sizes that name nothing


def warn(message: str) -> None:
    """A warning that points at the caller of the importer."""
    warnings.warn(message, stacklevel=8)


def missing_opset(ir_version: int) -> int:
    """The newest opset of ONNX's own domain that came with an IR version: what its files mean unless they say."""
    found = [row[2] for row in onnx.helper.VERSION_TABLE if row[1] <= ir_version]
    return max(found, default=1)


def opset_of(node: onnx.NodeProto, opset: int, where: Location, told: set[str]) -> int:
    """The opset that a node of ONNX's own domain is read by: the file's, or the one that brought its operator."""
    if onnx.defs.has(node.op_type, opset, "") or not onnx.defs.has(node.op_type, ""):
        return opset
    first = min(s.since_version for s in _versions(node.op_type))
    if first <= opset:
        return opset  # an operator that a later version withdrew
    if node.op_type not in told:
        told.add(node.op_type)
        warn(
            f"{where}: {node.op_type} came with opset {first}, the file names {opset}: read by opset {first}"
        )
    return first


def _versions(op: str) -> Iterable[onnx.defs.OpSchema]:
    return (
        s for s in onnx.defs.get_all_schemas_with_history() if s.name == op and s.domain in ("", "ai.onnx")
    )


def one_integer_width(context: Context, inputs: Sequence[Value | None]) -> list[Value | None] | None:
    """Operands of 32 and 64 bits all in 64, or None where there is no such mixture."""
    dtypes = [v.type.dtype for v in inputs if v is not None and isinstance(v.type, TensorType)]
    if not {i32, i64} <= set(dtypes):
        return None
    warn(f"{context.builder.location}: operands of 32-bit and of 64-bit integers: taken as 64-bit ones")

    def wide(value: Value | None) -> Value | None:
        narrow = value is not None and isinstance(value.type, TensorType) and value.type.dtype == i32
        return context.builder.cast(value, dtype=i64) if narrow else value

    return [wide(v) for v in inputs]


_RANKS = {"Gemm": 2, "LSTM": 3, "GRU": 3, "RNN": 3}
_LIKE_WEIGHTS = ("Conv", "ConvTranspose", "ConvInteger")


def rank_by_use(graph: onnx.GraphProto, name: str) -> int | None:
    """The rank that the operators reading a graph input demand of it, if one does."""
    ranks = {t.name: len(t.dims) for t in graph.initializer}
    for node in graph.node:
        if not node.input or node.input[0] != name:
            continue
        if node.op_type in _RANKS:
            return _RANKS[node.op_type]
        if node.op_type in _LIKE_WEIGHTS and len(node.input) > 1 and node.input[1] in ranks:
            return ranks[node.input[1]]
    return None


def reads(graph: onnx.GraphProto) -> set[str]:
    """Every name that a graph uses, in its subgraphs too."""
    names = {o.name for o in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names |= reads(inner)
    return names


def has_type(graph: onnx.GraphProto, info: onnx.ValueInfoProto, source: str) -> bool:
    """Whether a graph input is to be kept. One without a shape gets the rank that its reader demands; one
    without any type that nothing reads is left out."""
    kind, tensor = info.type.WhichOneof("value"), info.type.tensor_type
    if kind not in (None, "tensor_type") or tensor.HasField("shape"):
        return True
    where = f'{source}: input "{info.name}"'
    if info.name not in reads(graph):
        warn(f"{where} has no type and nothing reads it: left out")
        return False
    rank = rank_by_use(graph, info.name) if kind else None
    if rank is not None:
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(rank))
        warn(f"{where} has no shape: rank {rank}, as its reader demands")
    return True


def same(a: np.ndarray | None, b: np.ndarray) -> bool:
    """Whether two arrays are one to the bit."""
    return a is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check_declared(source: str, info: onnx.ValueInfoProto, value: Value) -> None:
    """Warns of a result whose declared type is not the one it has; what it has counts."""
    if not info.type.HasField("tensor_type") or not isinstance(value.type, TensorType):
        return
    declared = info.type.tensor_type
    named = onnx.helper.tensor_dtype_to_string(declared.elem_type) if declared.elem_type else ""
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in declared.shape.dim]
    clash = declared.HasField("shape") and (
        len(sizes) != value.rank
        or any(
            isinstance(have, int) and said not in (None, have)
            for said, have in zip(sizes, value.shape, strict=True)
        )
    )
    if clash or (named and ONNX_DTYPES.get(declared.elem_type) != value.dtype):
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in declared.shape.dim]
        said = f"{named.removeprefix('TensorProto.').lower()}{shape if declared.HasField('shape') else ''}"
        warn(f'{source}: output "{info.name}" is declared as {said}, it is {value.type}')
