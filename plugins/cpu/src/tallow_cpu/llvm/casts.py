"""Conversions between dtypes in LLVM.

Narrow floats are integers in registers; they are decoded and encoded by arithmetic on their bits, or by
the processor where it can. Sources: IEEE 754-2019; OCP 8-bit Floating Point (OFP8) and Microscaling (MX)
specifications, 2023; Noune et al., "8-bit Numerical Formats for Deep Neural Networks" (2022), for fnuz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tallow.dtype import DType, f32, f64, i32
from tallow_cpu.llvm.types import constant, is_narrow, register, suffix, vector


@dataclass(frozen=True, slots=True)
class Format:
    """A float of few bits. Codes are without the sign; `top` is the largest finite one, what lies above
    becomes `over`. fnuz formats have one NaN, at the sign bit alone, and no negative zero."""

    width: int
    mantissa: int
    bias: int
    top: int
    over: int
    nan: int
    infinite: bool = False
    fnuz: bool = False


FORMATS = {
    "f16": Format(16, 10, 15, 0x7BFF, 0x7C00, 0x7E00, infinite=True),
    "bf16": Format(16, 7, 127, 0x7F7F, 0x7F80, 0x7FC0, infinite=True),
    "f8e4m3": Format(8, 3, 7, 0x7E, 0x7F, 0x7F),
    "f8e4m3fnuz": Format(8, 3, 8, 0x7F, 0x80, 0x80, fnuz=True),
    "f8e5m2": Format(8, 2, 15, 0x7B, 0x7C, 0x7E, infinite=True),
    "f8e5m2fnuz": Format(8, 2, 16, 0x7F, 0x80, 0x80, fnuz=True),
    "f4e2m1": Format(4, 1, 1, 0x7, 0x7, 0x8),
}


def emit(printer, text: str, source: DType, target: DType, lanes: int) -> str:
    """Emit the conversion of `text`; floats to integers truncate, saturate and send NaN to 0."""
    if source == target:
        return text
    if is_narrow(source):
        return emit(printer, _decode(printer, text, source, lanes), f32, target, lanes)
    if is_narrow(target):
        if source == f64:
            return _encode(printer, _to_odd(printer, text, lanes), target, lanes)
        return _encode(printer, emit(printer, text, source, f32, lanes), target, lanes)
    a, b = vector(register(source), lanes), vector(register(target), lanes)
    if target.kind == "bool":
        if source.is_float:
            return printer.new(f"fcmp une {a} {text}, {constant(0.0, source, lanes)}")
        return printer.new(f"icmp ne {a} {text}, {constant(0, source, lanes)}")
    if source.is_float and target.is_float:
        return printer.new(f"{'fpext' if source.bits < target.bits else 'fptrunc'} {a} {text} to {b}")
    if source.is_float:
        return _saturate(printer, text, source, target, lanes)
    if target.is_float:
        op = "sitofp" if source.kind == "int" else "uitofp"
        return printer.new(f"{op} {a} {text} to {b}")
    if register(source) != register(target):
        wider = source.kind == "bool" or source.itemsize < target.itemsize
        op = "trunc" if not wider else "sext" if source.kind == "int" else "zext"
        text = printer.new(f"{op} {a} {text} to {b}")
    return wrap(printer, text, target, lanes)


def wrap(printer, text: str, dtype: DType, lanes: int) -> str:
    """An 8-bit register brought back into the range of a 4-bit or 2-bit integer; others as they are."""
    if not dtype.is_integer or dtype.bits >= 8:
        return text
    kind, op = vector("i8", lanes), "sext" if dtype.kind == "int" else "zext"
    small = printer.new(f"trunc {kind} {text} to {vector(f'i{dtype.bits}', lanes)}")
    return printer.new(f"{op} {vector(f'i{dtype.bits}', lanes)} {small} to {kind}")


def _saturate(printer, text: str, source: DType, target: DType, lanes: int) -> str:
    """NaN to 0 and the rest clamped, then one conversion. (LLVM's saturating conversion of a vector goes
    element by element.)"""
    new, kind, mask = printer.new, vector(register(source), lanes), vector("i1", lanes)
    low, most = (
        (-(1 << target.bits - 1), (1 << target.bits - 1) - 1)
        if target.kind == "int"
        else (0, (1 << target.bits) - 1)
    )
    high = float(most)
    if high > most or source.name == "f32" and target.bits >= 32:  # the largest float that is in range
        high = float(np.nextafter(source.numpy.type(most), source.numpy.type(0)))

    def clamp(value: str, test: str, limit: float) -> str:
        bound = constant(limit, source, lanes)
        beyond = new(f"fcmp {test} {kind} {value}, {bound}")
        return new(f"select {mask} {beyond}, {kind} {bound}, {kind} {value}")

    nan = new(f"fcmp uno {kind} {text}, {text}")
    known = new(f"select {mask} {nan}, {kind} {constant(0.0, source, lanes)}, {kind} {text}")
    inside = clamp(clamp(known, "olt", float(low)), "ogt", high)
    width = max(target.bits, 32)
    op = "fptoui" if target.kind == "uint" and width == target.bits else "fptosi"
    wide, stored = vector(f"i{width}", lanes), vector(register(target), lanes)
    result = new(f"{op} {kind} {inside} to {wide}")
    if int(high) != most:
        over = new(f"fcmp ogt {kind} {known}, {constant(high, source, lanes)}")
        result = new(f"select {mask} {over}, {wide} {constant(most, target, lanes)}, {wide} {result}")
    return result if width == target.itemsize * 8 else new(f"trunc {wide} {result} to {stored}")


class _Bits:
    """Arithmetic on i32 vectors of one width, written short."""

    def __init__(self, printer, lanes: int):
        self.printer, self.lanes = printer, lanes
        self.kind, self.mask, self.float = (vector(t, lanes) for t in ("i32", "i1", "float"))

    def do(self, op: str, a: str, b: str | int) -> str:
        return self.printer.new(f"{op} {self.kind} {a}, {b if isinstance(b, str) else self.number(b)}")

    def number(self, value: int) -> str:
        return constant(value, i32, self.lanes)

    def select(self, test: str, a: str | int, b: str) -> str:
        a = a if isinstance(a, str) else self.number(a)
        return self.printer.new(f"select {self.mask} {test}, {self.kind} {a}, {self.kind} {b}")

    def to_float(self, bits: str) -> str:
        return self.printer.new(f"bitcast {self.kind} {bits} to {self.float}")

    def to_bits(self, text: str) -> str:
        return self.printer.new(f"bitcast {self.float} {text} to {self.kind}")

    def from_scalar(self, op: str, text: str, scalar: str) -> str:
        return self.printer.new(f"{op} {vector(scalar, self.lanes)} {text} to {self.kind}")


def _decode(printer, text: str, source: DType, lanes: int) -> str:
    """A narrow float as f32, exactly."""
    bits, scalar = _Bits(printer, lanes), register(source)
    if source.name == "f16" and "half" in printer.abilities:
        half = vector("half", lanes)
        moved = printer.new(f"bitcast {vector(scalar, lanes)} {text} to {half}")
        return printer.new(f"fpext {half} {moved} to {bits.float}")
    code = bits.from_scalar("zext", text, scalar)
    if source.name == "bf16":
        return bits.to_float(bits.do("shl", code, 16))
    if source.name == "f8e8m0":
        return _decode_exponent(bits, code)
    form = FORMATS[source.name]
    size = bits.do("and", code, (1 << (form.width - 1)) - 1)
    placed = bits.to_float(bits.do("shl", size, 23 - form.mantissa))
    scale = constant(2.0 ** (127 - form.bias), f32, lanes)
    value = bits.to_bits(printer.new(f"fmul {bits.float} {placed}, {scale}"))
    if form.infinite:
        special = bits.do("icmp ugt", size, form.top)
        value = bits.select(special, bits.do("or", bits.to_bits(placed), 0x7F800000), value)
    elif form.nan < 1 << (form.width - 1):
        value = bits.select(bits.do("icmp eq", size, form.nan), 0x7FC00000, value)
    sign = bits.do("shl", bits.do("lshr", code, form.width - 1), 31)
    value = bits.do("or", value, sign)
    if form.fnuz:
        value = bits.select(bits.do("icmp eq", code, form.nan), 0x7FC00000, value)
    return bits.to_float(value)


def _decode_exponent(bits: _Bits, code: str) -> str:
    """f8e8m0: 2 ** (code - 127), with 255 for NaN."""
    value = bits.select(bits.do("icmp eq", code, 0), 0x00400000, bits.do("shl", code, 23))
    return bits.to_float(bits.select(bits.do("icmp eq", code, 255), 0x7FC00000, value))


def _encode(printer, text: str, target: DType, lanes: int) -> str:
    """An f32 as a narrow float, rounded to nearest even; NaN stays NaN where there is one."""
    bits, scalar = _Bits(printer, lanes), vector(register(target), lanes)
    if target.name == "f16" and "half" in printer.abilities:
        half = printer.new(f"fptrunc {bits.float} {text} to {vector('half', lanes)}")
        return printer.new(f"bitcast {vector('half', lanes)} {half} to {scalar}")
    whole = bits.to_bits(text)
    nan = printer.new(f"fcmp uno {bits.float} {text}, {text}")
    if target.name == "bf16":
        code = _encode_bf16(bits, whole, nan)
    elif target.name == "f8e8m0":
        code = _encode_exponent(bits, whole)
    else:
        code = _encode_format(bits, whole, nan, FORMATS[target.name])
    return printer.new(f"trunc {bits.kind} {code} to {scalar}")


def _encode_bf16(bits: _Bits, whole: str, nan: str) -> str:
    high = bits.do("lshr", whole, 16)
    half = bits.do("add", bits.do("and", high, 1), 0x7FFF)
    rounded = bits.do("lshr", bits.do("add", whole, half), 16)
    return bits.select(nan, bits.do("or", high, 0x40), rounded)


def _encode_format(bits: _Bits, whole: str, nan: str, form: Format) -> str:
    """Normal numbers round in place; subnormal ones by adding a number whose last place is their unit."""
    drop = 23 - form.mantissa
    size = bits.do("and", whole, 0x7FFFFFFF)
    odd = bits.do("and", bits.do("lshr", size, drop), 1)
    rounded = bits.do("add", bits.do("add", size, odd), (1 << (drop - 1)) - 1)
    normal = bits.do("sub", bits.do("lshr", rounded, drop), (127 - form.bias) << form.mantissa)
    magic = 2.0 ** (24 - form.bias - form.mantissa)
    shifted = bits.printer.new(f"fadd {bits.float} {bits.to_float(size)}, {constant(magic, f32, bits.lanes)}")
    least = (128 - form.bias) << 23  # the smallest normal number, as f32 bits
    magic_bits = (24 - form.bias - form.mantissa + 127) << 23
    code = bits.select(
        bits.do("icmp ult", size, least), bits.do("sub", bits.to_bits(shifted), magic_bits), normal
    )
    code = bits.select(bits.do("icmp sgt", code, form.top), form.over, code)
    code = bits.select(nan, form.nan, code)
    sign = bits.do("shl", bits.do("lshr", whole, 31), form.width - 1)
    if form.fnuz:
        sign = bits.select(bits.do("icmp eq", code, 0), 0, sign)
    return bits.do("or", code, sign)


def _encode_exponent(bits: _Bits, whole: str) -> str:
    """f8e8m0: the nearest power of two, ties upwards; NaN, zero, negative numbers and infinity are NaN."""
    normal = bits.do("lshr", bits.do("add", whole, 0x400000), 23)
    above = bits.do("icmp ugt", whole, 0x600000 - 1)
    small = bits.select(above, 1, bits.number(0))
    code = bits.select(bits.do("icmp ult", whole, 0x800000), small, normal)
    beyond = bits.do("icmp ugt", bits.do("sub", whole, 1), 0x7F400000 - 2)
    return bits.select(beyond, 255, code)


def _to_odd(printer, text: str, lanes: int) -> str:
    """An f64 as f32, inexact results made odd, so that rounding once more gives the right result."""
    bits = _Bits(printer, lanes)
    wide = vector("double", lanes)
    near = printer.new(f"fptrunc {wide} {text} to {bits.float}")
    back = printer.new(f"fpext {bits.float} {near} to {wide}")
    sizes = [printer.new(f"call {wide} @llvm.fabs.{suffix(f64, lanes)}({wide} {t})") for t in (back, text)]
    over = printer.new(f"fcmp ogt {wide} {sizes[0]}, {sizes[1]}")
    inexact = printer.new(f"fcmp one {wide} {back}, {text}")
    code = bits.to_bits(near)
    even = bits.do("icmp eq", bits.do("and", code, 1), 0)
    move = printer.new(f"and {bits.mask} {even}, {inexact}")
    step = bits.select(over, -1, bits.number(1))
    return bits.to_float(bits.select(move, bits.do("add", code, step), code))
