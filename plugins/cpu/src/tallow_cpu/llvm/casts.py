"""Conversions between dtypes in LLVM; bfloat16 and the 8-bit floats are integers in registers."""

from __future__ import annotations

from tallow.dtype import DType, f32, i32
from tallow.errors import CompileError
from tallow_cpu.llvm.functions import intrinsic_suffix
from tallow_cpu.llvm.types import constant, register, vector

_HARDWARE = ("f16", "f32", "f64")


def emit(printer, text: str, source: DType, target: DType, lanes: int) -> str:
    """Emit the conversion of `text`; floats to integers truncate, saturate and send NaN to 0."""
    if source == target:
        return text
    if source.name == "bf16":
        return emit(printer, _from_bf16(printer, text, lanes), f32, target, lanes)
    if target.name == "bf16":
        return _to_bf16(printer, emit(printer, text, source, f32, lanes), lanes)
    for dtype in (source, target):
        if dtype.is_float and dtype.name not in _HARDWARE:
            raise CompileError(f"the CPU printer has no conversion between {source} and {target}")
    a, b = vector(register(source), lanes), vector(register(target), lanes)
    if target.kind == "bool":
        if source.is_float:
            return printer.new(f"fcmp une {a} {text}, {constant(0.0, source, lanes)}")
        return printer.new(f"icmp ne {a} {text}, {constant(0, source, lanes)}")
    if source.is_float and target.is_float:
        return printer.new(f"{'fpext' if source.bits < target.bits else 'fptrunc'} {a} {text} to {b}")
    if source.is_float:
        op = "fptosi" if target.kind == "int" else "fptoui"
        name = f"@llvm.{op}.sat.{intrinsic_suffix(target, lanes)}.{intrinsic_suffix(source, lanes)}"
        return printer.new(f"call {b} {name}({a} {text})")
    if target.is_float:
        op = "sitofp" if source.kind == "int" else "uitofp"
        return printer.new(f"{op} {a} {text} to {b}")
    if register(source) == register(target):
        return text
    wider = source.kind == "bool" or source.itemsize < target.itemsize
    op = "trunc" if not wider else "sext" if source.kind == "int" else "zext"
    return printer.new(f"{op} {a} {text} to {b}")


def _from_bf16(printer, text: str, lanes: int) -> str:
    wide = printer.new(f"zext {vector('i16', lanes)} {text} to {vector('i32', lanes)}")
    moved = printer.new(f"shl {vector('i32', lanes)} {wide}, {constant(16, i32, lanes)}")
    return printer.new(f"bitcast {vector('i32', lanes)} {moved} to {vector('float', lanes)}")


def _to_bf16(printer, text: str, lanes: int) -> str:
    """Round to nearest even; NaN stays NaN."""
    kind, mask = vector("i32", lanes), vector("i1", lanes)
    bits = printer.new(f"bitcast {vector('float', lanes)} {text} to {kind}")
    high = printer.new(f"lshr {kind} {bits}, {constant(16, i32, lanes)}")
    odd = printer.new(f"and {kind} {high}, {constant(1, i32, lanes)}")
    half = printer.new(f"add {kind} {odd}, {constant(0x7FFF, i32, lanes)}")
    rounded = printer.new(f"add {kind} {bits}, {half}")
    top = printer.new(f"lshr {kind} {rounded}, {constant(16, i32, lanes)}")
    quiet = printer.new(f"or {kind} {high}, {constant(0x40, i32, lanes)}")
    nan = printer.new(f"fcmp uno {vector('float', lanes)} {text}, {text}")
    chosen = printer.new(f"select {mask} {nan}, {kind} {quiet}, {kind} {top}")
    return printer.new(f"trunc {kind} {chosen} to {vector('i16', lanes)}")
