"""Random ONNX graphs, grown node by node: onnxruntime says at once what each node gives.

A draft holds the arrays of all its values, so that rules can ask for what an operator needs (an index inside
an axis, a divisor that is not zero), and knows how exact they can be compared.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

FLOATS = ("float32", "float64", "float16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
ALL = (*FLOATS, *INTEGERS, "bool")
LARGEST = 1e4  # magnitude of values that a graph goes on from
ELEMENTS = 4096
TOLERANCES = {"float32": 2e-5, "float64": 1e-11, "float16": 1.5e-2}  # of a few nodes in a row


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the graph. exact: no rounding went into it, so that comparisons and roundings of it have
    one result. magnitude: the largest number that it, or what it is made of, holds. tolerance: rounding
    errors relative to that. A value of sizes or places keeps its own sizes unnamed (`fixed`)."""

    name: str
    array: np.ndarray
    exact: bool = True
    magnitude: float = 0.0
    constant: bool = False
    tolerance: float = 0.0
    fixed: bool = False

    @property
    def dtype(self) -> str:
        return self.array.dtype.name

    @property
    def rank(self) -> int:
        return self.array.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


class Refused(Exception):
    """The node cannot be: its rule found no operands, or onnxruntime has no kernel for them."""


@dataclass
class Draft:
    """A graph while it grows. `random` makes every choice."""

    random: random.Random
    opset: int
    values: list[Value] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    # Choices ---------------------------------------------------------------------------------------

    def one_of(self, *choices):
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def size(self, most: int = 6) -> int:
        """A length of an axis: often 1, now and then 0."""
        return self.random.choices((0, 1, self.random.randint(2, max(2, most))), (0.04, 0.2, 0.76))[0]

    def shape(self, rank: int | None = None, most: int = 6) -> tuple[int, ...]:
        rank = self.random.choices((0, 1, 2, 3, 4), (1, 3, 5, 5, 3))[0] if rank is None else rank
        return tuple(self.size(most) for _ in range(rank))

    def numbers(self, dtype: str, shape, low: float = -3, high: float = 3) -> np.ndarray:
        rng = np.random.default_rng(self.random.getrandbits(32))
        if dtype == "bool":
            return rng.random(shape) < 0.5
        if dtype in INTEGERS:
            low = max(int(low), 0) if dtype.startswith("u") else int(low)
            return rng.integers(low, max(int(high), low) + 1, shape).astype(dtype)
        array = np.asarray(rng.uniform(low, high, shape)).astype(dtype)
        if self.chance(0.1) and array.size:
            array.reshape(-1)[rng.integers(array.size)] = self.one_of(0.0, -0.0, 1.0, -1.0, 0.5, 2.5)
        return array

    # Values ----------------------------------------------------------------------------------------

    def given(self, array: np.ndarray, constant: bool | None = None, fixed: bool = False) -> Value:
        """A new input of the graph, or an initializer."""
        array = np.asarray(array)
        constant = self.chance(0.3) if constant is None else constant
        name = f"{'w' if constant else 'x'}{len(self.values)}"
        magnitude = 0.0 if array.dtype == bool else float(np.abs(array.astype("f8")).max(initial=0))
        value = Value(name, array, True, magnitude, constant, fixed=fixed)
        self.values.append(value)
        if constant:
            self.tensors.append(numpy_helper.from_array(array, name))
        else:
            self.inputs.append(value)
        return value

    def operand(
        self, dtypes=ALL, rank=None, exact: bool = False, least_rank: int = 0, bound=LARGEST
    ) -> Value:
        """A value that is there already, or a new one."""
        ranks = None if rank is None else (rank,) if isinstance(rank, int) else tuple(rank)

        def fits(v: Value) -> bool:
            return (
                v.dtype in dtypes
                and (ranks is None or v.rank in ranks)
                and v.rank >= least_rank
                and (v.exact or not exact)
                and v.magnitude <= bound
            )

        found = [v for v in self.values if fits(v) and not v.constant]
        if found and self.chance(0.8):
            return self.random.choice(found[-4:])
        picked = self.random.choice(dtypes if self.chance(0.5) or "float32" not in dtypes else ("float32",))
        wanted = self.random.choice(ranks) if ranks else None
        shape = self.shape(wanted)
        while len(shape) < least_rank:
            shape = (*shape, self.size())
        return self.given(self.numbers(picked, shape, -min(3, bound), min(3, bound)))

    def like(self, value: Value, shape=None, low: float = -3, high: float = 3) -> Value:
        """A value of the same dtype: one that is there, or new."""
        shape = value.shape if shape is None else shape
        found = [v for v in self.values if v.dtype == value.dtype and v.shape == tuple(shape)]
        if found and self.chance(0.4):
            return self.random.choice(found)
        return self.given(self.numbers(value.dtype, shape, low, high))

    def broadcast_partner(self, value: Value) -> Value:
        """A value whose shape broadcasts with another's."""
        shape = [1 if self.chance(0.25) else d for d in value.shape]
        shape = shape[self.random.randint(0, len(shape)) :] if self.chance(0.3) else shape
        if self.chance(0.1):
            shape = [self.random.randint(1, 3), *([1] * (value.rank - len(shape))), *shape]
        return self.like(value, tuple(shape))

    def integers(self, numbers, dtype: str = "int64") -> Value:
        """Sizes, axes or indexes, as an operand: usually constant."""
        return self.given(np.asarray(numbers, dtype), self.chance(0.7), fixed=True)

    def axis(self, value: Value) -> int:
        if not value.rank:
            raise Refused("no axis")
        axis = self.random.randrange(value.rank)
        return axis - value.rank if self.chance(0.4) else axis

    # Nodes -----------------------------------------------------------------------------------------

    def add(
        self, op: str, operands, results: int = 1, exact: bool | None = None, **attributes
    ) -> list[Value]:
        """A node on operands (None: left out), evaluated by onnxruntime. exact: whether it rounds nothing;
        by default integers do not."""
        while operands and operands[-1] is None:
            operands = operands[:-1]
        names = [f"v{len(self.values) + i}" for i in range(results)]
        node = helper.make_node(op, ["" if v is None else v.name for v in operands], names, **attributes)
        given = [v for v in operands if v is not None]
        arrays = evaluate(node, given, self.opset)
        magnitude = max((v.magnitude for v in given), default=0.0)
        for name, array in zip(names, arrays, strict=True):
            if array.size > ELEMENTS:
                raise Refused("large")
            kept = all(v.exact for v in given)
            sure = array.dtype.kind not in "fV" if exact is None else exact
            own = 0.0
            if array.dtype.kind == "f" and array.size:
                if not np.isfinite(array).all() and not (kept and sure):
                    raise Refused("not finite")
                own = float(np.abs(np.nan_to_num(array.astype("f8"), posinf=0, neginf=0)).max())
            elif array.dtype.kind in "iu" and array.size:
                own = float(np.abs(array.astype("f8")).max())
            largest = own if kept and sure else max(own, magnitude)
            error = max([v.tolerance for v in given], default=0.0)
            error = error if sure else max(error, TOLERANCES.get(array.dtype.name, 0.0))
            self.values.append(Value(name, array, kept and sure, largest, False, error))
        self.nodes.append(node)
        self.read |= {v.name for v in given}
        return self.values[-results:]

    # The model -------------------------------------------------------------------------------------

    def model(self, everything: bool = False) -> onnx.ModelProto:
        """The graph so far; its results are the values that no node reads, or all."""
        made = [v for v in self.values if any(v.name in n.output for n in self.nodes)]
        results = [v for v in made if everything or v.name not in self.read]
        used = {name for node in self.nodes for name in node.input}
        ports = []
        for v in self.inputs:
            if v.name in used:
                ports.append(port(v, [self.extent(v, axis) for axis in range(v.rank)]))
        graph = helper.make_graph(
            self.nodes,
            "g",
            ports,
            [port(v, [None] * v.rank) for v in results],
            [t for t in self.tensors if t.name in used],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def extent(self, value: Value, axis: int) -> int | str:
        """A declared size: sometimes a name, the same for all axes of that size."""
        size = value.shape[axis]
        return (
            f"d{size}"
            if size > 1 and not value.fixed and zlib.crc32(f"{value.name}.{axis}".encode()) % 3 == 0
            else size
        )

    def feed(self, model: onnx.ModelProto) -> dict[str, np.ndarray]:
        names = {p.name for p in model.graph.input}
        return {v.name: v.array for v in self.inputs if v.name in names}


def port(value: Value, shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        value.name, helper.np_dtype_to_tensor_dtype(value.array.dtype), shape
    )


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def evaluate(node: onnx.NodeProto, operands: list[Value], opset: int) -> list[np.ndarray]:
    """What onnxruntime gives for one node; Refused where it cannot."""
    unique = {v.name: v for v in operands}.values()
    graph = helper.make_graph(
        [node],
        "one",
        [port(v, v.shape) for v in unique if not v.constant],
        [onnx.ValueInfoProto(name=n) for n in node.output],
        [numpy_helper.from_array(v.array, v.name) for v in unique if v.constant],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        session = session_of(model)
        feed = {v.name: v.array for v in unique if not v.constant}
        return [np.asarray(a) for a in session.run(None, feed)]
    except Exception as error:  # onnxruntime has classes of its own for each way to refuse
        raise Refused(str(error)) from None
