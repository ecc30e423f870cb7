"""KnownBuilder: a Builder that remembers what it can tell of small values while the graph is written.

Shape arithmetic in ONNX is done by ordinary operators on ordinary tensors. Here such tensors are
followed symbolically, so that `Shape -> Gather -> Concat -> Reshape` ends as a Reshape to known sizes
and the chain before it dies unused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tallow.builder import Builder
from tallow.dim import Dim, bounds, floordiv, maximum, minimum, mod
from tallow.errors import TallowError
from tallow.graph import Graph, Node, TensorType, Value
from tallow.ops import OPS

SMALL = 512  # elements of tensors whose contents are followed
_SIZES = {"random_uniform", "random_normal", "bernoulli", "multinomial"}


def _equal(a: Dim, b: Dim) -> bool | None:
    if a == b:
        return True
    low, high = bounds(a - b)
    return False if (low is not None and low > 0) or (high is not None and high < 0) else None


def _less(a: Dim, b: Dim) -> bool | None:
    low, high = bounds(a - b)
    if high is not None and high < 0:
        return True
    return False if low is not None and low >= 0 else None


def _div(a: Dim, b: Dim) -> Dim | None:
    low, _ = bounds(a)
    return floordiv(a, b) if b != 0 and low is not None and low >= 0 and (bounds(b)[0] or 0) > 0 else None


def _mod(a: Dim, b: Dim) -> Dim | None:
    """A size that may be 0 leaves 0, as dividing integers by 0 does."""
    if b == 0 or mod(a, b) == 0:
        return None if b == 0 else 0
    low, _ = bounds(b)
    return mod(a, maximum(b, 1) if low is not None and low >= 0 else b)


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


_SYMBOLIC: dict[str, Callable] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: a * -1,
    "div": _div,
    "mod": _mod,
    "max": maximum,
    "min": minimum,
    "eq": _equal,
    "ne": lambda a, b: _not(_equal(a, b)),
    "lt": _less,
    "gt": lambda a, b: _less(b, a),
    "ge": lambda a, b: _not(_less(a, b)),
    "le": lambda a, b: _not(_less(b, a)),
    "not": _not,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "select": lambda c, a, b: a if c else b,
    "abs": lambda a: a if (bounds(a)[0] or 0) >= 0 else None,
    "sign": lambda a: 1 if (bounds(a)[0] or 0) > 0 else None,
}
_FILLED = {"sequence", "optional", "sequence_insert", "sequence_erase"}
_MOVES = {"reshape", "transpose", "broadcast", "slice", "concat", "gather"}


def _lift(function: Callable) -> Callable:
    """Unknown in, unknown out; elementwise with broadcasting."""

    def lifted(*operands):
        return None if any(o is None for o in operands) else function(*operands)

    return lifted


class KnownBuilder(Builder):
    """`contents[value]`: an object array of Dims (None: unknown) of a small integer or bool tensor;
    `arrays[value]`: the array of a constant, or of what follows from small constants;
    `elements[value]`: the elements of a sequence or optional that the importer saw filled."""

    def __init__(self, name: str = "main", parent: KnownBuilder | None = None):
        super().__init__(name, parent)
        self.contents: dict[Value, np.ndarray] = dict(parent.contents) if parent else {}
        self.arrays: dict[Value, np.ndarray] = dict(parent.arrays) if parent else {}
        self.elements: dict[Value, tuple[Value, ...]] = dict(parent.elements) if parent else {}

    def emit(self, name_of_op: str, *operands, **attributes):
        result = super().emit(name_of_op, *operands, **attributes)
        self._learn(self.nodes[-1])
        return result

    def _learn(self, node: Node) -> None:
        if node.op == "constant":
            value = node["value"]
            self.arrays[node.output] = value
            if value.size <= SMALL and value.dtype.kind in "iub" and node.output.dtype.bits >= 8:
                self.contents[node.output] = np.array(value.tolist(), object).reshape(value.shape)
            return
        if node.op == "dims":
            self.contents[node.output] = _object(list(node["values"]), node["shape"])
            if all(isinstance(v, int) for v in node["values"]):
                self.arrays[node.output] = np.array(node["values"], np.int64).reshape(node["shape"])
            return
        if node.op in _FILLED:
            self._learn_elements(node)
        if len(node.outputs) != 1 or not isinstance(node.output.type, TensorType) or node.op in _SIZES:
            return
        size = node.output.type.size
        if not isinstance(size, int) or size > SMALL:
            return
        self._learn_array(node)
        if node.output in self.arrays:
            array = self.arrays[node.output]
            if array.dtype.kind in "iub":
                self.contents[node.output] = np.array(array.tolist(), object).reshape(array.shape)
        else:
            self._learn_contents(node)
            self._settle(node.output)

    def _learn_elements(self, node: Node) -> None:
        """Follow a sequence whose length and order the importer knows."""
        if node.op in ("sequence", "optional"):
            self.elements[node.output] = node.inputs
            return
        have = self.elements.get(node.inputs[0])
        insert = node.op == "sequence_insert"
        place = self.arrays.get(node.inputs[-1]) if len(node.inputs) == 2 + insert else None
        if have is None or (place is None and len(node.inputs) == 2 + insert):
            return
        length = len(have)
        at = (length if insert else length - 1) if place is None else int(place.reshape(()))
        at = at + length if at < 0 else at
        if 0 <= at < length + insert:
            middle = node.inputs[1:2] if insert else ()
            self.elements[node.output] = (*have[:at], *middle, *have[at + (not insert) :])

    def _learn_array(self, node: Node) -> None:
        """Evaluate a node whose operands are all small constants."""
        inputs = [self.arrays.get(v) for v in node.inputs]
        if any(a is None or a.size > SMALL for a in inputs) or node.regions or not node.output.type.is_static:
            return
        row = OPS[node.op]
        if row.evaluate is None or (not inputs and node.op != "iota") or _has_dims(node):
            return
        try:
            (result,) = row.evaluate(inputs, node.attributes)
        except TallowError:
            return  # the same error comes again, with its place, when the model runs
        self.arrays[node.output] = np.asarray(result)

    def _learn_contents(self, node: Node) -> None:
        known = [self.contents.get(v) for v in node.inputs]
        if not known or any(k is None for k in known):
            return
        kind = node.output.dtype.kind
        if kind not in ("int", "uint", "bool"):
            return
        if node.op == "cast":
            self.contents[node.output] = known[0]
        elif node.op in _SYMBOLIC:
            function = np.frompyfunc(_lift(_SYMBOLIC[node.op]), len(known), 1)
            self.contents[node.output] = _as_object(function(*known))
        elif node.op in _MOVES and not _has_dims(node):
            arrays = known
            if node.op == "gather":
                if any(not isinstance(i, int) for i in known[1].reshape(-1)):
                    return
                arrays = [known[0], known[1].astype(np.int64)]
            self.contents[node.output] = _as_object(OPS[node.op].evaluate(arrays, node.attributes)[0])
        elif node.op == "reduce" and node["function"] in ("add", "mul"):
            function = np.frompyfunc(_lift(_SYMBOLIC[node["function"]]), 2, 1)
            total = known[0]
            for axis in sorted(node["axes"], reverse=True):
                total = function.reduce(total, axis=axis) if total.shape[axis] else None
                if total is None:
                    return
            self.contents[node.output] = _as_object(total).reshape(node.output.shape)

    def _settle(self, value: Value) -> None:
        """Contents that turned out to be plain numbers are an array."""
        contents = self.contents.get(value)
        if contents is None or not all(isinstance(d, int) for d in contents.reshape(-1)):
            return
        array = np.array(contents.tolist(), object).astype(value.dtype.numpy, casting="unsafe")
        if np.array_equal(array, contents):
            self.arrays[value] = array.reshape(contents.shape)

    def region(self, name: str) -> KnownBuilder:
        """A builder for a region, which knows what this one knows."""
        return KnownBuilder(name, self)

    def splice(self, graph: Graph) -> None:
        """Append the nodes of a region to this graph."""
        for node in graph.nodes:
            self.append(node)


def _object(values: list, shape) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _as_object(value) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value
    array = np.empty((), object)
    array[()] = value
    return array


def _has_dims(node: Node) -> bool:
    """Whether an attribute is not a plain value yet."""

    def symbolic(attribute) -> bool:
        if isinstance(attribute, tuple):
            return any(map(symbolic, attribute))
        return hasattr(attribute, "terms")

    return any(symbolic(a) for a in node.attributes.values())
