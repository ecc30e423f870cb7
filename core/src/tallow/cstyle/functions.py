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

# What the language has for floats, and what all kinds share; the rest is expanded before printing.
NATIVE = frozenset(
    {"select", "shift_right", *FLOAT_OPERATORS, *LOGICAL_OPERATORS, *FLOAT, *INTEGER, *LOGICAL}
)
