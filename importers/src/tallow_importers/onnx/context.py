"""What a handler sees: its node with operands as Values, and a context to build and to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx

from tallow.dim import Dim
from tallow.dtype import DType, i64
from tallow.errors import GraphError, TallowError
from tallow.graph import TensorType, Value
from tallow_importers.onnx.known import KnownBuilder
from tallow_importers.onnx.tensors import dtype_of, to_array


class Unsupported(TallowError):
    """Raised by handlers; collected, so that a model's whole list is reported at once."""


Arm = Callable[[KnownBuilder], Sequence["Value | None"]]


class RanksDiffer(Unsupported):
    """Raised when a graph's results differ in rank from one condition to the other."""


@dataclass(eq=False)
class Diverges(Exception):
    """Raised by a handler whose results have another rank when its condition holds than when it does not:
    what comes after the node must be written twice. `arms` write the results into the builder of a
    region, for true and for false; on the way up each level adds the nodes that follow."""

    condition: Value
    arms: tuple[Arm, ...]
    reason: str

    def followed(self, by: Callable[[Arm, KnownBuilder], Sequence[Value | None]]) -> Diverges:
        """The same split, its arms run by `by`, which adds what follows."""
        return Diverges(self.condition, tuple(partial(by, arm) for arm in self.arms), self.reason)


@dataclass(slots=True)
class NodeView:
    """An ONNX node: operands (None where left out) and attributes as Python values."""

    proto: onnx.NodeProto
    inputs: list[Value | None]
    attributes: dict[str, object]
    opset: int

    @property
    def op_type(self) -> str:
        return self.proto.op_type

    def input(self, number: int) -> Value | None:
        """Operand number `number`, or None when it is absent."""
        return self.inputs[number] if number < len(self.inputs) else None

    def attribute(self, name: str, default=None):
        """An attribute; strings as str, lists as lists, graphs and tensors as protos."""
        return self.attributes.get(name, default)

    def wants(self, number: int) -> bool:
        """Whether result number `number` is used."""
        return number < len(self.proto.output) and bool(self.proto.output[number])


@dataclass(slots=True)
class Context:
    """Building and asking. `builder.location` already names the ONNX node."""

    builder: KnownBuilder
    importer: object
    scope: dict[str, Value | None]
    folder: object = None
    names: list[str] = field(default_factory=list)

    def array(self, value: Value | None) -> np.ndarray | None:
        """The contents of a value known while importing, else None."""
        return None if value is None else self.builder.arrays.get(value)

    def constant(self, value: Value | None, what: str) -> np.ndarray:
        """The contents of a value that must be known; Unsupported names it otherwise."""
        array = self.array(value)
        if array is None:
            raise Unsupported(f"{what} that is computed at run time")
        return array

    def dims(self, value: Value) -> list[Dim | None] | None:
        """The contents of a small integer tensor as Dims, None for what only the run can tell;
        None if not even the length is known."""
        known = self.builder.contents.get(value)
        if known is not None:
            return list(known.reshape(-1))
        size = value.type.size
        return [None] * size if isinstance(size, int) else None

    def require_dims(self, value: Value, what: str = "a list of sizes") -> tuple[Dim, ...]:
        """As `dims`, with sizes that the run must tell bound to fresh symbols by a read_dims node."""
        known = self.dims(value)
        if known is None:
            raise Unsupported(f"{what} whose length is not known while importing")
        if all(d is not None for d in known):
            return tuple(known)
        fresh = [self.builder.fresh_symbol("u") for _ in known]
        flat = value if value.rank <= 1 else self.builder.reshape(value, shape=(len(known),))
        self.builder.read_dims(flat, defines=tuple(map(str, fresh)))
        return tuple(f if k is None else k for k, f in zip(known, fresh, strict=True))

    def shape_tensor(self, dims: Sequence[Dim]) -> Value:
        """An i64 tensor of sizes."""
        if all(isinstance(d, int) for d in dims):
            return self.builder.constant(np.array(dims, np.int64))
        return self.builder.dims(values=tuple(dims), shape=(len(dims),))

    def size(self, dim: Dim, dtype: DType = i64) -> Value:
        """One size as a scalar of a dtype."""
        if isinstance(dim, int):
            return self.builder.scalar(dim, dtype)
        value = self.builder.dims(values=(dim,), shape=())
        return value if dtype == i64 else self.builder.cast(value, dtype=dtype)

    def tensor(self, proto: onnx.TensorProto) -> np.ndarray:
        return to_array(proto, self.folder)

    def dtype(self, number: int) -> DType:
        """The DType of an ONNX data type number."""
        return dtype_of(number, "attribute")

    def unsupported(self, what: str):
        """Refuse the node, in words that complete "does not support ..."."""
        raise Unsupported(what)

    def axis(self, axis: int, rank: int) -> int:
        """A possibly negative axis in 0..rank-1; GraphError for one that the tensor has not."""
        if not -rank <= axis < max(rank, 1):
            raise GraphError(f"axis {axis} of a tensor of rank {rank} ({self.builder.location})")
        return axis + rank if axis < 0 else axis

    def region(self, graph: onnx.GraphProto, inputs: Sequence[tuple[str, TensorType]] = ()):
        """A subgraph as a region Graph with inputs of these types."""
        return self.importer.region(self, graph, inputs)

    def inline(self, graph: onnx.GraphProto, given: Mapping[str, Value] | None = None) -> tuple[Value, ...]:
        """A subgraph's nodes written here, with values for its inputs; its results."""
        return self.importer.inline(self, graph, given or {})

    def inside(self, builder: KnownBuilder) -> Context:
        """This context with what it knows by name, writing into another builder."""
        return Context(builder, self.importer, dict(self.scope), self.folder)

    def fresh_name(self) -> str:
        return str(self.builder.fresh_symbol("u"))


def attributes_of(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes as Python values."""
    return {a.name: attribute_value(a) for a in node.attribute if not a.ref_attr_name}


def attribute_value(attribute: onnx.AttributeProto):
    kind = onnx.AttributeProto
    match attribute.type:
        case kind.FLOAT:
            return attribute.f
        case kind.INT:
            return attribute.i
        case kind.STRING:
            return attribute.s.decode("utf-8", "replace")
        case kind.FLOATS:
            return list(attribute.floats)
        case kind.INTS:
            return list(attribute.ints)
        case kind.STRINGS:
            return [s.decode("utf-8", "replace") for s in attribute.strings]
        case kind.TENSOR:
            return attribute.t
        case kind.GRAPH:
            return attribute.g
        case kind.SPARSE_TENSOR:
            return attribute.sparse_tensor
        case kind.TENSORS:
            return list(attribute.tensors)
        case kind.TYPE_PROTO:
            return attribute.tp
    return None
