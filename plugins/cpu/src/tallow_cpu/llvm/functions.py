"""Scalar functions that LLVM has: a table from name and dtype class to instructions.

Functions that are not here must have been expanded by the kernel language's own vector mathematics.
Nothing here may end as a call into a library: where a processor lacks an instruction (`abilities` in
targets), the function is spelled out.
"""

from __future__ import annotations

from tallow.dtype import DType, f32
from tallow.errors import CompileError
from tallow.kernel.expand import dot_bytes
from tallow.kernel.grammar import Cast, Const, Expr, Let, Var
from tallow.kernel.straight import Maths
from tallow_cpu.llvm import casts
from tallow_cpu.llvm.types import constant, is_narrow, register, suffix, vector

_ARITHMETIC = {  # (function, is float) -> instruction
    ("add", True): "fadd",
    ("sub", True): "fsub",
    ("mul", True): "fmul",
    ("div", True): "fdiv",
    ("add", False): "add",
    ("sub", False): "sub",
    ("mul", False): "mul",
    ("and", False): "and",
    ("or", False): "or",
    ("xor", False): "xor",
    ("bit_and", False): "and",
    ("bit_or", False): "or",
    ("bit_xor", False): "xor",
}
_INTRINSIC = {"abs": "fabs", "sqrt": "sqrt"}  # one LLVM intrinsic, one instruction on every processor
_ROUNDING = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint"}  # on those with "round"
_FLOAT_COMPARE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_COMPARE = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}

NATIVE = frozenset(
    {name for name, _ in _ARITHMETIC}
    | set(_INTRINSIC)
    | set(_ROUNDING)
    | set(_COMPARE)
    | {
        "fma",
        "neg",
        "max",
        "min",
        "sign",
        "not",
        "bit_not",
        "select",
        "isnan",
        "isinf",
        "shift_left",
        "shift_right",
        "dot_bytes",
    }
)


def emit(printer, function: str, texts: list[str], arguments: tuple[Expr, ...], dtype: DType) -> str:
    """Emit `function` of operands that are already emitted; the text of the result."""
    operand, lanes = arguments[-1].dtype, arguments[0].lanes
    if is_narrow(operand) and function != "select":
        return _through_f32(printer, function, texts, arguments, dtype, lanes)
    text = _emit(printer, function, texts, arguments, operand, lanes)
    return text if function == "select" else casts.wrap(printer, text, dtype, lanes)


def _through_f32(
    printer, function: str, texts: list[str], arguments: tuple[Expr, ...], dtype: DType, lanes: int
) -> str:
    wide = [casts.emit(printer, t, a.dtype, f32, lanes) for t, a in zip(texts, arguments, strict=True)]
    typed = tuple(Cast(a, f32) for a in arguments)
    result = f32 if dtype == arguments[-1].dtype else dtype
    return casts.emit(printer, emit(printer, function, wide, typed, result), result, dtype, lanes)


def _emit(
    printer, function: str, texts: list[str], arguments: tuple[Expr, ...], operand: DType, lanes: int
) -> str:
    kind = vector(register(operand), lanes)
    simple = _ARITHMETIC.get((function, operand.is_float))
    if simple is not None and not (function == "div" and not operand.is_float):
        return printer.new(f"{simple} {kind} {texts[0]}, {texts[1]}")
    if function in _COMPARE:
        return _compare(printer, function, texts, operand, kind)
    if function == "select":
        condition = vector("i1", lanes)
        return printer.new(f"select {condition} {texts[0]}, {kind} {texts[1]}, {kind} {texts[2]}")
    if operand.is_float:
        return _float(printer, function, texts, arguments, kind, operand, lanes)
    return _integer(printer, function, texts, arguments, kind, operand, lanes)


def _compare(printer, function: str, texts: list[str], operand: DType, kind: str) -> str:
    if operand.is_float:
        return printer.new(f"fcmp {_FLOAT_COMPARE[function]} {kind} {texts[0]}, {texts[1]}")
    sign = "" if function in ("eq", "ne") else "s" if operand.kind == "int" else "u"
    return printer.new(f"icmp {sign}{_COMPARE[function]} {kind} {texts[0]}, {texts[1]}")


