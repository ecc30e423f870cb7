"""The exponential of numbers that are not positive, as weights of a softmax are: half the work of `exp`."""

from __future__ import annotations

from collections.abc import Callable

from tallow.dtype import f32, i32
from tallow.kernel.build import call
from tallow.kernel.grammar import Expr, Stmt
from tallow.kernel.straight import Maths

LEAST = -88.3  # rounds to the power 2**-127, which stands for 0
ROUNDER = 1.5 * 2**23  # added to a number below 2**22, its last bits are the nearest integer
# Fitted over |r| <= log(2) / 2 to a relative error of 3e-9.
SERIES = (1.0, 1.0, 0.49999993, 0.16666521, 0.041668387, 0.0083687100, 0.0013814611)


def decay(body: list[Stmt], fresh: Callable[[str], str], x: Expr) -> Expr:
    """exp(x) for x <= 0, as statements of `body`: NaN for NaN, and 0 where exp(x) is below 2**-126."""
    if x.dtype != f32:
        return call("exp", x)
    m = Maths(body, fresh)
    x = m.do("max", m.let(x), LEAST)
    shifted = m.do("fma", x, 1.4426950408889634, ROUNDER)
    n = m.do("sub", shifted, ROUNDER)
    r = m.do("fma", n, -0.693359375, x)
    r = m.do("fma", n, 2.12194440e-4, r)
    power = m.do("shift_left", m.do("add", m.bits(shifted, i32), 127 - 0x4B400000), 23)
    return m.do("mul", m.polynomial(r, SERIES), m.bits(power, f32))
