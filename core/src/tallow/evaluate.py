"""evaluate: what a Graph means, node by node in numpy; the oracle of every other way to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tallow.dim import Expr, name_of, symbols
from tallow.dim import evaluate as evaluate_dim
from tallow.errors import InputError, TallowError, VerifyError
from tallow.location import Location
from tallow.types import TensorType, Type

if TYPE_CHECKING:
    from tallow.graph import Graph, Node, Value

Trace = Callable[["Node", Sequence[np.ndarray]], None]


def evaluate(
    graph: Graph, inputs: Mapping[str, np.ndarray], trace: Trace | None = None
) -> dict[str, np.ndarray]:
    """The results of a graph by name. `trace` sees every node with its results.

    Raises InputError for inputs that do not fit, VerifyError when a result is not of the type that its
    operator inferred.
    """
    sizes: dict[str, int] = {}
    values: dict[Value, object] = {}
    for value in graph.inputs:
        if value.name not in inputs:
            raise InputError(
                f'input "{value.name}" is missing: expected {", ".join(v.name for v in graph.inputs)}'
            )
        values[value] = inputs[value.name]
    given = [np.asarray(values[v]) if isinstance(v.type, TensorType) else values[v] for v in graph.inputs]
    bind_sizes([v.type for v in graph.inputs], given, sizes, "inputs")
    values.update(zip(graph.inputs, given, strict=True))
    results = _run(graph, values, sizes, trace)
    return dict(zip(graph.output_names, results, strict=True))


def _run(graph: Graph, values: dict, sizes: dict[str, int], trace: Trace | None) -> list:
    for node in graph.nodes:
        arrays = [values[v] for v in node.inputs]
        if node.op == "if":
            branch = node["then"] if bool(np.reshape(arrays[0], ())) else node["otherwise"]
            results = tuple(_run(branch, dict(values), dict(sizes), trace))
        elif node.op == "loop":
            results = _run_loop(node, arrays, values, sizes, trace)
        elif node.op == "on":
            body = node["body"]
            results = tuple(_run(body, dict(zip(body.inputs, arrays, strict=True)), sizes, trace))
        else:
            results = evaluate_node(node.op, node.attributes, arrays, sizes, node.location)
        if node.defines and not node.outputs:
            read_sizes(node.defines, arrays[0], sizes, node.location)
        bind_sizes([v.type for v in node.outputs], results, sizes, f"{node.op}, {node.location}")
        for value, result in zip(node.outputs, results, strict=True):
            if (
                isinstance(value.type, TensorType)
                and value.dtype.kind != "string"
                and result.dtype != value.dtype.numpy
            ):
                raise VerifyError(f"{node.op} gave {result.dtype}, expected {value.type} ({node.location})")
            values[value] = result
        if trace is not None:
            trace(node, results)
    return [values[v] for v in graph.outputs]


def _run_loop(node: Node, arrays, values, sizes, trace) -> tuple:
    trips, keep_going = int(np.reshape(arrays[0], ())), bool(np.reshape(arrays[1], ()))
    carried, body = list(arrays[2:]), node["body"]
    scans: list[list] = [[] for _ in body.outputs[1 + len(carried) :]]
    iteration = 0
    while keep_going and iteration < trips:
        inner, inner_sizes = dict(values), dict(sizes)
        given = [np.asarray(iteration, np.int64), np.asarray(keep_going), *carried]
        bind_sizes([v.type for v in body.inputs], given, inner_sizes, node.location)
        inner.update(zip(body.inputs, given, strict=True))
        keep, *results = _run(body, inner, inner_sizes, trace)
        keep_going = bool(np.reshape(keep, ()))
        carried = results[: len(carried)]
        for scan, element in zip(scans, results[len(carried) :], strict=True):
            scan.append(element)
        iteration += 1
    types = [v.type for v in node.outputs[len(carried) :]]
    return (*carried, *(stack_scan(s, t, sizes) for s, t in zip(scans, types, strict=True)))


def stack_scan(elements: Sequence[np.ndarray], type_: TensorType, sizes: Mapping[str, int]) -> np.ndarray:
    """The results of all iterations in one array; of none, an empty one."""
    if elements:
        return np.stack(elements)
    shape = [evaluate_dim(d, {**dict.fromkeys(symbols(d), 0), **sizes}) for d in type_.shape]
    return np.empty((0, *shape[1:]), type_.dtype.numpy)


def bind_attribute(attribute, sizes: Mapping[str, int]):
    """An attribute with every Dim in it replaced by its value."""
    match attribute:
        case Expr():
            return evaluate_dim(attribute, sizes)
        case tuple():
            return tuple(bind_attribute(part, sizes) for part in attribute)
    return attribute


def evaluate_node(
    name: str, attributes: Mapping, arrays: Sequence, sizes: Mapping[str, int], location: Location
) -> tuple:
    """The results of one operator on arrays; errors name the user's node."""
    from tallow.ops import op  # a program of kernels alone runs without the operator table

    bound = {key: bind_attribute(a, sizes) for key, a in attributes.items() if key != "defines"}
    try:
        return tuple(op(name).evaluate(arrays, {**bound, "defines": attributes.get("defines", ())}))
    except TallowError as error:
        raise type(error)(f"{error} ({location})") from None
    except (ValueError, IndexError, TypeError, ArithmeticError, np.linalg.LinAlgError) as error:
        shapes = ", ".join(str(getattr(a, "shape", type(a).__name__)) for a in arrays)
        raise InputError(f"{name} failed on operands of shape {shapes}: {error} ({location})") from error


def bind_sizes(types: Sequence[Type], arrays: Sequence, sizes: dict[str, int], where: object) -> None:
    """Learns unknown size symbols from actual shapes; InputError where a known size does not agree."""
    for type_, array in zip(types, arrays, strict=True):
        if not isinstance(type_, TensorType):
            continue
        if array.ndim != type_.rank:
            raise InputError(f"expected {type_}, got shape {array.shape} ({where})")
        for dim, extent in zip(type_.shape, array.shape, strict=True):
            if isinstance(dim, int):
                wanted = dim
            elif (name := name_of(dim)) is not None:
                wanted = sizes.setdefault(name, extent)
            elif symbols(dim).keys() <= sizes.keys():
                wanted = evaluate_dim(dim, sizes)
            else:
                continue
            if wanted != extent:
                raise InputError(f"expected {type_} with {dim} = {wanted}, got shape {array.shape} ({where})")


def read_sizes(names: Sequence[str], values: np.ndarray, sizes: dict[str, int], where: object) -> None:
    """Binds symbols to the elements of an integer array."""
    for name, value in zip(names, np.asarray(values).reshape(-1).tolist(), strict=True):
        if value < 0:
            raise InputError(f"size {name} = {value} computed at run time: expected 0 or more ({where})")
        sizes[name] = value
