"""Portable vector mathematics: functions written as kernel expressions over basic arithmetic.

Each function takes a `Maths` (which names intermediate results) and operands that are already names.
f32 functions that models use most are computed in f32; the others in f64 and rounded. Sources: Cody
and Waite, "Software Manual for the Elementary Functions" (1980), for reductions; Cephes for the f32
exponential and the hyperbolic tangents; the other polynomials are least-squares fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tallow.dtype import f32, f64, i32, i64
from tallow.kernel import trigonometry
from tallow.kernel.grammar import Expr
from tallow.kernel.straight import Maths


def _power_of_two(m: Maths, n: Expr) -> Expr:
    """2 ** n for an integer-valued float n inside the exponent's range, which a sum that leaves no room
    for a fraction has in its lowest bits."""
    if n.dtype == f32:
        bits = m.bits(m.do("add", n, 12582912.0), i32)
        return m.bits(m.do("shift_left", m.do("add", bits, 127 - 0x4B400000), 23), f32)
    bits = m.bits(m.do("add", n, 6755399441055744.0), i64)
    return m.bits(m.do("shift_left", m.do("add", bits, 1023 - 0x4338000000000000), 52), f64)


def _scale(m: Maths, x: Expr, n: Expr) -> Expr:
    """x * 2**n in two steps, so that results may be subnormal or overflow."""
    half = m.do("floor", m.do("mul", n, 0.5))
    return m.do("mul", m.do("mul", x, _power_of_two(m, half)), _power_of_two(m, m.do("sub", n, half)))


_EXP32 = (
    1.0,
    1.0,
    5.0000001201e-1,
    1.6666665459e-1,
    4.1665795894e-2,
    8.3334519073e-3,
    1.3981999507e-3,
    1.9875691500e-4,
)


def exp_f32(m: Maths, x: Expr) -> Expr:
    x = m.do("max", m.do("min", x, 89.0), -104.0)
    n = m.do("round", m.do("mul", x, 1.4426950408889634))
    r = m.do("fma", n, -0.693359375, x)
    r = m.do("fma", n, 2.12194440e-4, r)
    return _scale(m, m.polynomial(r, _EXP32), n)


ROUNDER = 1.5 * 2**23  # added to a number below 2**22, its last bits are the nearest integer
_EXP32_SHORT = (1.0, 1.0, 0.49999993, 0.16666521, 0.041668387, 0.0083687100, 0.0013814611)


def exp_bounded_f32(m: Maths, x: Expr) -> Expr:
    """exp(x) for -88.3 <= x <= 88, 0 where it is below 2**-126: half the work of `exp_f32`.

    The polynomial is fitted over |r| <= log(2) / 2 to a relative error of 3e-9.
    """
    shifted = m.do("fma", x, 1.4426950408889634, ROUNDER)
    n = m.do("sub", shifted, ROUNDER)
    r = m.do("fma", n, -0.693359375, x)
    r = m.do("fma", n, 2.12194440e-4, r)
    power = m.do("shift_left", m.do("add", m.bits(shifted, i32), 127 - 0x4B400000), 23)
    return m.do("mul", m.polynomial(r, _EXP32_SHORT), m.bits(power, f32))


def exp_f64(m: Maths, x: Expr) -> Expr:
    x = m.do("max", m.do("min", x, 710.0), -746.0)
    n = m.do("round", m.do("mul", x, 1.4426950408889634))
    r = m.do("fma", n, -6.93147180369123816490e-01, x)
    r = m.do("fma", n, -1.90821492927058770002e-10, r)
    return _scale(m, m.polynomial(r, [1 / math.factorial(k) for k in range(14)]), n)


def log_f64(m: Maths, x: Expr) -> Expr:
    """m * 2**e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m-1)/(m+1))."""
    tiny = m.do("lt", x, 2.2250738585072014e-308)
    scaled = m.do("select", tiny, m.do("mul", x, 18014398509481984.0), x)
    bits = m.bits(scaled, i64)
    biased = m.do("bit_and", m.do("shift_right", bits, 52), 0x7FF)
    mantissa = m.bits(m.do("bit_or", m.do("bit_and", bits, 0x000FFFFFFFFFFFFF), 0x3FF0000000000000), f64)
    large = m.do("gt", mantissa, math.sqrt(2))
    mantissa = m.do("select", large, m.do("mul", mantissa, 0.5), mantissa)
    e = m.cast(m.do("sub", biased, 1023), f64)
    e = m.do("select", large, m.do("add", e, 1.0), e)
    e = m.do("select", tiny, m.do("sub", e, 54.0), e)
    f = m.do("sub", mantissa, 1.0)
    s = m.do("div", f, m.do("add", f, 2.0))
    z = m.do("mul", s, s)
    series = m.polynomial(z, [2 / (2 * k + 1) for k in range(1, 12)])
    low = m.do("fma", m.do("mul", s, z), series, m.do("mul", e, 1.90821492927058770002e-10))
    result = m.do("add", m.do("fma", e, 6.93147180369123816490e-01, m.do("mul", s, 2.0)), low)
    result = m.do("select", m.do("lt", x, 0.0), math.nan, result)
    result = m.do("select", m.do("eq", x, 0.0), -math.inf, result)
    result = m.do("select", m.do("eq", x, math.inf), math.inf, result)
    return m.do("select", m.do("isnan", x), x, result)


_TANH32 = (1.0, -3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2, 2.06390887954e-2, -5.70498872745e-3)


def tanh_f32(m: Maths, x: Expr) -> Expr:
    size = m.do("abs", x)
    z = m.do("mul", x, x)
    small = m.do("mul", x, m.polynomial(z, _TANH32))
    e = exp_bounded_f32(m, m.do("min", m.do("add", size, size), 20.0))  # beyond, the result is 1
    large = m.do("sub", 1.0, m.do("div", 2.0, m.do("add", e, 1.0)))
    large = m.do("select", m.do("lt", x, 0.0), m.do("neg", large), large)
    return m.do("select", m.do("lt", size, 0.625), small, large)


_TANH64 = (-1.61468768441708447952e3, -9.92877231001918586564e1, -9.64399179425052238628e-1)
_TANH64_BELOW = (4.84406305325125486048e3, 2.23548839060100448583e3, 1.12811678491632931402e2, 1.0)


def tanh_f64(m: Maths, x: Expr) -> Expr:
    size = m.do("abs", x)
    z = m.do("mul", x, x)
    ratio = m.do("div", m.polynomial(z, _TANH64), m.polynomial(z, _TANH64_BELOW))
    small = m.do("mul", x, m.do("fma", z, ratio, 1.0))
    e = exp_f64(m, m.do("add", size, size))
    large = m.do("sub", 1.0, m.do("div", 2.0, m.do("add", e, 1.0)))
    large = m.do("select", m.do("lt", x, 0.0), m.do("neg", large), large)
    return m.do("select", m.do("lt", size, 0.625), small, large)


def _sigmoid(exp):
    def sigmoid(m: Maths, x: Expr) -> Expr:
        e = exp(m, m.do("neg", m.do("abs", x)))
        s = m.do("div", 1.0, m.do("add", e, 1.0))
        return m.do("select", m.do("ge", x, 0.0), s, m.do("mul", e, s))

    return sigmoid


_ERF_SMALL = (
    1.1283791664912066,
    -0.37612632272131874,
    0.1128367256511083,
    -0.026858114451463203,
    0.005197838695090523,
    -0.0008106569890375254,
    8.218382659484769e-05,
)
_ERF_LARGE = (  # -log(erfc(x)) for x in 0.9..4.1
    -0.00017078577372296822,
    1.1294973199251332,
    0.633379861663782,
    0.10824711669560844,
    -0.02510048957078226,
    0.004164871701813788,
    -0.00043341002785401983,
    2.1024997666208023e-05,
)


def erf_f32(m: Maths, x: Expr) -> Expr:
    size = m.do("abs", x)
    small = m.do("mul", x, m.polynomial(m.do("mul", x, x), _ERF_SMALL))
    capped = m.do("min", size, 4.0)
    large = m.do("sub", 1.0, exp_bounded_f32(m, m.do("neg", m.polynomial(capped, _ERF_LARGE))))
    large = m.do("select", m.do("lt", x, 0.0), m.do("neg", large), large)
    return m.do("select", m.do("lt", size, 0.9), small, large)


def _near_zero(m: Maths, x: Expr, value: Expr, series: Expr, edge: float = 1e-3) -> Expr:
    return m.do("select", m.do("lt", m.do("abs", x), edge), series, value)


def _cubic(m: Maths, x: Expr, third: float) -> Expr:
    """x + third * x**3."""
    return m.do("fma", m.do("mul", m.do("mul", x, x), x), third, x)


def sinh_f64(m: Maths, x: Expr) -> Expr:
    up, down = exp_f64(m, m.do("mul", x, 1.0)), exp_f64(m, m.do("neg", x))
    return _near_zero(m, x, m.do("mul", m.do("sub", up, down), 0.5), _cubic(m, x, 1 / 6))


def cosh_f64(m: Maths, x: Expr) -> Expr:
    root = exp_f64(m, m.do("mul", m.do("abs", x), 0.5))  # its square may be above the largest number
    return m.do("fma", m.do("mul", root, 0.5), root, m.do("div", m.do("div", 0.5, root), root))


def asinh_f64(m: Maths, x: Expr) -> Expr:
    size = m.do("abs", x)
    value = log_f64(m, m.do("add", size, m.do("sqrt", m.do("fma", x, x, 1.0))))
    return _near_zero(m, x, m.odd(x, value), m.do("select", m.do("eq", x, 0.0), x, _cubic(m, x, -1 / 6)))


def acosh_f64(m: Maths, x: Expr) -> Expr:
    value = log_f64(m, m.do("add", x, m.do("sqrt", m.do("fma", x, x, -1.0))))
    return m.do("select", m.do("lt", x, 1.0), math.nan, value)


def atanh_f64(m: Maths, x: Expr) -> Expr:
    value = m.do("mul", log_f64(m, m.do("div", m.do("add", x, 1.0), m.do("sub", 1.0, x))), 0.5)
    return _near_zero(m, x, value, _cubic(m, x, 1 / 3))


def expm1_f64(m: Maths, x: Expr) -> Expr:
    series = m.do("mul", x, m.polynomial(x, (1.0, 1 / 2, 1 / 6, 1 / 24)))
    return _near_zero(m, x, m.do("sub", exp_f64(m, x), 1.0), series)


def log1p_f64(m: Maths, x: Expr) -> Expr:
    series = m.do("mul", x, m.polynomial(x, (1.0, -1 / 2, 1 / 3, -1 / 4)))
    return _near_zero(m, x, log_f64(m, m.do("add", x, 1.0)), series)


def exp2_f64(m: Maths, x: Expr) -> Expr:
    return exp_f64(m, m.do("mul", x, math.log(2)))


def log2_f64(m: Maths, x: Expr) -> Expr:
    return m.do("mul", log_f64(m, x), 1 / math.log(2))


def pow_f64(m: Maths, x: Expr, y: Expr) -> Expr:
    """exp(y log |x|) with C99's signs and special values; exact enough for f32 operands."""
    size = m.do("abs", x)
    value = exp_f64(m, m.do("mul", y, log_f64(m, size)))
    whole = m.do("eq", m.do("floor", y), y)
    half = m.do("mul", y, 0.5)
    odd = m.do("and", whole, m.do("ne", m.do("floor", half), half))
    negative = m.do("lt", m.bits(x, i64), 0)
    flip = m.do("and", negative, odd)
    value = m.do("select", flip, m.do("neg", value), value)
    invalid = m.do("and", m.do("lt", x, 0.0), m.do("not", whole))
    invalid = m.do("and", invalid, m.do("lt", size, math.inf))
    value = m.do("select", invalid, math.nan, value)
    value = m.do("select", m.do("or", m.do("isnan", x), m.do("isnan", y)), math.nan, value)
    unit = m.do("or", m.do("eq", x, 1.0), m.do("eq", y, 0.0))
    minus = m.do("and", m.do("eq", x, -1.0), m.do("isinf", y))
    return m.do("select", m.do("or", unit, minus), 1.0, value)


