"""Operators from outside this package: rows of the op table made from plain functions, checked as they run."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import numpy as np

from tallow.dim import Dim, Expr
from tallow.dtype import DType, dtype
from tallow.errors import CompileError, GraphError, InputError, PluginError, TallowError, VerifyError
from tallow.graph import Node, TensorType, Type
from tallow.kernel.grammar import Buffer, Kernel, SourceKernel, Var
from tallow.kernel.verify import verify
from tallow.lower.group import Declined, Group, KernelCall, Lowering
from tallow.ops import table
from tallow.ops.pointwise import operand_index
from tallow.registered import OPERATORS

Write = Callable[[Node, object], "KernelCall | Sequence[KernelCall] | Declined"]
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def register_op(name: str, infer: Callable, evaluate: Callable, **how) -> table.Op:
    """Add an operator to this process; see `custom_op` for the arguments. A plugin package calls
    `register(custom_op(...))` in its hook `register_ops` instead.

    PluginError when the name is taken by another definition, or the arguments do not fit together.
    """
    row = table.register(custom_op(name, infer, evaluate, **how))
    OPERATORS[name] = row.definition
    return row


def unregister_op(name: str) -> None:
    """Take an operator of `register_op` away again, for one that is defined anew; PluginError for others."""
    row = table.OPS.get(name)
    if row is None or OPERATORS.get(name) != row.definition:
        raise PluginError(f"operator {name!r} was not added by register_op")
    del table.OPS[name], OPERATORS[name]


def custom_op(
    name: str,
    infer: Callable[[Sequence[Type], Mapping], Type | Sequence[Type]],
    evaluate: Callable[[Sequence[np.ndarray], Mapping], np.ndarray | Sequence[np.ndarray]],
    *,
    index: table.IndexRule | None = None,
    pointwise: bool = False,
    decompose: table.Decompose | None = None,
    kernel: Write | Mapping[str, Write] | None = None,
    source: Mapping[str, str | Callable[[Node], str]] | None = None,
    grid: Callable[[Node], Dim] | None = None,
    arity: int | tuple[int, int | None] = 1,
    version: str = "",
) -> table.Op:
    """The row of an operator called `domain.name`, which is what ONNX nodes of that domain and type become.

    infer: result types from operand types and attributes (its type rule). evaluate: its numpy meaning.
    What makes a kernel of it, the first that is there: `source`, backend's name -> what one iteration of the
    grid does, in that backend's language; `kernel`, a function (node, target) -> KernelCall, for all backends
    or by backend's name; `index`, element `index` of the result as a kernel expression (see `Op`), which
    fuses with its neighbours; `decompose`, the same in other operators, given a Builder. With none of them
    for a device the numpy meaning runs as a host step, and the plan says so.

    pointwise: element i needs element i of every operand, with numpy's broadcasting; `index` is then called
    with places in the result, and the operator joins products and reductions too.
    In source, operands are x0, x1, ..., results y0, ..., `item` the iteration and x0_1 the extent of axis 1
    of x0; `grid` gives the number of iterations, by default the elements of the first result.
    version: change it when the meaning changes by anything but the functions themselves and their module.
    """
    if not _NAME.fullmatch(name):
        raise PluginError(
            f"operator {name!r}: expected a domain and a name with a dot between, such as mine.swish"
        )
    if pointwise and index is None:
        raise PluginError(f"operator {name!r}: pointwise says how its index rule is read: give index too")
    kernels = dict(kernel) if isinstance(kernel, Mapping) else {"": kernel} if kernel else {}
    twice = kernels.keys() & (source or {}).keys()
    if twice:
        raise PluginError(
            f"operator {name!r}: it has a kernel and source for {', '.join(sorted(twice))}: give one"
        )
    lowerings = {backend: _by_kernel(name, write) for backend, write in kernels.items()}
    lowerings |= {backend: _by_source(text, grid) for backend, text in (source or {}).items()}
    parts = [version, arity, pointwise, infer, evaluate, index, decompose, kernels, dict(source or {}), grid]
    return table.Op(
        name,
        "pointwise" if pointwise else "gather" if index else "composite" if decompose else "host",
        functools.partial(_infer, name, infer),
        functools.partial(_evaluate, name, infer, evaluate),
        _broadcast(index) if pointwise else index,
        decompose,
        (arity, arity) if isinstance(arity, int) else arity,
        lowerings,
        digest(name, parts),
    )


# What its functions give, checked -----------------------------------------------------------------------


def _infer(name: str, rule: Callable, types: Sequence[Type], attributes: Mapping) -> tuple[Type, ...]:
    try:
        found = rule(types, attributes)
    except TallowError:
        raise
    except Exception as error:
        listed = ", ".join(map(str, types))
        raise GraphError(
            f"{name}: its type rule fails on {listed}: {type(error).__name__}: {error}"
        ) from error
    results = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    if not results or not all(isinstance(t, Type) for t in results):
        raise GraphError(f"{name}: expected a type or several from its type rule, got {found!r}")
    return results


def _evaluate(name: str, rule: Callable, meaning: Callable, arrays: Sequence, attributes: Mapping) -> tuple:
    try:
        found = meaning(arrays, attributes)
    except TallowError:
        raise
    except Exception as error:
        shapes = ", ".join(str(np.shape(a)) for a in arrays)
        words = f"{name} failed on operands of shape {shapes}: {type(error).__name__}: {error}"
        raise InputError(words) from error
    results = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    if not all(isinstance(a, np.ndarray) for a in arrays):
        return results
    wanted = _infer(name, rule, [TensorType(dtype(a.dtype), a.shape) for a in arrays], attributes)
    results = tuple(np.asarray(r) for r in results)
    if len(results) != len(wanted) or not all(map(_fits, results, wanted)):
        got = ", ".join(f"{r.dtype}{list(r.shape)}" for r in results)
        raise VerifyError(
            f"{name}: its type rule says {', '.join(map(str, wanted))}, its numpy meaning gave {got}"
        )
    return results


def _fits(array: np.ndarray, type_: Type) -> bool:
    """Whether an array is of a type; sizes that only the run can tell are any."""
    if not isinstance(type_, TensorType):
        return True
    if array.dtype != type_.dtype.numpy or array.ndim != type_.rank:
        return False
    return all(d == size or not isinstance(d, int) for d, size in zip(type_.shape, array.shape, strict=True))


# Kernels ------------------------------------------------------------------------------------------------


def _broadcast(rule: table.IndexRule) -> table.IndexRule:
    """An index rule whose reads are at places of the result."""

    def index(node: Node, at, read):
        def operand(number: int, place, guard=None):
            shape = node.inputs[number].shape
            return read(number, operand_index(shape, node.output.shape, tuple(place)), guard)

        return rule(node, at, operand)

    return index


def _by_kernel(name: str, write: Write) -> Lowering:
    """A lowering that asks the operator's own function for kernels."""

    def lower(group: Group, target) -> Sequence[KernelCall] | Declined:
        if any(node.op != "constant" for node in group.nodes if node is not group.root):
            return Declined(f"{name} stands alone")
        found = write(group.root, target)
        if isinstance(found, Declined):
            return found
        calls = [found] if isinstance(found, KernelCall) else list(found)
        for call in calls:
            _verify_call(name, call)
        return calls

    return lower


