"""Matrix products of floats as calls of cuBLASLt, with bias, and ReLU if asked for, in its epilogue.

The kernel of a call is the common one for work-groups, which is what it means; the call runs in its place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tallow.dim import Dim, bounds, product
from tallow.graph import Node, Value
from tallow.kernel.grammar import Var
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.workgroup import WORKGROUP
from tallow.lower.workgroup.tile import has_units
from tallow.target import Target

DTYPES = ("f16", "bf16", "f32", "f64")
SMALL = 1 << 20  # products of so few multiplications are launched as kernels, prologue and epilogue fused
SHORT = 256  # products in a sum; an estimate from rates of memory and arithmetic, not measured
SIZES = ("rows", "columns", "depth", "items")  # of a call, after those of its kernel


@dataclass(frozen=True, slots=True)
class _Shape:
    """A product as cuBLASLt takes it: `items` products of rows x depth and depth x columns."""

    rows: Dim
    columns: Dim
    depth: Dim
    items: Dim

    @property
    def sizes(self) -> tuple[Dim, ...]:
        return self.rows, self.columns, self.depth, self.items


def lower_matmul(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """matmul: a call of cuBLASLt where it can, else the common kernel."""
    common = WORKGROUP["matmul"]
    sources = [_source(group, value) for value in group.root.inputs]
    shape = None if None in sources else _shape(*(value.shape for value in group.root.inputs), sources[0][1])
    if shape is None or not _worthwhile(group, shape):
        return common(group, target)
    epilogue = _epilogue(group, "relu" in target.features)
    if epilogue is None and _short(group, shape, target):
        return common(group, target)
    if epilogue is None or (epilogue[0] != "default" and group.root.output.dtype.name == "f64"):
        return Declined("cuBLASLt has no such epilogue")
    calls = common(group, target)
    if isinstance(calls, Declined) or len(calls) != 1:
        return calls
    (call,) = calls
    words, bias = epilogue
    operands = [value for value, _ in sources] + ([bias] if bias is not None else []) + [group.outputs[0]]
    if not set(operands) <= set(call.arguments):
        return calls
    native = {
        "call": "cublasLtMatmul",
        "dtype": group.root.output.dtype.name,
        "tf32": "tf32" in target.features,
        "operands": [call.arguments.index(value) for value in operands],
        "transposed": [turned for _, turned in sources],
        "epilogue": words,
    }
    sizes = tuple(Var(f"product.{name}") for name in SIZES)
    kernel = replace(call.kernel, sizes=(*call.kernel.sizes, *sizes), native=json.dumps(native))
    return [replace(call, kernel=kernel, sizes=(*call.sizes, *shape.sizes))]


def _short(group: Group, shape: _Shape, target: Target) -> bool:
    """Whether sums are so short that another pass over the results, for what follows, takes longer than the
    library saves over a kernel on tensor cores."""
    most = bounds(shape.depth)[1]
    return most is not None and most <= SHORT and has_units(group.root.output.dtype, target)


def _worthwhile(group: Group, shape: _Shape) -> bool:
    dtypes = {v.dtype.name for v in (*group.root.inputs, *group.outputs)}
    most = bounds(product(shape.sizes))[1]
    large = most is None or most >= SMALL
    return len(dtypes) == 1 and dtypes <= set(DTYPES) and large and (bounds(shape.depth)[0] or 0) > 0


def _source(group: Group, value: Value) -> tuple[Value, bool] | None:
    """The materialised value of an operand, and whether its last two axes are swapped on the way; None when
    more is done to it."""
    made = next((n for n in group.prologue if value in n.outputs), None)
    if made is None:
        return value, False
    rank = value.rank
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    if made.op == "transpose" and tuple(made["permutation"]) == swapped and made.inputs[0] in group.inputs:
        return made.inputs[0], True
    return None


def _shape(left: tuple[Dim, ...], right: tuple[Dim, ...], left_turned: bool) -> _Shape | None:
    """None for operands whose items are not all, or not evenly, apart."""
    if len(left) < 2 or len(right) < 2:
        return None
    if len(right) == 2 and not left_turned:
        return _Shape(product(left[:-1]), right[-1], left[-1], 1)
    if left[:-2] == right[:-2]:
        return _Shape(left[-2], right[-1], left[-1], product(left[:-2]))
    return None


def _epilogue(group: Group, relu: bool) -> tuple[str, Value | None] | None:
    """The name of what follows the product and its bias; None for what the library does not have."""
    nodes = [node for node in group.epilogue if node.op != "constant"]
    value, bias, words = group.root.output, None, []
    if nodes and nodes[0].op == "add":
        bias = _bias(group, nodes[0], value)
        if bias is None:
            return None
        value, words = nodes.pop(0).output, ["bias"]
    if nodes and relu and _is_relu(group, nodes[0], value):
        value, words = nodes.pop(0).output, ["relu", *words]
    if nodes or group.outputs != (value,):
        return None
    return "_".join(words) or "default", bias


def _bias(group: Group, node: Node, value: Value) -> Value | None:
    """The operand that is added to each row, if it is one for each column and lies in memory."""
    others = [v for v in node.inputs if v is not value]
    if len(others) != 1 or others[0] not in group.inputs:
        return None
    shape = others[0].shape
    fits = shape and shape[-1] == value.shape[-1] and all(d == 1 for d in shape[:-1])
    return others[0] if fits and len(shape) <= value.rank and others[0].dtype == value.dtype else None


def _is_relu(group: Group, node: Node, value: Value) -> bool:
    """Whether a node is the greater of the value and zero."""
    others = [v for v in node.inputs if v is not value]
    if node.op != "max" or len(others) != 1:
        return False
    made = next((n for n in group.epilogue if others[0] in n.outputs), None)
    return made is not None and made.op == "constant" and made["value"].size == 1 and not made["value"].any()
