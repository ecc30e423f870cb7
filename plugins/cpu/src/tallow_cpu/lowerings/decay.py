"""The exponential of numbers that are not positive, as weights of a softmax are: a third of the work of `exp`."""

from __future__ import annotations

from collections.abc import Callable

from tallow.dtype import f32, i32
from tallow.kernel.build import call
from tallow.kernel.grammar import Expr, Stmt
from tallow.kernel.math import ROUNDER
from tallow.kernel.straight import Maths

LEAST = -88.3  # rounds to the power 2**-127, which stands for 0
_WEIGHT = (1.0, 1.0, 0.499992311, 0.166671142, 0.0418901592, 0.00831252057)


def decay(body: list[Stmt], fresh: Callable[[str], str], x: Expr) -> Expr:
    """exp(x) for x <= 0, as statements of `body`: NaN for NaN, and 0 where exp(x) is below 2**-126.

    The polynomial is fitted over |r| <= log(2) / 2 to a relative error of 1e-7.
    """
    if x.dtype != f32:
        return call("exp", x)
    m = Maths(body, fresh)
    x = m.do("max", m.let(x), LEAST)
    shifted = m.do("fma", x, 1.4426950408889634, ROUNDER)
    n = m.do("sub", shifted, ROUNDER)
    r = m.do("fma", n, 2.12194440e-4, m.do("fma", n, -0.693359375, x))
    power = m.do("shift_left", m.do("add", m.bits(shifted, i32), 127 - 0x4B400000), 23)
    return m.do("mul", m.polynomial(r, _WEIGHT), m.bits(power, f32))
