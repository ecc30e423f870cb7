"""Straight code: the writer that names each intermediate result of a function in the kernel language."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tallow.dtype import DType
from tallow.kernel.grammar import Bitcast, Call, Cast, Const, Expr, Let, Stmt, Var
from tallow.scalar import SCALAR


class Maths:
    """Writes straight code: each operation gets a name, so that nothing is computed twice."""

    def __init__(self, statements: list[Stmt], fresh: Callable[[str], str]):
        self.statements, self.fresh = statements, fresh

    def let(self, e: Expr, hint: str = "m") -> Expr:
        if isinstance(e, (Var, Const)):
            return e
        var = Var(self.fresh(hint), e.dtype, e.lanes)
        self.statements.append(Let(var, e))
        return var

    def do(self, function: str, *operands: Expr | float) -> Expr:
        """A basic function of operands; numbers take the dtype and lanes of the other operands."""
        like = next(o for o in reversed(operands) if not isinstance(o, (int, float)))
        typed = tuple(
            Const(o, like.dtype, like.lanes) if isinstance(o, (int, float)) else o for o in operands
        )
        return self.let(Call(function, typed, SCALAR[function].result_dtype(typed[-1].dtype)))

    def cast(self, e: Expr, dtype: DType) -> Expr:
        return self.let(Cast(e, dtype))

    def bits(self, e: Expr, dtype: DType) -> Expr:
        return self.let(Bitcast(e, dtype))

    def polynomial(self, x: Expr, coefficients: Sequence[float]) -> Expr:
        """Horner's rule; coefficients from the constant up."""
        total: Expr = Const(coefficients[-1], x.dtype, x.lanes)
        for c in reversed(coefficients[:-1]):
            total = self.do("fma", total, x, c)
        return total

    def odd(self, x: Expr, size: Expr) -> Expr:
        """An odd function's value from its value at |x|; a zero keeps its sign."""
        signed = self.do("select", self.do("lt", x, 0.0), self.do("neg", size), size)
        return self.do("select", self.do("eq", x, 0.0), x, signed)