def _float(printer, function: str, texts, arguments, kind: str, dtype: DType, lanes: int) -> str:
    new, overload = printer.new, suffix(dtype, lanes)
    mask = vector("i1", lanes)
    if function in _INTRINSIC:
        return new(f"call {kind} @llvm.{_INTRINSIC[function]}.{overload}({kind} {texts[0]})")
    if function in _ROUNDING:
        if "round" not in printer.abilities:
            return _round(printer, function, texts[0], kind, dtype, lanes)
        return new(f"call {kind} @llvm.{_ROUNDING[function]}.{overload}({kind} {texts[0]})")
    match function:
        case "fma":
            operands = ", ".join(f"{kind} {t}" for t in texts)
            name = (
                "fma" if "fma" in printer.abilities else "fmuladd"
            )  # without the instruction, rounded twice
            return new(f"call {kind} @llvm.{name}.{overload}({operands})")
        case "neg":
            return new(f"fneg {kind} {texts[0]}")
        case "max" | "min" if not any(isinstance(a, Const) for a in arguments):
            name = f"@llvm.{function}imum.{overload}"  # of zeros either sign may come: one instruction and a blend
            return new(f"call nsz {kind} {name}({kind} {texts[0]}, {kind} {texts[1]})")
        case "max" | "min":  # the instruction gives its second operand where one is NaN
            a, b = texts if isinstance(arguments[0], Const) else reversed(texts)
            test = new(f"fcmp {'ogt' if function == 'max' else 'olt'} {kind} {a}, {b}")
            return new(f"select {mask} {test}, {kind} {a}, {kind} {b}")
        case "isnan":
            return new(f"fcmp uno {kind} {texts[0]}, {texts[0]}")
        case "isinf":
            size = new(f"call {kind} @llvm.fabs.{overload}({kind} {texts[0]})")
            return new(f"fcmp oeq {kind} {size}, {constant(float('inf'), dtype, lanes)}")
        case "sign":
            zero, one, minus = (constant(v, dtype, lanes) for v in (0.0, 1.0, -1.0))
            above = new(f"fcmp ogt {kind} {texts[0]}, {zero}")
            below = new(f"fcmp olt {kind} {texts[0]}, {zero}")
            part = new(f"select {mask} {below}, {kind} {minus}, {kind} {texts[0]}")
            return new(f"select {mask} {above}, {kind} {one}, {kind} {part}")
    raise CompileError(f"the CPU printer has no {function} of {dtype}: it must be expanded first")


def _round(printer, function: str, text: str, kind: str, dtype: DType, lanes: int) -> str:
    """Rounding by adding a number so large that no fraction is left; larger ones have none anyway."""
    new, overload, mask = printer.new, suffix(dtype, lanes), vector("i1", lanes)
    large = constant(2.0 ** (23 if dtype == f32 else 52), dtype, lanes)
    size = new(f"call {kind} @llvm.fabs.{overload}({kind} {text})")
    sum_ = new(f"fadd {kind} {size}, {large}")
    near = new(f"fsub {kind} {sum_}, {large}")
    if function == "trunc":
        near = _correct(printer, near, size, "ogt", -1.0, kind, dtype, lanes)
    near = new(f"call {kind} @llvm.copysign.{overload}({kind} {near}, {kind} {text})")
    if function == "floor":
        near = _correct(printer, near, text, "ogt", -1.0, kind, dtype, lanes)
    elif function == "ceil":
        near = _correct(printer, near, text, "olt", 1.0, kind, dtype, lanes)
    near = new(f"call {kind} @llvm.copysign.{overload}({kind} {near}, {kind} {text})")
    whole = new(f"fcmp ult {kind} {size}, {large}")
    return new(f"select {mask} {whole}, {kind} {near}, {kind} {text}")


def _correct(
    printer, near: str, exact: str, test: str, step: float, kind: str, dtype: DType, lanes: int
) -> str:
    """One step back where rounding to nearest went to the wrong side."""
    wrong = printer.new(f"fcmp {test} {kind} {near}, {exact}")
    moved = printer.new(f"fadd {kind} {near}, {constant(step, dtype, lanes)}")
    return printer.new(f"select {vector('i1', lanes)} {wrong}, {kind} {moved}, {kind} {near}")


def _integer(printer, function: str, texts, arguments, kind: str, dtype: DType, lanes: int) -> str:
    new, signed = printer.new, dtype.kind == "int"
    overload = suffix(dtype, lanes)
    letter = "s" if signed else "u"
    match function:
        case "max" | "min":
            if dtype.kind == "bool":
                return new(f"{'or' if function == 'max' else 'and'} {kind} {texts[0]}, {texts[1]}")
            return new(
                f"call {kind} @llvm.{letter}{function}.{overload}({kind} {texts[0]}, {kind} {texts[1]})"
            )
        case "not" | "bit_not":
            ones = constant(True if dtype.kind == "bool" else -1, dtype, lanes)
            return new(f"xor {kind} {texts[0]}, {ones}")
        case "neg":
            return new(f"sub {kind} {constant(0, dtype, lanes)}, {texts[0]}")
        case "abs":
            return (
                new(f"call {kind} @llvm.abs.{overload}({kind} {texts[0]}, i1 false)") if signed else texts[0]
            )
        case "sign":
            high = constant(1, dtype, lanes)
            low = constant(-1 if signed else 0, dtype, lanes)
            inside = new(f"call {kind} @llvm.{letter}max.{overload}({kind} {texts[0]}, {kind} {low})")
            return new(f"call {kind} @llvm.{letter}min.{overload}({kind} {inside}, {kind} {high})")
        case "fma":
            product = new(f"mul {kind} {texts[0]}, {texts[1]}")
            return new(f"add {kind} {product}, {texts[2]}")
        case "dot_bytes":
            return _dot_bytes(printer, texts, dtype, lanes)
        case "shift_left" | "shift_right":
            return _shift(printer, function, texts, kind, dtype, lanes)
        case "div" | "fmod" | "mod":
            return _divide(printer, function, texts, arguments[1], kind, dtype, lanes)
    raise CompileError(f"the CPU printer has no {function} of {dtype}: it must be expanded first")


