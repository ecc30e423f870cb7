"""The exponential of numbers that are not positive, as weights of a softmax are: half the work of `exp`."""

from __future__ import annotations

from collections.abc import Callable

from tallow.dtype import f32
from tallow.kernel.build import call
from tallow.kernel.grammar import Expr, Stmt
from tallow.kernel.math import exp_bounded_f32
from tallow.kernel.straight import Maths

LEAST = -88.3  # rounds to the power 2**-127, which stands for 0


def decay(body: list[Stmt], fresh: Callable[[str], str], x: Expr) -> Expr:
    """exp(x) for x <= 0, as statements of `body`: NaN for NaN, and 0 where exp(x) is below 2**-126."""
    if x.dtype != f32:
        return call("exp", x)
    m = Maths(body, fresh)
    return exp_bounded_f32(m, m.do("max", m.let(x), LEAST))
