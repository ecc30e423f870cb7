"""Circular functions as kernel expressions in f64, good enough to be rounded to f32."""

from __future__ import annotations

import math

from tallow.dtype import i64
from tallow.kernel.grammar import Expr
from tallow.kernel.straight import Maths

_SIN = [(-1.0) ** k / math.factorial(2 * k + 1) for k in range(9)]
_COS = [(-1.0) ** k / math.factorial(2 * k) for k in range(10)]


_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163AB  # 224 bits behind the point
_PIECE = 29  # bits: a piece times an f32 is exact in f64
_PIECES = [
    math.ldexp((_TWO_OVER_PI >> (224 - _PIECE * (k + 1))) & ((1 << _PIECE) - 1), -_PIECE * (k + 1))
    for k in range(7)
]


def _quarters(m: Maths, x: Expr) -> tuple[Expr, Expr]:
    """x in quarter turns: a whole number of them modulo 4, and the rest in -0.5..0.5.

    The product of x, an f32 value of any size, with each piece of 2/pi is exact, so is its remainder
    by 4, and the remainders are added with the rounding errors kept (Payne and Hanek, 1983).
    """
    total: Expr | None = None
    errors: Expr | None = None
    for piece in _PIECES:
        product = m.do("mul", x, piece)
        turns = m.do("round", m.do("mul", product, 0.25))
        part = m.do("fma", turns, -4.0, product)
        if total is None:
            total = part
            continue
        new = m.do("add", total, part)
        shown = m.do("sub", new, total)
        lost = m.do("add", m.do("sub", total, m.do("sub", new, shown)), m.do("sub", part, shown))
        total, errors = new, lost if errors is None else m.do("add", errors, lost)
    whole = m.do("round", total)
    return whole, m.do("add", m.do("sub", total, whole), errors)


def _sine_cosine(m: Maths, x: Expr) -> tuple[Expr, Expr]:
    """sin and cos of every f32 value, by reduction to a quarter turn."""
    q, rest = _quarters(m, x)
    r = m.do("mul", rest, math.pi / 2)
    z = m.do("mul", r, r)
    s, c = m.do("mul", r, m.polynomial(z, _SIN)), m.polynomial(z, _COS)
    quarter = m.do("bit_and", m.cast(q, i64), 3)
    odd = m.do("eq", m.do("bit_and", quarter, 1), 1)
    flip_s = m.do("ge", quarter, 2)
    flip_c = m.do("or", m.do("eq", quarter, 1), m.do("eq", quarter, 2))
    sine, cosine = m.do("select", odd, c, s), m.do("select", odd, s, c)
    return (
        m.do("select", flip_s, m.do("neg", sine), sine),
        m.do("select", flip_c, m.do("neg", cosine), cosine),
    )


def sin(m: Maths, x: Expr) -> Expr:
    return m.do("select", m.do("eq", x, 0.0), x, _sine_cosine(m, x)[0])


def cos(m: Maths, x: Expr) -> Expr:
    return _sine_cosine(m, x)[1]


def tan(m: Maths, x: Expr) -> Expr:
    sine, cosine = _sine_cosine(m, x)
    return m.do("select", m.do("eq", x, 0.0), x, m.do("div", sine, cosine))


_ATAN = (
    0.9999999999999449,
    -0.3333333332820299,
    0.1999999920606496,
    -0.1428566686574542,
    0.11109687802831802,
    -0.09066797936742971,
    0.07450438246391893,
    -0.05229554402139501,
    0.010856934123860401,
    0.025342831444763233,
)


def atan(m: Maths, x: Expr) -> Expr:
    """Reduced to |x| <= tan(pi/8) by atan x = pi/2 - atan 1/x and pi/4 + atan((x-1)/(x+1)); 1e-13 relative."""
    size = m.do("abs", x)
    inverted = m.do("gt", size, 1.0)
    t = m.do("select", inverted, m.do("div", 1.0, size), size)
    turned = m.do("gt", t, math.tan(math.pi / 8))
    t = m.do("select", turned, m.do("div", m.do("sub", t, 1.0), m.do("add", t, 1.0)), t)
    value = m.do("mul", t, m.polynomial(m.do("mul", t, t), _ATAN))
    value = m.do("select", turned, m.do("add", value, math.pi / 4), value)
    value = m.do("select", inverted, m.do("sub", math.pi / 2, value), value)
    return m.odd(x, value)


def asin(m: Maths, x: Expr) -> Expr:
    root = m.do("sqrt", m.do("mul", m.do("sub", 1.0, x), m.do("add", x, 1.0)))
    return atan(m, m.do("div", x, root))


def acos(m: Maths, x: Expr) -> Expr:
    """2 atan(sqrt((1 - x) / (1 + x))), accurate at both ends."""
    ratio = m.do("div", m.do("sub", 1.0, x), m.do("add", x, 1.0))
    return m.do("mul", atan(m, m.do("sqrt", ratio)), 2.0)


def atan2(m: Maths, y: Expr, x: Expr) -> Expr:
    negative = m.do("lt", m.bits(x, i64), 0)
    base = atan(m, m.do("abs", m.do("div", y, x)))
    both = m.do("eq", m.do("abs", y), m.do("abs", x))
    base = m.do("select", both, math.pi / 4, base)
    base = m.do("select", m.do("eq", y, 0.0), 0.0, base)
    base = m.do("select", negative, m.do("sub", math.pi, base), base)
    below = m.do("lt", m.bits(y, i64), 0)
    signed = m.do("select", below, m.do("neg", base), base)
    nan = m.do("or", m.do("isnan", x), m.do("isnan", y))
    return m.do("select", nan, math.nan, signed)