def fmod_f64(m: Maths, x: Expr, y: Expr) -> Expr:
    """The exact remainder of f32 values: the quotient is taken off 29 bits at a time, each step exact."""
    r = x
    for bits in range(9 * 29, -1, -29):
        multiple = m.do("mul", y, math.ldexp(1.0, bits))
        q = m.do("trunc", m.do("div", r, multiple))
        r = m.do("fma", m.do("neg", q), multiple, r)
    size = m.do("abs", y)
    wrong = m.do("and", m.do("ne", r, 0.0), m.do("ne", m.do("lt", r, 0.0), m.do("lt", x, 0.0)))
    up = m.do("select", m.do("lt", x, 0.0), m.do("neg", size), size)
    r = m.do("select", wrong, m.do("add", r, up), r)
    r = m.do("select", m.do("eq", r, 0.0), m.do("mul", x, 0.0), r)
    return m.do("select", m.do("and", m.do("isinf", y), m.do("lt", m.do("abs", x), math.inf)), x, r)


def mod_f64(m: Maths, x: Expr, y: Expr) -> Expr:
    """The remainder with the sign of the divisor, also where it is zero."""
    r = fmod_f64(m, x, y)
    other = m.do("and", m.do("ne", r, 0.0), m.do("ne", m.do("lt", r, 0.0), m.do("lt", y, 0.0)))
    r = m.do("select", other, m.do("add", r, y), r)
    zero = m.do("mul", m.do("sign", y), 0.0)
    return m.do("select", m.do("eq", r, 0.0), zero, r)


