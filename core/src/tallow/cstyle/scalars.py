"""Statements and scalar expressions as C: f16 and bf16 live in memory only, their values are floats."""

from __future__ import annotations

import math
import re

import numpy as np

from tallow.cstyle.dialects import Dialect
from tallow.cstyle.functions import (
    BODIES,
    FLOAT_OPERATORS,
    INDEX_OPERATORS,
    LOGICAL_OPERATORS,
    OPERATORS,
)
from tallow.cstyle.together import ALIGNMENT, declare_fragment, print_together
from tallow.dtype import DType, bf16, f16, f32, f64, i64, u32
from tallow.errors import CompileError
from tallow.kernel.build import walk_stmts
from tallow.kernel.grammar import (
    Alias,
    Alloc,
    Barrier,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Const,
    Copy,
    Exchange,
    Expr,
    For,
    Fragment,
    If,
    Kernel,
    Let,
    Load,
    LoadMatrix,
    Multiply,
    Prefetch,
    SourceKernel,
    Stmt,
    Store,
    StoreMatrix,
    Update,
    Var,
)
from tallow.kernel.text import print_expr
from tallow.kernel.updates import combine

NARROW = {f16, bf16}
_BF16_READ = "return bits_u32_f32((U)p[i] << 16);"
_BF16_BITS = "U b = bits_f32_u32(x); return x != x ? 0x7fc0 : (H)((b + 0x7fff + (b >> 16 & 1)) >> 16);"


def group_size(kernel: Kernel | SourceKernel) -> int | None:
    """Threads that a work-group must have, or None where any number will do (no `group` loop).

    With a size, one work-group runs one iteration of the grid; else one thread does.
    """
    if isinstance(kernel, SourceKernel):
        return None
    sizes = {
        (s.start, s.stop, s.step) for s in walk_stmts(kernel.body) if isinstance(s, For) and s.kind == "group"
    }
    if not sizes:
        return None
    start, stop, step = next(iter(sizes))
    if len(sizes) > 1 or start != Const(0) or step != 1 or not isinstance(stop, Const):
        raise CompileError(f"kernel {kernel.name}: expected group loops over one constant range from 0")
    return stop.value


