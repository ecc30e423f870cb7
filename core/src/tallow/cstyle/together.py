"""What neighbouring threads do together, and copies of several elements, as the dialects that can say it do."""

from __future__ import annotations

from typing import Protocol

from tallow.cstyle.dialects import Dialect
from tallow.dtype import DType, bf16, f16, f32
from tallow.errors import CompileError
from tallow.kernel.build import walk_stmts
from tallow.kernel.grammar import (
    Barrier,
    Copy,
    Exchange,
    Expr,
    Fragment,
    Kernel,
    LoadMatrix,
    Multiply,
    StoreMatrix,
    Var,
)

ALIGNMENT = 32  # bytes, of memory that is copied by more than an element or holds matrices
Together = Barrier | Copy | Exchange | LoadMatrix | Multiply | StoreMatrix
# What matrix units take by the operands' dtype: its name, rows x columns x depth, and 32-bit registers of an operand.
_UNITS = {f16: ("f16", (16, 16, 16), 8), bf16: ("bf16", (16, 16, 16), 4), f32: ("tf32", (16, 16, 8), 4)}
_SUM_REGISTERS = 8
# What so many bytes are copied as, and its zero.
_WORDS = {
    2: ("unsigned short", "(unsigned short)0"),
    4: ("unsigned int", "0u"),
    8: ("uint2", "uint2{}"),
    16: ("uint4", "uint4{}"),
}


class Printer(Protocol):
    """What is asked of the printer of a kernel."""

    kernel: Kernel
    dialect: Dialect
    names: dict[str, str]
    helpers: dict[str, str]

    def name(self, wanted: str) -> str: ...
    def type(self, dtype: DType) -> str: ...
    def element(self, dtype: DType) -> str: ...
    def value(self, e: Expr, index: bool = False) -> str: ...
    def helper(self, name: str, result: str, arguments: str, body: str) -> str: ...


def print_together(printer: Printer, s: Together) -> str:
    """A statement as a line of C; CompileError where the dialect has nothing for it."""
    d = printer.dialect
    if not d.neighbours:
        raise CompileError(
            f"kernel {printer.kernel.name}: {type(s).__name__} has no words in {d.name}; write the kernel for "
            "a target without sub-groups"
        )
    match s:
        case Barrier(threads):
            _neighbours(printer, threads)
            return d.barrier_of_neighbours
        case Exchange(var, value, distance):
            _neighbours(printer, 2 * distance)
            return _exchange(printer, var, value, distance)
        case Copy():
            return _copy(printer, s)
        case LoadMatrix(fragment, buffer, index, pitch):
            place = f"{printer.names[buffer.name]} + {printer.value(index, True)}"
            return f"load_matrix({printer.names[fragment.name]}, {place}, {pitch});"
        case StoreMatrix(buffer, index, pitch, fragment):
            place = f"{printer.names[buffer.name]} + {printer.value(index, True)}"
            return f"store_matrix({place}, {pitch}, {printer.names[fragment.name]});"
        case Multiply(total, left, right):
            _multiplication(printer, left, right)
            return f"multiply({', '.join(printer.names[f.name] for f in (total, left, right))});"


def declare_fragment(printer: Printer, fragment: Fragment) -> str:
    """The declaration of a fragment, whose type and functions become helpers of the kernel."""
    if not printer.dialect.neighbours:
        raise CompileError(
            f"kernel {printer.kernel.name}: no matrix units in {printer.dialect.name}; write the kernel for a "
            "target without"
        )
    _neighbours(printer, fragment.threads, exactly=True)
    if fragment.role == "sum":
        return f"{_define_sum(printer, fragment)} {printer.name(fragment.name)} = {{}};"
    return f"{_define_operand(printer, fragment)} {printer.name(fragment.name)};"


def _neighbours(printer: Printer, threads: int, exactly: bool = False) -> None:
    most = printer.dialect.neighbours
    if threads > most or (exactly and threads != most):
        raise CompileError(
            f"kernel {printer.kernel.name}: expected {'' if exactly else 'at most '}{most} threads that work "
            f"together in {printer.dialect.name}, got {threads}"
        )


def _exchange(printer: Printer, var: Var, value: Expr, distance: int) -> str:
    text = printer.dialect.exchange.format(value=printer.value(value), distance=distance)
    kind = printer.type(var.dtype)
    return f"const {kind} {printer.name(var.name)} = ({kind}){text};"


def _copy(printer: Printer, s: Copy) -> str:
    size = s.count * s.buffer.dtype.itemsize
    if size not in _WORDS:
        raise CompileError(f"kernel {printer.kernel.name}: expected a copy of 2 to 16 bytes, got {size}")
    word, zero = _WORDS[size]
    to, source = (
        f"{printer.names[buffer.name]} + {printer.value(at, True)}"
        for buffer, at in ((s.buffer, s.index), (s.source, s.start))
    )
    taken = f"*(const {word} *)({source})"
    if s.mask is not None:
        taken = f"{printer.value(s.mask)} ? {taken} : {zero}"
    return f"*({word} *)({to}) = {taken};"


# Matrices ----------------------------------------------------------------------------------------------


def _kind(fragment: Fragment) -> str:
    """The name of an operand's type."""
    name, _, _ = _UNITS[fragment.dtype]
    return f"matrix_{fragment.role}_{name}_{_layout(fragment)}"


def _layout(fragment: Fragment) -> str:
    return "col" if fragment.turned else "row"