def rsqrt(m: Maths, x: Expr) -> Expr:
    return m.do("div", 1.0, m.do("sqrt", x))


def reciprocal(m: Maths, x: Expr) -> Expr:
    return m.do("div", 1.0, x)


@dataclass(frozen=True, slots=True)
class Approximation:
    """How a function is computed for f32 and f64, and the largest f32 error in ulp, as tested.

    `exact64` says that the f64 form serves f64 operands too; else it is only good enough to be
    rounded to f32, and f64 operands are left to the host.
    """

    wide: Callable[..., Expr] | None  # None: there is only a form of f32
    narrow: Callable[..., Expr] | None = None
    ulp: float = 1.0
    exact64: bool = True


APPROXIMATIONS: dict[str, Approximation] = {
    "exp": Approximation(exp_f64, exp_f32, 2.0),
    "log": Approximation(log_f64),
    "tanh": Approximation(tanh_f64, tanh_f32, 3.0),
    "sigmoid": Approximation(_sigmoid(exp_f64), _sigmoid(exp_f32), 3.0),
    "erf": Approximation(None, erf_f32, 3.0, exact64=False),
    "exp2": Approximation(exp2_f64, exact64=False),
    "log2": Approximation(log2_f64),
    "expm1": Approximation(expm1_f64, exact64=False),
    "log1p": Approximation(log1p_f64, exact64=False),
    "sin": Approximation(trigonometry.sin, exact64=False),
    "cos": Approximation(trigonometry.cos, exact64=False),
    "tan": Approximation(trigonometry.tan, exact64=False),
    "asin": Approximation(trigonometry.asin, exact64=False),
    "acos": Approximation(trigonometry.acos, exact64=False),
    "atan": Approximation(trigonometry.atan, exact64=False),
    "atan2": Approximation(trigonometry.atan2, exact64=False),
    "sinh": Approximation(sinh_f64, exact64=False),
    "cosh": Approximation(cosh_f64),
    "asinh": Approximation(asinh_f64, exact64=False),
    "acosh": Approximation(acosh_f64, exact64=False),
    "atanh": Approximation(atanh_f64, exact64=False),
    "pow": Approximation(pow_f64, exact64=False),
    "fmod": Approximation(fmod_f64, exact64=False),
    "mod": Approximation(mod_f64, exact64=False),
    "rsqrt": Approximation(rsqrt, rsqrt, 2.0),
    "reciprocal": Approximation(reciprocal, reciprocal),
}
