"""Unrolling: `unroll` loops become straight code, one renamed copy of the body for each iteration."""

from __future__ import annotations

from dataclasses import replace

from tallow.errors import VerifyError
from tallow.kernel.build import const, substitute
from tallow.kernel.grammar import Const, Exchange, Expr, For, If, Kernel, Let, Stmt, Var


def unroll(kernel: Kernel) -> Kernel:
    """The kernel without `unroll` loops; VerifyError if one has bounds that are not constant."""
    return replace(kernel, body=_block(kernel.body, {}, ""))


def _block(body: tuple[Stmt, ...], bindings: dict[Var, Expr], suffix: str) -> tuple[Stmt, ...]:
    result: list[Stmt] = []
    bindings = dict(bindings)
    for statement in body:
        match statement:
            case Let(var, value):
                value = substitute(value, bindings)
                if isinstance(value, Const) and value.lanes == 1:
                    bindings[var] = value
                    continue
                if suffix:
                    fresh = replace(var, name=f"{var.name}{suffix}")
                    bindings[var] = fresh
                    var = fresh
                else:
                    bindings.pop(var, None)
                result.append(Let(var, value))
            case Exchange(var, value, distance) if suffix:
                fresh = replace(var, name=f"{var.name}{suffix}")
                result.append(Exchange(fresh, substitute(value, bindings), distance))
                bindings[var] = fresh
            case For(var, stop, inner, "unroll", start, step):
                low, high = substitute(start, bindings), substitute(stop, bindings)
                if not isinstance(low, Const) or not isinstance(high, Const):
                    raise VerifyError(f"unroll loop over {var.name}: expected constant bounds")
                for number in range(low.value, high.value, step):
                    result += _block(inner, {**bindings, var: const(number)}, f"{suffix}_{var.name}{number}")
            case For(var, stop, inner, kind, start, step):
                fresh = replace(var, name=f"{var.name}{suffix}") if suffix else var
                inside = (
                    {**bindings, var: fresh} if suffix else {k: v for k, v in bindings.items() if k != var}
                )
                low, high = substitute(start, bindings), substitute(stop, bindings)
                result.append(For(fresh, high, _block(inner, inside, suffix), kind, low, step))
            case If(condition, then, otherwise):
                condition = substitute(condition, bindings)
                if isinstance(condition, Const):
                    result += _block(then if condition.value else otherwise, bindings, suffix)
                    continue
                result.append(
                    If(condition, _block(then, bindings, suffix), _block(otherwise, bindings, suffix))
                )
            case _:
                result.append(substitute(statement, bindings))
    return tuple(result)
