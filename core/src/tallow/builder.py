"""Builder: writes a Graph node by node, checking and typing each as it goes.

`builder.add(x, 1.0)` appends the op of that name. Python numbers become constants of the dtype of
the first tensor operand. Used by importers, decompositions, passes and people.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tallow.dim import Dim, symbol
from tallow.dtype import DType, dtype
from tallow.errors import GraphError
from tallow.graph import NOWHERE, Graph, Location, Node, TensorType, Value
from tallow.ops import OPS, op


class Builder:
    """Collects nodes. `location` is stamped on each node until it is changed."""

    def __init__(self, name: str = "main", parent: Builder | None = None):
        self.name = name
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.location: Location = parent.location if parent else NOWHERE
        self._names: set[str] = parent._names if parent else set()
        self._sizes: set[str] = parent._sizes if parent else set()
        self._counter = parent._counter if parent else itertools.count()
        self._scalars: dict[tuple, Value] = {}
        self.replaced: dict[Value, Value] = {}  # operands that a rewrite has replaced by others

    def unique(self, hint: str) -> str:
        """`hint` or, if it is taken, hint with a number."""
        name = hint
        while name in self._names:
            name = f"{hint}.{next(self._counter)}"
        self._names.add(name)
        return name

    def fresh_symbol(self, hint: str = "u", lower: int = 0, upper: int | None = None) -> Dim:
        """A size symbol with a name that no other has; name it in the `defines` of the node that binds it."""
        return symbol(self.size_name(self.unique(f"{hint}{next(self._counter)}")), lower, upper)

    def size_name(self, hint: str) -> str:
        """`hint` or, if a size has that name, hint with a number; a value may have the same name."""
        name = hint
        while name in self._sizes:
            name = f"{hint}.{next(self._counter)}"
        self._sizes.add(name)
        return name

    def input(self, name: str, dtype_: DType | str, shape: Sequence[Dim | str]) -> Value:
        """A graph input; a string in `shape`, here and in operators, is a size symbol of that name."""
        value = Value(self.unique(name), TensorType(dtype(dtype_), _dims(shape)))
        self.inputs.append(value)
        return value

    def constant(self, array, name: str = "const", dtype_: DType | str | None = None) -> Value:
        """A constant; the array is not copied and must not change."""
        data = np.asarray(array)
        data = data if dtype_ is None else data.astype(dtype(dtype_).numpy)
        return self.emit("constant", name=name, value=data)

    def scalar(self, number, dtype_: DType | str) -> Value:
        """A rank-0 constant, made once for each value and dtype."""
        key = (repr(number), dtype(dtype_))
        if key not in self._scalars:
            self._scalars[key] = self.constant(np.asarray(number, dtype(dtype_).numpy))
        return self._scalars[key]

    def emit(
        self, name_of_op: str, *operands, name: str | None = None, names: Sequence[str] = (), **attributes
    ):
        """Append a node; returns its value, or a tuple of values when the op has several results."""
        row = op(name_of_op)
        typed = operands[1:] if name_of_op == "select" else operands
        like = next((o.dtype for o in typed if isinstance(o, Value) and isinstance(o.type, TensorType)), None)
        inputs = tuple(self._operand(o, like, name_of_op) for o in operands)
        if "shape" in attributes:
            attributes["shape"] = _dims(attributes["shape"])
        low, high = row.arity
        if len(inputs) < low or (high is not None and len(inputs) > high):
            wanted = str(low) if low == high else f"{low} to {'any number' if high is None else high}"
            raise GraphError(f"{name_of_op} takes {wanted} operands, got {len(inputs)} ({self.location})")
        try:
            types = row.infer([value.type for value in inputs], attributes)
        except GraphError as error:
            raise (
                GraphError(f"{error} ({self.location})") if str(self.location) not in str(error) else error
            ) from None
        except KeyError as missing:
            given = ", ".join(sorted(attributes)) or "none"
            raise GraphError(
                f"{name_of_op}: expected the attribute {missing}, got {given} ({self.location})"
            ) from None
        hints = list(names) if names else [name or name_of_op] * len(types)
        outputs = tuple(Value(self.unique(hint), type_) for hint, type_ in zip(hints, types, strict=True))
        self.nodes.append(Node(name_of_op, inputs, outputs, attributes, self.location))
        return outputs[0] if len(outputs) == 1 else outputs

    def _operand(self, operand, like: DType | None, name_of_op: str) -> Value:
        if isinstance(operand, Value):
            while operand in self.replaced:
                operand = self.replaced[operand]
            return operand
        if isinstance(operand, (int, float, bool, np.generic)) and like is not None:
            return self.scalar(operand, like)
        if isinstance(operand, np.ndarray):
            return self.constant(operand)
        raise GraphError(f"{name_of_op}: expected a Value, array or number, got {type(operand).__name__}")

    def append(self, node: Node) -> None:
        """Add a node that is already made (a pass keeps it as it is)."""
        self.nodes.append(node)
        self._names.update(value.name for value in node.outputs)

    def __getattr__(self, name: str):
        row = name.rstrip("_")  # builder.and_(x, y), builder.not_(x)
        if row not in OPS:
            raise AttributeError(f"Builder has no operator {name!r}")
        return lambda *operands, **attributes: self.emit(row, *operands, **attributes)

    def finish(
        self, outputs: Sequence[Value] | Mapping[str, Value], metadata: Mapping[str, str] | None = None
    ) -> Graph:
        """The graph of everything appended, with these results."""
        names = tuple(outputs) if isinstance(outputs, Mapping) else ()
        values = tuple(outputs.values()) if isinstance(outputs, Mapping) else tuple(outputs)
        return Graph(self.name, tuple(self.inputs), values, tuple(self.nodes), names, dict(metadata or {}))


def _dims(shape: Sequence[Dim | str]) -> tuple[Dim, ...]:
    return tuple(symbol(dim) if isinstance(dim, str) else dim for dim in shape)