def _sum_kind(shape: tuple[int, int, int]) -> str:
    """The name of the type of sums of products of a shape, in which alone they may be stored."""
    return f"matrix_sum_{_shape(shape)}"


def _shape(shape: tuple[int, int, int]) -> str:
    return "m{}n{}k{}".format(*shape)


def _registers(name: str, first: int, count: int) -> tuple[str, list[str]]:
    """Operands of an instruction from number `first` on, and what they stand for."""
    numbers = ", ".join(f"%{first + n}" for n in range(count))
    return f"{{{numbers}}}", [f"{name}.x[{n}]" for n in range(count)]


def _bound(constraint: str, names: list[str]) -> str:
    return ", ".join(f'"{constraint}"({name})' for name in names)


def _define(printer: Printer, kind: str, word: str, count: int) -> None:
    printer.helpers.setdefault(kind, f"struct {kind} {{ {word} x[{count}]; }};")


def _define_operand(printer: Printer, fragment: Fragment) -> str:
    """The type of a left or right operand, with the function that loads one from shared memory."""
    name, (rows, columns, depth), count = _UNITS[fragment.dtype]
    expected = (rows, depth) if fragment.role == "left" else (depth, columns)
    _check(printer, fragment, expected)
    kind = _kind(fragment)
    _define(printer, kind, "unsigned int", count)
    taken, names = _registers("f", 0, count)
    side = "a" if fragment.role == "left" else "b"
    shape = _shape((rows, columns, depth))
    text = f"wmma.load.{side}.sync.aligned.{_layout(fragment)}.{shape}.shared.{name} {taken}, [%{count}], %{count + 1};"
    place = '"r"((unsigned int)__cvta_generic_to_shared(p)), "r"(pitch)'
    body = f'asm volatile("{text}" : {_bound("=r", names)} : {place} : "memory");'
    if name == "tf32":  # rounded, as the units would otherwise cut numbers off
        body += "".join(
            f' asm("cvt.rna.tf32.f32 %0, %1;" : "=r"({n}) : "f"(__uint_as_float({n})));' for n in names
        )
    element = printer.element(fragment.dtype)
    text = f"{printer.dialect.helper} void load_matrix({kind} &f, const {element} *p, int pitch) {{ {body} }}"
    printer.helpers.setdefault(f"load {kind}", text)
    return kind


def _define_sum(printer: Printer, fragment: Fragment) -> str:
    """The type of a sum, with the function that stores one in shared memory."""
    _check(printer, fragment, (16, 16))
    shape = _shape_of_sum(printer, fragment)
    kind = _sum_kind(shape)
    _define(printer, kind, "float", _SUM_REGISTERS)
    given, names = _registers("f", 2, _SUM_REGISTERS)
    text = f"wmma.store.d.sync.aligned.row.{_shape(shape)}.shared.f32 [%0], {given}, %1;"
    place = '"r"((unsigned int)__cvta_generic_to_shared(p)), "r"(pitch)'
    body = f'asm volatile("{text}" : : {place}, {_bound("f", names)} : "memory");'
    text = f"{printer.dialect.helper} void store_matrix(float *p, int pitch, const {kind} &f) {{ {body} }}"
    printer.helpers.setdefault(f"store {kind}", text)
    return kind


def _shape_of_sum(printer: Printer, fragment: Fragment) -> tuple[int, int, int]:
    """The shape of the products that a sum is of."""
    products = (s for s in walk_stmts(printer.kernel.body) if isinstance(s, Multiply))
    shapes = {_UNITS[s.left.dtype][1] for s in products if s.total == fragment}
    if len(shapes) > 1:
        raise CompileError(
            f"kernel {printer.kernel.name}: {fragment.name}: expected products of one shape in a sum, got "
            f"{' and '.join(sorted(map(_shape, shapes)))}; add up two sums"
        )
    return shapes.pop() if shapes else _UNITS[f16][1]


def _multiplication(printer: Printer, left: Fragment, right: Fragment) -> None:
    """The function that multiplies two kinds of fragments."""
    name, shape, count = _UNITS[left.dtype]
    total, sums = _registers("c", 0, _SUM_REGISTERS)
    first, a = _registers("a", _SUM_REGISTERS, count)
    second, b = _registers("b", _SUM_REGISTERS + count, count)
    types = "f32.f32" if name == "f16" else f"f32.{name}.{name}.f32"
    layouts = f"{_layout(left)}.{_layout(right)}"
    text = f"wmma.mma.sync.aligned.{layouts}.{_shape(shape)}.{types} {total}, {first}, {second}, {total};"
    body = f'asm volatile("{text}" : {_bound("+f", sums)} : {_bound("r", [*a, *b])});'
    kinds = f"{_sum_kind(shape)} &c, const {_kind(left)} &a, const {_kind(right)} &b"
    text = f"{printer.dialect.helper} void multiply({kinds}) {{ {body} }}"
    printer.helpers.setdefault(f"multiply {_kind(left)} {_kind(right)}", text)


def _check(printer: Printer, fragment: Fragment, expected: tuple[int, int]) -> None:
    if (fragment.rows, fragment.columns) != expected:
        raise CompileError(
            f"kernel {printer.kernel.name}: {fragment.name}: expected {expected[0]} x {expected[1]} elements "
            f"of {fragment.dtype}, as the matrix units take, got {fragment.rows} x {fragment.columns}"
        )