_DOTS = {4: "128", 8: "256", 16: "512"}  # lanes -> the form of vpdpbusd
_PAIRS = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}  # sums of two 16-bit products


def _dot_bytes(printer, texts, dtype: DType, lanes: int) -> str:
    """One instruction where there is one; else the even and the odd bytes in 16 bits, whose products and
    sums of two are exact; else byte by byte."""
    new, kind = printer.new, vector(register(dtype), lanes)
    a, b, c = texts
    if dtype.bits == 32 and lanes in _DOTS and "dot_bytes" in printer.abilities:
        name = f"@llvm.x86.avx512.vpdpbusd.{_DOTS[lanes]}"
        printer.declared[f"{kind} {name}({kind}, {kind}, {kind})"] = None
        return new(f"call {kind} {name}({kind} {c}, {kind} {a}, {kind} {b})")
    if dtype.bits != 32 or lanes not in _PAIRS or "pairs" not in printer.abilities:
        names = [Var(f"{t}.dot", dtype, lanes) for t in texts]
        printer.values.update(zip((n.name for n in names), texts, strict=True))
        body: list[Let] = []
        result = dot_bytes(Maths(body, lambda hint: f"{printer.label(hint)}.dot"), *names)
        for let in body:
            printer.values[let.var.name] = printer.expression(let.value)
        return printer.expression(result)
    half = f"<{2 * lanes} x i16>"
    eight, total = f"<{', '.join(['i16 8'] * 2 * lanes)}>", c
    a, b = (new(f"bitcast {kind} {t} to {half}") for t in (a, b))
    for odd in (False, True):
        left = new(f"lshr {half} {a if odd else new(f'shl {half} {a}, {eight}')}, {eight}")
        right = new(f"ashr {half} {b if odd else new(f'shl {half} {b}, {eight}')}, {eight}")
        pairs = new(f"call {kind} @llvm.x86.{_PAIRS[lanes]}({half} {left}, {half} {right})")
        total = new(f"add {kind} {total}, {pairs}")
    return total


def _shift(printer, function: str, texts, kind: str, dtype: DType, lanes: int) -> str:
    """Shifts by the width or more give 0; of a signed number to the right, its sign."""
    new, width = printer.new, dtype.itemsize * 8
    mask, zero = vector("i1", lanes), constant(0, dtype, lanes)
    arithmetic = function == "shift_right" and dtype.kind == "int"
    wide = new(f"icmp uge {kind} {texts[1]}, {constant(width, dtype, lanes)}")
    most = constant(width - 1 if arithmetic else 0, dtype, lanes)
    safe = new(f"select {mask} {wide}, {kind} {most}, {kind} {texts[1]}")
    op = "shl" if function == "shift_left" else "ashr" if arithmetic else "lshr"
    moved = new(f"{op} {kind} {texts[0]}, {safe}")
    return moved if arithmetic else new(f"select {mask} {wide}, {kind} {zero}, {kind} {moved}")


def _divide(printer, function: str, texts, divisor: Expr, kind: str, dtype: DType, lanes: int) -> str:
    """Division and remainders that never trap: by 0 they give 0, the least number by -1 wraps."""
    new, signed = printer.new, dtype.kind == "int"
    mask = vector("i1", lanes)
    letter = "s" if signed else "u"
    zero, one = constant(0, dtype, lanes), constant(1, dtype, lanes)
    a, b = texts
    plain = isinstance(divisor, Const) and divisor.value > 0
    by_zero = by_minus = None
    if not plain:
        by_zero = new(f"icmp eq {kind} {b}, {zero}")
        b = new(f"select {mask} {by_zero}, {kind} {one}, {kind} {b}")
        if signed:
            by_minus = new(f"icmp eq {kind} {b}, {constant(-1, dtype, lanes)}")
            b = new(f"select {mask} {by_minus}, {kind} {one}, {kind} {b}")
    if function == "div":
        result = new(f"{letter}div {kind} {a}, {b}")
        if by_minus is not None:
            negated = new(f"sub {kind} {zero}, {a}")
            result = new(f"select {mask} {by_minus}, {kind} {negated}, {kind} {result}")
    else:
        result = new(f"{letter}rem {kind} {a}, {b}")
        if function == "mod" and signed:
            differs = new(f"xor {kind} {result}, {b}")
            opposite = new(f"icmp slt {kind} {differs}, {zero}")
            some = new(f"icmp ne {kind} {result}, {zero}")
            fix = new(f"and {mask} {opposite}, {some}")
            moved = new(f"add {kind} {result}, {b}")
            result = new(f"select {mask} {fix}, {kind} {moved}, {kind} {result}")
    if by_zero is not None:
        result = new(f"select {mask} {by_zero}, {kind} {zero}, {kind} {result}")
    return result