def _verify_call(name: str, call: KernelCall) -> None:
    if not isinstance(call, KernelCall):
        raise CompileError(f"{name}: expected KernelCalls from its kernel, got {type(call).__name__}")
    wanted = (len(call.kernel.parameters), len(call.kernel.sizes))
    if wanted != (len(call.arguments), len(call.sizes)):
        raise CompileError(
            f"{name}: its kernel {call.kernel.name} takes {wanted[0]} buffers and {wanted[1]} sizes, "
            f"the call gives {len(call.arguments)} and {len(call.sizes)}"
        )
    if isinstance(call.kernel, Kernel):
        verify(call.kernel)


def _by_source(text: str | Callable[[Node], str], grid: Callable[[Node], Dim] | None) -> Lowering:
    def lower(group: Group, target) -> Sequence[KernelCall] | Declined:
        node = group.root
        if any(other.op != "constant" for other in group.nodes if other is not node):
            return Declined(f"{node.op} stands alone")
        written = text if isinstance(text, str) else text(node)
        operands = {f"x{n}": v for n, v in enumerate(node.inputs)}
        results = {f"y{n}": v for n, v in enumerate(node.outputs)}
        buffers = [Buffer(n, v.dtype) for n, v in operands.items()]
        buffers += [Buffer(n, v.dtype, writable=True) for n, v in results.items()]
        count = grid(node) if grid else node.outputs[0].type.size
        sizes = {"grid": count}
        for name, value in (operands | results).items():
            extents = {f"{name}_{axis}": dim for axis, dim in enumerate(value.shape)}
            sizes |= {n: d for n, d in extents.items() if re.search(rf"\b{n}\b", written)}
        kernel = SourceKernel(re.sub(r"\W", "_", node.op), tuple(buffers), tuple(map(Var, sizes)), written)
        return [KernelCall(kernel, (*node.inputs, *node.outputs), tuple(sizes.values()), count)]

    return lower


# Definitions --------------------------------------------------------------------------------------------


def digest(name: str, parts: Sequence[object]) -> str:
    """What identifies a definition: texts, numbers, and functions by their code and their module's file."""
    try:
        described = [_described(name, part) for part in parts]
    except (RecursionError, ValueError):  # a closure that holds itself, or a name that is not bound yet
        raise PluginError(
            f"operator {name!r}: its functions refer to themselves or to what is not defined yet: define them first"
        ) from None
    return hashlib.sha256(repr(described).encode()).hexdigest()


def _described(name: str, part: object):
    match part:
        case None | bool() | int() | float() | str() | bytes():
            return part
        case frozenset():
            return sorted(map(repr, part))
        case tuple() | list():
            return [_described(name, p) for p in part]
        case Mapping():
            return [(key, _described(name, part[key])) for key in sorted(part)]
        case CodeType():
            return part.co_code, part.co_names, [_described(name, constant) for constant in part.co_consts]
        case FunctionType():
            cells = [_described(name, cell.cell_contents) for cell in part.__closure__ or ()]
            bound = [_described(name, p) for p in (part.__defaults__, part.__kwdefaults__ or {})]
            return part.__qualname__, _described(name, part.__code__), cells, bound, _file(part.__module__)
        case functools.partial():
            return [_described(name, p) for p in (part.func, part.args, part.keywords)]
        case ModuleType():
            return part.__name__, _file(part.__name__)
        case np.ndarray():
            return (
                str(part.dtype),
                part.shape,
                hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest(),
            )
    return repr(part) if isinstance(part, (type, np.generic, DType, Expr)) else _named(name, part)


def _named(name: str, part: object) -> tuple[str, str | None]:
    """A function or object that is found by its name in a module."""
    where, what = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if where is None or what is None:
        raise PluginError(
            f"operator {name!r}: cannot tell what a {type(part).__name__} means: use plain functions of plain values"
        )
    return f"{where}.{what}", _file(where)


def _file(module: str) -> str | None:
    """A digest of a module's source; None where it has none, as in a notebook."""
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None
    except OSError:
        return None
