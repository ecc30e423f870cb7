"""Control flow: branches, loops over regions, branches that cannot run, and regions for another device; what they mean is in
`evaluate` and `runtime`."""

from __future__ import annotations

from collections.abc import Callable

from tallow.dim import symbol
from tallow.errors import GraphError, InputError
from tallow.graph import Graph, TensorType, Type, cover
from tallow.ops.table import Op, register


def join_types(a: Type, b: Type, fresh: Callable[[], str]) -> tuple[Type, tuple[str, ...]]:
    """The type that covers both, and the new symbols for dims in which they differ."""
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        try:
            return cover(a, b), ()
        except GraphError:
            raise GraphError(f"branches give {a} and {b}: expected one type") from None
    if a.dtype != b.dtype or a.rank != b.rank:
        raise GraphError(f"branches give {a} and {b}: expected one dtype and one rank")
    names: list[str] = []
    dims = []
    for x, y in zip(a.shape, b.shape, strict=True):
        if x == y:
            dims.append(x)
        else:
            names.append(fresh())
            dims.append(symbol(names[-1]))
    return TensorType(a.dtype, tuple(dims)), tuple(names)


def _infer_if(types, attributes):
    then, otherwise = attributes["then"], attributes["otherwise"]
    if len(then.outputs) != len(otherwise.outputs):
        raise GraphError(f"if: branches give {len(then.outputs)} and {len(otherwise.outputs)} results")
    return tuple(attributes["types"])


def _infer_loop(types, attributes):
    body: Graph = attributes["body"]
    carried = len(types) - 2
    if len(body.inputs) != carried + 2 or len(body.outputs) < carried + 1:
        raise GraphError(f"loop: {carried} carried values do not fit a body of {len(body.inputs)} inputs")
    return tuple(attributes["types"])


def _infer_on(types, attributes):
    body: Graph = attributes["body"]
    if [v.type for v in body.inputs] != list(types):
        listed = ", ".join(map(str, types)), ", ".join(str(v.type) for v in body.inputs)
        raise GraphError(f"on: operands are {listed[0]}, its body takes {listed[1]}")
    return tuple(v.type for v in body.outputs)


def _evaluate_fail(arrays, attributes):
    raise InputError(f"this branch cannot run: {attributes['message']}")


register(
    Op("fail", "host", lambda types, attributes: tuple(attributes["types"]), _evaluate_fail, arity=(0, 0))
)
register(Op("if", "control", _infer_if, None))
register(Op("loop", "control", _infer_loop, None, arity=(2, None)))
register(Op("on", "control", _infer_on, None, arity=(0, None)))
