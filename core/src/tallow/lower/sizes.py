"""Sizes of a kernel: what follows from sizes alone is computed once for a call, not in the kernel.

An expression over size symbols becomes one parameter, whose Dim is evaluated when sizes are bound. So
kernels stay short however their shapes came about, and those that differ only in that share code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tallow import dim as dims
from tallow.dim import Dim, symbol
from tallow.dtype import i64
from tallow.kernel import build
from tallow.kernel.grammar import Call, Const, Expr, Load, Stmt, Var

_MEANINGS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": dims.minimum,
    "max": dims.maximum,
    "div": dims.floordiv,  # of numbers that are not negative, as in all index arithmetic
    "fmod": dims.mod,
    "mod": dims.mod,
}


class Sizes:
    """The size parameters of one kernel: name -> Dim, in the order in which they are first needed."""

    def __init__(self, symbols: frozenset[str], fresh: Callable[[str], str]):
        self.symbols, self.fresh = symbols, fresh
        self.parameters: dict[str, Dim] = {}
        self._names: dict[Dim, str] = {}
        self._known: dict[int, tuple[Expr, Dim | None]] = {}  # by identity; holds what it names

    def statements(self, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        """The body with every size a parameter."""
        return tuple(build.map_stmt(self.expression, s) for s in body)

    def expression(self, e: Expr) -> Expr:
        found = self.dim(e)
        if found is not None:
            return self.parameter(found)
        match e:
            case Call(name, arguments, dtype):
                return Call(name, tuple(self.expression(a) for a in arguments), dtype)
            case Load(buffer, index, lanes, mask):
                guard = None if mask is None else self.expression(mask)
                return Load(buffer, self.expression(index), lanes, guard)
        inner = build.children(e)
        return replace(e, value=self.expression(inner[0])) if inner else e

    def parameter(self, dim: Dim) -> Expr:
        if isinstance(dim, int):
            return build.const(dim)
        if dim not in self._names:
            plain = str(dim) if str(dim) in self.symbols else self.fresh("size")
            self._names[dim] = plain
            self.parameters[plain] = dim
        return Var(self._names[dim])

    def dim(self, e: Expr) -> Dim | None:
        """The Dim that an expression over sizes alone is; None for any other."""
        if id(e) not in self._known:
            self._known[id(e)] = e, self._dim(e)
        return self._known[id(e)][1]

    def _dim(self, e: Expr) -> Dim | None:
        match e:
            case Const(int() as value, dtype, 1) if dtype == i64:
                return value
            case Var(name) if name in self.symbols:
                return symbol(name)
            case Call(name, (a, b), dtype) if name in _MEANINGS and dtype == i64:
                left = self.dim(a)
                right = None if left is None else self.dim(b)
                if right is None or (name in ("div", "fmod", "mod") and right == 0):
                    return None
                return _MEANINGS[name](left, right)
            case Call("select", (Call("eq", (a, Const(1))), b, c), dtype) if a == c and dtype == i64:
                left = self.dim(a)
                right = None if left is None else self.dim(b)
                return None if right is None else dims.broadcast(left, right)
        return None
