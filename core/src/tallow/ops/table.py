"""The op table: everything Tallow knows of an operator stands in one row."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from tallow.errors import GraphError, PluginError
from tallow.graph import Node, Type, Value
from tallow.kernel.grammar import Expr

OpKind = Literal[
    "constant",
    "pointwise",
    "movement",
    "gather",
    "reduction",
    "contraction",
    "window",
    "scatter",
    "composite",
    "host",
    "control",
]


class Read(Protocol):
    """Gives element `index` of input number `operand` inside a kernel. Where `guard` is false the
    element is not read (it may lie outside) and the result is unspecified."""

    def __call__(self, operand: int, index: tuple[Expr, ...], guard: Expr | None = None) -> Expr: ...


Infer = Callable[[Sequence[Type], Mapping], tuple[Type, ...]]
Evaluate = Callable[[Sequence[np.ndarray], Mapping], tuple[np.ndarray, ...]]
IndexRule = Callable[[Node, tuple[Expr, ...], Read], Expr]
Decompose = Callable[["object", Node], Value | Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Op:
    """One operator.

    infer: result types from operand types and attributes; raises GraphError in the operator's words.
    evaluate: the numpy meaning; Dims in attributes are ints by then; works on any strides.
    index: what element `index` of the (single) result is, in terms of elements of the operands:
        such ops fuse by inlining. None if it is not of that shape.
    decompose: the same meaning in simpler ops, given a Builder. None if there are none simpler.
    arity: least and greatest number of operands (None: no limit). Trailing operands may be absent.
    lowerings: backend's name ("": any) -> its lowering, for operators that bring their own.
    definition: a digest of everything above, of operators from outside this package.
    An op with neither index nor decompose needs a lowering, or runs as a host step.
    """

    name: str
    kind: OpKind
    infer: Infer
    evaluate: Evaluate | None
    index: IndexRule | None = None
    decompose: Decompose | None = None
    arity: tuple[int, int | None] = (1, 1)
    lowerings: Mapping[str, Callable] = field(default_factory=dict)
    definition: str = ""


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Add a row; PluginError if the name is taken by another definition."""
    known = OPS.get(op.name)
    if known is None:
        OPS[op.name] = op
    elif not op.definition or op.definition != known.definition:
        raise PluginError(f"operator {op.name!r} is already registered: choose another name")
    return OPS[op.name]


def op(name: str) -> Op:
    """The row of an operator; GraphError with near names if there is none."""
    if name not in OPS:
        near = difflib.get_close_matches(name, OPS, 3)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        hint += "; one of your own is added by tallow.register_op" * ("." in name)
        raise GraphError(f"there is no operator {name!r}{hint}")
    return OPS[name]