class ScalarPrinter:
    """One kernel while it is printed; `vector` loops are plain loops."""

    def __init__(self, kernel: Kernel, dialect: Dialect):
        self.kernel, self.dialect = kernel, dialect
        self.group = group_size(kernel)
        self.helpers: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.taken: set[str] = set()
        self.shared: list[str] = []
        self.in_group = False
        wide = any(isinstance(s, (Copy, LoadMatrix, StoreMatrix)) for s in walk_stmts(kernel.body))
        self.aligned = f"{dialect.aligned.format(size=ALIGNMENT)} " if wide else ""

    def source(self) -> str:
        d = self.dialect
        parameters = []
        for b in self.kernel.parameters:
            const = "" if b.writable else "const "
            parameters.append(
                d.parameter.format(const=const, type=self.element(b.dtype), name=self.name(b.name))
            )
        parameters += [f"{self.type(i64)} {self.name(s.name)}" for s in self.kernel.sizes]
        body = self.block(self.kernel.body, 1)
        attribute = "" if self.group is None else f" {d.work_group.format(size=self.group)}"
        head = f"{d.kernel}{attribute} {self.name(self.kernel.name)}({', '.join(parameters)})"
        parts = [d.prelude, *self.helpers.values(), f"{head} {{", *self.shared, *body, "}"]
        return "\n".join(parts) + "\n"

    # Names and types ---------------------------------------------------------------------------

    def name(self, wanted: str) -> str:
        """A fresh C name for a new variable or buffer, remembered until the end of its scope."""
        base = re.sub(r"\W", "_", wanted) + "_"
        fresh, number = base, 1
        while fresh in self.taken:
            number += 1
            fresh = f"{base}{number}"
        self.taken.add(fresh)
        self.names[wanted] = fresh
        return fresh

    def type(self, dtype: DType) -> str:
        """The C type of a value."""
        if dtype in NARROW:
            return "float"
        found = self.dialect.types.get(dtype.name)
        if found is None:
            raise CompileError(
                f"kernel {self.kernel.name}: no {dtype} in {self.dialect.name}; cast to a wider dtype on the host"
            )
        return found

    def element(self, dtype: DType) -> str:
        """The C type of an element in memory."""
        if dtype == f16:
            return self.dialect.half
        return self.dialect.types["u16"] if dtype == bf16 else self.type(dtype)

    def array(self, buffer: Buffer, before: str = "", after: str = "") -> str:
        """The declaration of a kernel's own memory."""
        kind, name, d = self.element(buffer.dtype), self.name(buffer.name), self.dialect
        if buffer.dtype != f16 or not d.half_array:
            return f"{before}{self.aligned}{kind} {name}[{buffer.size}]{after};"
        pointer = f"{before}{kind} *"
        return (
            f"{before}{d.half_array} {name}raw[{buffer.size}]{after}; {pointer}{name} = ({pointer}){name}raw;"
        )

    def unsigned(self, dtype: DType) -> str:
        return self.dialect.types["u64" if dtype.bits == 64 else "u32"]

    def helper(self, name: str, result: str, arguments: str, body: str) -> str:
        """Define a helper function once; its name."""
        self.helpers.setdefault(name, f"{self.dialect.helper} {result} {name}({arguments}) {{ {body} }}")
        return name

    # Statements --------------------------------------------------------------------------------

    def block(self, body: tuple[Stmt, ...], depth: int) -> list[str]:
        saved = dict(self.names)
        lines = [line for s in body for line in self.statement(s, depth)]
        self.names = saved
        return lines

    def statement(self, s: Stmt, depth: int) -> list[str]:
        pad = "  " * depth
        match s:
            case Let(var, value):
                text = self.value(value)
                return [f"{pad}const {self.type(var.dtype)} {self.name(var.name)} = {text};"]
            case Alloc(Fragment()):
                return [pad + declare_fragment(self, s.buffer)]
            case Alloc(buffer):
                if buffer.space != "shared":
                    return [pad + self.array(buffer)]
                self.shared.append("  " + self.array(buffer, f"{self.dialect.shared} "))
                return []
            case Alias(buffer, of):
                shared = buffer.space == "shared" and len(self.dialect.memory) > 1
                space = f"{self.dialect.shared} " if shared else ""
                kind, other = f"{space}{self.element(buffer.dtype)} *", self.names[of.name]
                return [f"{pad}{kind}{self.name(buffer.name)} = ({kind}){other};"]
            case Store() | Update():
                return [pad + self.guarded(self.written(s))]
            case For():
                return self.loop(s, depth)
            case If(condition, then, otherwise):
                lines = [f"{pad}if ({self.value(condition)}) {{", *self.block(then, depth + 1)]
                if otherwise:
                    lines += [f"{pad}}} else {{", *self.block(otherwise, depth + 1)]
                return [*lines, f"{pad}}}"]
            case Prefetch():
                return []
            case Barrier(0):
                return [pad + self.dialect.barrier]
            case Barrier() | Copy() | Exchange() | LoadMatrix() | Multiply() | StoreMatrix():
                return [pad + print_together(self, s)]
        raise CompileError(f"kernel {self.kernel.name}: no C for {type(s).__name__}")

    def guarded(self, text: str) -> str:
        """Outside group loops, one thread of the work-group writes."""
        if self.group is None or self.in_group:
            return text
        return f"if ({self.dialect.local} == 0) {text}"

    def written(self, s: Store | Update) -> str:
        value, mask = s.value, None
        if isinstance(s, Update):
            value = combine(s.op, Load(s.buffer, s.index), s.value, 1, s.buffer.dtype)
        else:
            mask = s.mask
        place, text = self.names[s.buffer.name], self.value(value)
        index = self.value(s.index, True)
        if s.buffer.dtype in NARROW:
            line = f"{self.narrow_access(s.buffer, 'write')}({place}, {index}, {text});"
        else:
            line = f"{place}[{index}] = {text};"
        return line if mask is None else f"if ({self.value(mask)}) {line}"

    def loop(self, s: For, depth: int) -> list[str]:
        pad, d, integer = "  " * depth, self.dialect, self.type(i64)
        start, stop = self.value(s.start, True), self.value(s.stop, True)
        saved = dict(self.names)
        name = self.name(s.var.name)
        if s.kind == "grid":
            thread = d.everyone if self.group is None else d.group
            lines = [
                f"{pad}const {integer} {name} = {start} + ({integer}){thread} * {s.step};",
                f"{pad}if ({name} < {stop}) {{",
            ]
        elif s.kind == "group":
            lines = [f"{pad}{{", f"{pad}  const {integer} {name} = {d.local};"]
        else:
            lines = [f"{pad}for ({integer} {name} = {start}; {name} < {stop}; {name} += {s.step}) {{"]
        outside, self.in_group = self.in_group, self.in_group or s.kind == "group"
        lines += self.block(s.body, depth + 1)
        self.in_group = outside
        self.names = saved
        return [*lines, f"{pad}}}"]

    # Expressions -------------------------------------------------------------------------------

    def value(self, e: Expr, index: bool = False) -> str:
        """An expression; as an index or bound it cannot overflow, and is written with operators."""
        if e.lanes != 1:
            raise CompileError(
                f"kernel {self.kernel.name}: expected scalars, got {e.lanes} lanes in {print_expr(e)}; "
                "print kernels that are not vectorised"
            )
        match e:
            case Const(value, dtype):
                return self.constant(value, dtype)
            case Var(name):
                return self.names[name]
            case Load(buffer, at, _, mask):
                text = self.load(buffer, at)
                return text if mask is None else f"({self.value(mask)} ? {text} : ({self.type(e.dtype)})0)"
            case Call(function, arguments):
                return self.call(function, arguments, index)
            case Cast(value, dtype):
                return self.cast(value, dtype, index)
            case Bitcast(value, dtype):
                return f"{self.bits(value.dtype, dtype)}({self.value(value)})"
        raise CompileError(f"kernel {self.kernel.name}: no C for {type(e).__name__}")

    def constant(self, value, dtype: DType) -> str:
        if dtype.is_float:
            return self.float_constant(float(np.asarray(value).astype(dtype.numpy)), dtype)
        value, suffix = int(value), {"i64": self.dialect.long_suffix, "u32": "u"}.get(dtype.name, "")
        if dtype.name == "u64":
            suffix = f"u{self.dialect.long_suffix}"
        if value == -(2 ** (dtype.bits - 1)) and dtype.bits >= 32:
            return f"({value + 1}{suffix} - 1)"
        return f"({value}{suffix})" if value < 0 else f"{value}{suffix}"

    def float_constant(self, value: float, dtype: DType) -> str:
        kind = self.type(dtype)
        if math.isnan(value):
            return f"(({kind}){self.dialect.infinity} * ({kind})0)"
        if math.isinf(value):
            return f"({'-' if value < 0 else ''}({kind}){self.dialect.infinity})"
        text = repr(value) if dtype == f64 else f"{np.float32(value)!s}f"
        return f"({text})" if text.startswith("-") else text

    def load(self, buffer: Buffer, at: Expr) -> str:
        place, index = self.names[buffer.name], self.value(at, True)
        if buffer.dtype in NARROW:
            return f"{self.narrow_access(buffer, 'read')}({place}, {index})"
        return f"{place}[{index}]"

    def call(self, function: str, arguments: tuple[Expr, ...], index: bool) -> str:
        return self.apply(function, arguments[-1].dtype, [self.value(a, index) for a in arguments], index)

    def apply(self, function: str, dtype: DType, texts: list[str], index: bool = False) -> str:
        """A scalar function of operands that are text."""
        if function == "select":
            return f"({texts[0]} ? {texts[1]} : {texts[2]})"
        operators = {"float": FLOAT_OPERATORS, "bool": LOGICAL_OPERATORS}.get(dtype.kind, OPERATORS)
        operators = INDEX_OPERATORS if index and dtype == i64 else operators
        if function in operators:
            return f"({texts[0]} {operators[function]} {texts[1]})"
        body = BODIES[dtype.kind].get(function)
        if body is None:
            raise CompileError(f"kernel {self.kernel.name}: no {function} of {dtype} in {self.dialect.name}")
        kind = self.type(dtype)
        body = body.format(bits=dtype.bits, infinity=self.dialect.infinity)
        body = re.sub(r"\bU\b", self.unsigned(dtype), re.sub(r"\bT\b", kind, body))
        result = "int" if function in ("isnan", "isinf", "not") else kind
        named = ", ".join(f"{kind} {letter}" for letter in "abc"[: len(texts)])
        return f"{self.helper(f'{function}_{dtype}', result, named, f'return {body};')}({', '.join(texts)})"

    def cast(self, value: Expr, to: DType, index: bool) -> str:
        return self.convert(self.value(value, index), value.dtype, to)

    def convert(self, text: str, source: DType, to: DType) -> str:
        """A number that is text as another dtype."""
        if to == source or (to in (f32, f64) and source in NARROW):
            return text if to != f64 else f"((double){text})"
        if to.kind == "bool":
            return f"({text} != 0)"
        if to in NARROW:
            return f"{self.narrow_round(to, source)}({text})"
        kind = self.type(to)
        if source.is_float and to.is_integer:
            low, high = np.iinfo(to.numpy).min, np.iinfo(to.numpy).max
            wide = f64 if source == f64 else f32
            bounds = [self.float_constant(float(wide.numpy.type(edge)), wide) for edge in (low, high)]
            limits = [self.constant(edge, to) for edge in (low, high)]
            body = f"x != x ? ({kind})0 : x <= {bounds[0]} ? ({kind}){limits[0]} : "
            body += f"x >= {bounds[1]} ? ({kind}){limits[1]} : ({kind})x"
            name = self.helper(f"{wide}_to_{to}", kind, f"{self.type(wide)} x", f"return {body};")
            return f"{name}({text})"
        return f"(({kind}){text})"

    # Bits and narrow floats --------------------------------------------------------------------

    def bits(self, source: DType, to: DType) -> str:
        if source in NARROW or to in NARROW:
            raise CompileError(f"kernel {self.kernel.name}: no bits of {source} as {to}; read it as integers")
        one, other = self.type(source), self.type(to)
        body = f"union {{ {one} a; {other} b; }} u; u.a = x; return u.b;"
        return self.helper(f"bits_{source}_{to}", other, f"{one} x", body)

    def narrow_body(self, text: str) -> str:
        types = self.dialect.types
        return re.sub(r"\bH\b", types["u16"], re.sub(r"\bU\b", types["u32"], text))

    def bf16_bits(self) -> str:
        self.bits(f32, u32)
        return self.helper("bits_of_bf16", self.dialect.types["u16"], "float x", self.narrow_body(_BF16_BITS))

    def narrow_round(self, to: DType, source: DType) -> str:
        """The function that rounds a number to a narrow float, kept in a float."""
        if to == bf16:
            place = f"{self.bits(u32, f32)}(({self.dialect.types['u32']}){self.bf16_bits()}(x) << 16)"
            return self.helper("round_bf16", "float", "float x", f"return {place};")
        wide = f64 if source == f64 else f32
        return self.helper(f"round_f16_{wide}", "float", f"{self.type(wide)} x", self.dialect.half_round)

    def space(self, buffer: Buffer) -> str:
        """The address space of a buffer's memory, to go before a pointer's type."""
        memory = self.dialect.memory
        spaces = {"global": memory[0], "shared": memory[min(1, len(memory) - 1)]}
        return spaces.get(buffer.space, memory[-1])

    def narrow_access(self, buffer: Buffer, what: str) -> str:
        """The function that reads or writes narrow floats in the buffer's memory."""
        d, dtype, space = self.dialect, buffer.dtype, self.space(buffer)
        if dtype == bf16:
            read = self.narrow_body(_BF16_READ)
            write = f"p[i] = {self.bf16_bits()}(x);"
            self.bits(u32, f32)
        else:
            read, write = d.half_read, d.half_write
        name = f"{what}_{dtype}_{space.strip('_ ') or 'private'}"
        element, integer = self.element(dtype), self.type(i64)
        if what == "read":
            return self.helper(name, "float", f"{space}const {element} *p, {integer} i", read)
        return self.helper(name, "void", f"{space}{element} *p, {integer} i, float x", write)
