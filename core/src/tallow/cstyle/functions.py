"""Scalar functions in C: operators, and bodies of helper functions by the kind of their operands.

In a body, T is the operand's type, U the unsigned type that wraps it (32 bits at least), and a, b, c
the operands; {bits} is the operand's width.
"""

from __future__ import annotations

OPERATORS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
FLOAT_OPERATORS = OPERATORS | {"add": "+", "sub": "-", "mul": "*", "div": "/"}
INDEX_OPERATORS = OPERATORS | {"add": "+", "sub": "-", "mul": "*"}
LOGICAL_OPERATORS = OPERATORS | {"and": "&&", "or": "||", "xor": "!="}

FLOAT = {
    "fma": "fma(a, b, c)",
    "neg": "-a",
    "abs": "fabs(a)",
    "sign": "a > 0 ? (T)1 : a < 0 ? (T)-1 : a",
    "floor": "floor(a)",
    "ceil": "ceil(a)",
    "trunc": "trunc(a)",
    "round": "rint(a)",
    "sqrt": "sqrt(a)",
    "max": "a != a || a > b ? a : b",
    "min": "a != a || a < b ? a : b",
    "isnan": "a != a",
    "isinf": "fabs(a) == (T){infinity}",
}
INTEGER = {
    "add": "(T)((U)a + (U)b)",
    "sub": "(T)((U)a - (U)b)",
    "mul": "(T)((U)a * (U)b)",
    "fma": "(T)((U)a * (U)b + (U)c)",
    "neg": "(T)(0 - (U)a)",
    "max": "a > b ? a : b",
    "min": "a < b ? a : b",
    "bit_and": "(T)(a & b)",
    "bit_or": "(T)(a | b)",
    "bit_xor": "(T)(a ^ b)",
    "bit_not": "(T)~a",
    "shift_left": "b >= 0 && b < {bits} ? (T)((U)a << b) : (T)0",
}
SIGNED = INTEGER | {
    "abs": "a < 0 ? (T)(0 - (U)a) : a",
    "sign": "(T)((a > 0) - (a < 0))",
    "div": "b == 0 ? (T)0 : b == -1 ? (T)(0 - (U)a) : (T)(a / b)",
    "fmod": "b == 0 || b == -1 ? (T)0 : (T)(a % b)",
    "mod": "b == 0 || b == -1 ? (T)0 : a % b != 0 && (a < 0) != (b < 0) ? (T)(a % b + b) : (T)(a % b)",
    "shift_right": "(T)(a >> (b >= 0 && b < {bits} ? b : {bits} - 1))",
}
UNSIGNED = INTEGER | {
    "abs": "a",
    "sign": "(T)(a > 0)",
    "div": "b == 0 ? (T)0 : (T)(a / b)",
    "fmod": "b == 0 ? (T)0 : (T)(a % b)",
    "mod": "b == 0 ? (T)0 : (T)(a % b)",
    "shift_right": "b < {bits} ? (T)(a >> b) : (T)0",
}
LOGICAL = {"not": "!a"}
BODIES = {"float": FLOAT, "int": SIGNED, "uint": UNSIGNED, "bool": LOGICAL}

# Vectors: masks of -1 and 0 in place of bools, and `as_` in place of casts that keep the bits. U is the unsigned
# vector of T's width.
VECTOR_LOGICAL = {
    "and": "({0} & {1})",
    "or": "({0} | {1})",
    "xor": "({0} ^ {1})",
    "ne": "({0} ^ {1})",
    "eq": "(~({0} ^ {1}))",
    "lt": "(~{0} & {1})",
    "le": "(~{0} | {1})",
    "gt": "({0} & ~{1})",
    "ge": "({0} | ~{1})",
    "not": "(~{0})",
}
# Rounding by a sum that leaves no room for a fraction: drivers' own functions go a long way round. S is the sign
# bit, M the number from which on all floats are integers; a result has the sign of what it is rounded from.
_NEAREST = "as_T((as_U(a) & S) | as_U(as_T(as_U(a) & ~S) + M - M))"
_STEP = (
    f"as_T(as_U(a) & ~S) < M ? as_T((as_U({_NEAREST} {{step}} ({_NEAREST} {{less}} a ? (T)(1) : (T)(0))) & ~S)"
    " | (as_U(a) & S)) : a"
)
_VECTOR_FLOAT = {
    "fma": "fma(a, b, c)",
    "neg": "-a",
    "abs": "as_T(as_U(a) & ~S)",
    "round": f"as_T(as_U(a) & ~S) < M ? {_NEAREST} : a",
    "floor": _STEP.format(less=">", step="-"),
    "ceil": _STEP.format(less="<", step="+"),
    "trunc": "trunc(a)",
    "sqrt": "sqrt(a)",
    "max": "(a != a) | (a > b) ? a : b",
    "min": "(a != a) | (a < b) ? a : b",
    "isnan": "(a != a)",
    "isinf": "(as_T(as_U(a) & ~S) == (T)({infinity}))",
}
_VECTOR_UNSIGNED = {
    "add": "as_T(as_U(a) + as_U(b))",
    "sub": "as_T(as_U(a) - as_U(b))",
    "mul": "as_T(as_U(a) * as_U(b))",
    "fma": "as_T(as_U(a) * as_U(b) + as_U(c))",
    "neg": "as_T((U)(0) - as_U(a))",
    "max": "a > b ? a : b",
    "min": "a < b ? a : b",
    "bit_and": "a & b",
    "bit_or": "a | b",
    "bit_xor": "a ^ b",
    "bit_not": "~a",
    "shift_left": "b < (T)({bits}) ? a << b : (T)(0)",
}
_VECTOR_SIGNED = _VECTOR_UNSIGNED | {
    "shift_left": "as_U(b) < (U)({bits}) ? as_T(as_U(a) << as_U(b)) : (T)(0)",
    "shift_right": "a >> (as_U(b) < (U)({bits}) ? b : (T)({bits} - 1))",
}
VECTOR_BODIES = {"float": _VECTOR_FLOAT, "int": _VECTOR_SIGNED, "uint": _VECTOR_UNSIGNED}

# What the language has for floats, and what all kinds share; the rest is expanded before printing.
NATIVE = frozenset(
    {"select", "shift_right", *FLOAT_OPERATORS, *LOGICAL_OPERATORS, *FLOAT, *INTEGER, *LOGICAL}
)
