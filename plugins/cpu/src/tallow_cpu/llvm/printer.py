"""Printer from the kernel language to LLVM IR text.

Each kernel becomes `void NAME(ptr buffers, ptr sizes, i64 begin, i64 end)`, which runs iterations
begin to end of the grid loop. Parameters never overlap: the memory plan keeps what a step reads apart
from what it writes, so they are `noalias`.
"""

from __future__ import annotations

from tallow.dtype import DType, bool_
from tallow.errors import CompileError
from tallow.kernel.build import const
from tallow.kernel.grammar import (
    Alias,
    Alloc,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Prefetch,
    Ramp,
    Reduce,
    Splat,
    Stmt,
    Store,
    Update,
    Var,
)
from tallow.kernel.updates import combine
from tallow_cpu.llvm import casts, functions
from tallow_cpu.llvm.shuffles import known_lanes
from tallow_cpu.llvm.types import constant, memory, register, suffix, vector


def print_kernel(kernel: Kernel, name: str, abilities: frozenset[str]) -> str:
    """The definitions of one kernel; only intrinsics whose types LLVM has changed are declared.

    abilities: what the processor does in one instruction, see `targets.abilities`.
    """
    return _Printer(kernel, name, abilities).text()


class _Printer:
    def __init__(self, kernel: Kernel, name: str, abilities: frozenset[str]):
        self.kernel, self.name, self.abilities = kernel, name, abilities
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.count = 0
        self.block = "start"
        self.pointers: dict[Buffer, str] = {}
        self.values: dict[str, str] = {}
        self.declared: dict[str, None] = {}

    # Text ------------------------------------------------------------------------------------------

    def text(self) -> str:
        kernel = self.kernel
        parameters = [f"ptr noalias %b{i}" for i in range(len(kernel.parameters))]
        parameters += [f"i64 %s{i}" for i in range(len(kernel.sizes))]
        for i, buffer in enumerate(kernel.parameters):
            self.pointers[buffer] = f"%b{i}"
        for i, size in enumerate(kernel.sizes):
            self.values[size.name] = f"%s{i}"
        self.statements(kernel.body)
        signature = ", ".join([*parameters, "i64 %begin", "i64 %end"])
        body = "\n".join(["entry:", *self.entry, " br label %start", "start:", *self.lines, " ret void"])
        head = "".join(f"declare {line}\n" for line in self.declared)
        return (
            f"{head}{self._outer()}\ndefine internal void @{self.name}.body({signature}) #0 {{\n{body}\n}}\n"
        )

    def _outer(self) -> str:
        lines, arguments = [], []
        for i in range(len(self.kernel.parameters)):
            lines.append(f" %p{i} = getelementptr ptr, ptr %buffers, i64 {i}\n %b{i} = load ptr, ptr %p{i}")
            arguments.append(f"ptr %b{i}")
        for i in range(len(self.kernel.sizes)):
            lines.append(f" %q{i} = getelementptr i64, ptr %sizes, i64 {i}\n %s{i} = load i64, ptr %q{i}")
            arguments.append(f"i64 %s{i}")
        call = f" call void @{self.name}.body({', '.join([*arguments, 'i64 %begin', 'i64 %end'])})"
        head = f"define void @{self.name}(ptr %buffers, ptr %sizes, i64 %begin, i64 %end) #0 {{\n"
        return head + "\n".join([*lines, call, " ret void\n}"])

    def new(self, text: str) -> str:
        """Append an instruction; the name of its result."""
        self.count += 1
        name = f"%t{self.count}"
        self.lines.append(f" {name} = {text}")
        return name

    def label(self, hint: str) -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def start_block(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    # Statements ------------------------------------------------------------------------------------

    def statements(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            self.statement(s)

    def statement(self, s: Stmt) -> None:
        match s:
            case Let(var, value):
                self.values[var.name] = self.expression(value)
            case Alloc(buffer):
                self.alloc(buffer)
            case Alias(buffer, of):
                self.pointers[buffer] = self.pointers[of]
            case Store(buffer, index, value, mask):
                self.store(buffer, index, value, mask)
            case Update(buffer, index, op, value):
                lanes = value.lanes
                self.store(
                    buffer, index, combine(op, Load(buffer, index, lanes), value, lanes, buffer.dtype), None
                )
            case For():
                self.loop(s)
            case If(condition, then, otherwise):
                self.branch(condition, then, otherwise)
            case Prefetch(buffer, index, write):
                where = f"ptr {self.address(buffer, index, 'getelementptr')}"
                self.lines.append(f" call void @llvm.prefetch.p0({where}, i32 {int(write)}, i32 3, i32 1)")
            case _:
                what = type(s).__name__.lower()
                raise CompileError(f"kernel {self.kernel.name}: the CPU has no work-groups, so no {what}")

    def alloc(self, buffer: Buffer) -> None:
        if buffer.space == "shared":
            raise CompileError(
                f"kernel {self.kernel.name}: buffer {buffer.name} is shared; the CPU has no work-groups"
            )
        self.count += 1
        name = f"%m{self.count}"
        self.entry.append(f" {name} = alloca [{buffer.size} x {memory(buffer.dtype)}], align 64")
        self.pointers[buffer] = name

    def loop(self, s: For) -> None:
        if s.kind == "grid":
            start, stop = "%begin", "%end"
        else:
            start, stop = self.expression(s.start), self.expression(s.stop)
        before = self.block
        head, inner, after = self.label("head"), self.label("body"), self.label("after")
        self.count += 1
        var, following = f"%i{self.count}", f"%n{self.count}"
        self.lines.append(f" br label %{head}")
        self.start_block(head)
        phi = len(self.lines)
        self.lines.append("")
        test = self.new(f"icmp slt i64 {var}, {stop}")
        self.lines.append(f" br i1 {test}, label %{inner}, label %{after}")
        self.start_block(inner)
        self.values[s.var.name] = var
        self.statements(s.body)
        self.lines.append(f" {following} = add nsw i64 {var}, {s.step}")
        self.lines.append(f" br label %{head}")
        self.lines[phi] = f" {var} = phi i64 [ {start}, %{before} ], [ {following}, %{self.block} ]"
        self.start_block(after)

    def branch(self, condition: Expr, then: tuple[Stmt, ...], otherwise: tuple[Stmt, ...]) -> None:
        test = self.expression(condition)
        yes, no, after = self.label("then"), self.label("else"), self.label("after")
        self.lines.append(f" br i1 {test}, label %{yes}, label %{no}")
        for label, body in ((yes, then), (no, otherwise)):
            self.start_block(label)
            self.statements(body)
            self.lines.append(f" br label %{after}")
        self.start_block(after)

    # Memory ----------------------------------------------------------------------------------------

    def address(self, buffer: Buffer, index: Expr, how: str = "getelementptr inbounds") -> str:
        if buffer not in self.pointers:
            raise CompileError(
                f"kernel {self.kernel.name}: buffer {buffer.name} is neither a parameter nor allocated"
            )
        at = self.expression(index)
        element = memory(buffer.dtype)
        return self.new(f"{how} {element}, ptr {self.pointers[buffer]}, {vector('i64', index.lanes)} {at}")

    def store(self, buffer: Buffer, index: Expr, value: Expr, mask: Expr | None) -> None:
        text = self.to_memory(self.expression(value), buffer.dtype, value.lanes)
        kind = vector(memory(buffer.dtype), value.lanes)
        align = self.alignment(buffer, value.lanes)
        if index.lanes > 1:
            address = self.address(buffer, index)
            guard = self.mask_text(mask, index.lanes)
            pointers = vector("ptr", index.lanes)
            name = f"@llvm.masked.scatter.v{index.lanes}{suffix(buffer.dtype, 1, memory(buffer.dtype))}.v{index.lanes}p0"
            self.lines.append(
                f" call void {name}({kind} {text}, {pointers} {address}, i32 {buffer.dtype.itemsize}, {guard})"
            )
        elif mask is None:
            self.lines.append(f" store {kind} {text}, ptr {self.address(buffer, index)}, align {align}")
        elif value.lanes > 1:
            guard = self.mask_text(mask, value.lanes)
            if buffer.dtype.itemsize < 4:
                guard = self.unforeseen(guard, value.lanes)
            name = f"@llvm.masked.store.v{value.lanes}{suffix(buffer.dtype, 1, memory(buffer.dtype))}.p0"
            address = self.address(buffer, index)
            self.lines.append(f" call void {name}({kind} {text}, ptr {address}, i32 {align}, {guard})")
        else:
            yes, after = self.label("store"), self.label("after")
            self.lines.append(f" br i1 {self.expression(mask)}, label %{yes}, label %{after}")
            self.start_block(yes)
            self.lines.append(f" store {kind} {text}, ptr {self.address(buffer, index)}, align {align}")
            self.lines.append(f" br label %{after}")
            self.start_block(after)

    def unforeseen(self, guard: str, lanes: int) -> str:
        """The same mask, which LLVM cannot compute: the store of one lane of narrowed elements that it knows
        would be one of a whole 32-bit element, and write beyond (seen in LLVM 22 for AVX-512)."""
        kind = vector("i1", lanes)
        started = self.new("icmp sge i64 %begin, 0")  # iterations are not negative, which only callers know
        one = self.new(f"insertelement {kind} poison, i1 {started}, i32 0")
        every = self.new(f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer")
        return f"{kind} {self.new(f'and {guard}, {every}')}"

    def load(self, e: Load) -> str:
        buffer, lanes = e.buffer, max(e.lanes, e.index.lanes)
        kind = vector(memory(buffer.dtype), lanes)
        align = self.alignment(buffer, lanes)
        zero = "zeroinitializer" if lanes > 1 else _zero(buffer.dtype)
        if e.index.lanes > 1 and e.mask is None and buffer.space == "register":
            places = known_lanes(e.index)
            if places is not None:
                return self.from_memory(self.shuffle(buffer, places), buffer.dtype, lanes)
        if e.index.lanes > 1:
            address = self.address(buffer, e.index)
            guard = self.mask_text(e.mask, lanes)
            name = f"@llvm.masked.gather.v{lanes}{suffix(buffer.dtype, 1, memory(buffer.dtype))}.v{lanes}p0"
            pointers = vector("ptr", lanes)
            text = self.new(
                f"call {kind} {name}({pointers} {address}, i32 {buffer.dtype.itemsize}, {guard}, {kind} {zero})"
            )
        elif e.mask is None:
            text = self.new(f"load {kind}, ptr {self.address(buffer, e.index)}, align {align}")
        elif lanes > 1:
            address = self.address(buffer, e.index)
            guard = self.mask_text(e.mask, lanes)
            name = f"@llvm.masked.load.v{lanes}{suffix(buffer.dtype, 1, memory(buffer.dtype))}.p0"
            text = self.new(f"call {kind} {name}(ptr {address}, i32 {align}, {guard}, {kind} {zero})")
        else:
            text = self.guarded_load(e, kind, align, zero)
        return self.from_memory(text, buffer.dtype, lanes)

    def shuffle(self, buffer: Buffer, places: list[int]) -> str:
        """Elements at known places of a buffer that is one vector, or few, in registers."""
        kind = vector(memory(buffer.dtype), buffer.size)
        whole = self.new(
            f"load {kind}, ptr {self.address(buffer, const(0))}, align {self.alignment(buffer, 1)}"
        )
        numbers = ", ".join(f"i32 {p}" for p in places)
        return self.new(f"shufflevector {kind} {whole}, {kind} poison, <{len(places)} x i32> <{numbers}>")

    def guarded_load(self, e: Load, kind: str, align: int, zero: str) -> str:
        test = self.expression(e.mask)
        before = self.block
        yes, after = self.label("load"), self.label("after")
        self.lines.append(f" br i1 {test}, label %{yes}, label %{after}")
        self.start_block(yes)
        loaded = self.new(f"load {kind}, ptr {self.address(e.buffer, e.index)}, align {align}")
        last = self.block
        self.lines.append(f" br label %{after}")
        self.start_block(after)
        return self.new(f"phi {kind} [ {loaded}, %{last} ], [ {zero}, %{before} ]")

    def alignment(self, buffer: Buffer, lanes: int) -> int:
        """What is certain: own buffers are aligned to 64 bytes only at index 0."""
        return buffer.dtype.itemsize

    def mask_text(self, mask: Expr | None, lanes: int) -> str:
        kind = vector("i1", lanes)
        if mask is None:
            return f"{kind} {constant(True, bool_, lanes)}"
        text = self.expression(mask if mask.lanes == lanes else Splat(mask, lanes))
        return f"{kind} {text}"

    def from_memory(self, text: str, dtype: DType, lanes: int) -> str:
        if dtype.kind != "bool":
            return casts.wrap(self, text, dtype, lanes)
        return self.new(f"icmp ne {vector('i8', lanes)} {text}, {'zeroinitializer' if lanes > 1 else 0}")

    def to_memory(self, text: str, dtype: DType, lanes: int) -> str:
        if dtype.kind == "int" and dtype.bits < 8:
            return self.new(
                f"and {vector('i8', lanes)} {text}, {constant((1 << dtype.bits) - 1, dtype, lanes)}"
            )
        if dtype.kind != "bool":
            return text
        return self.new(f"zext {vector('i1', lanes)} {text} to {vector('i8', lanes)}")

    # Expressions -----------------------------------------------------------------------------------

    def expression(self, e: Expr) -> str:
        """Emit what computes `e`; the text of its value."""
        match e:
            case Const(value, dtype, lanes):
                return constant(value, dtype, lanes)
            case Var(name):
                if name not in self.values:
                    raise CompileError(
                        f"kernel {self.kernel.name}: variable {name} is read before it is bound"
                    )
                return self.values[name]
            case Ramp(lanes):
                return "<" + ", ".join(f"i64 {i}" for i in range(lanes)) + ">"
            case Splat(value, lanes):
                return self.splat(self.expression(value), value.dtype, lanes)
            case Load():
                return self.load(e)
            case Call(function, arguments, dtype):
                texts = [self.expression(a) for a in arguments]
                return functions.emit(self, function, texts, arguments, dtype)
            case Cast(value, dtype):
                return casts.emit(self, self.expression(value), value.dtype, dtype, value.lanes)
            case Bitcast(value, dtype):
                source, target = register(value.dtype), register(dtype)
                text = self.expression(value)
                if source == target:
                    return text
                return self.new(f"bitcast {vector(source, e.lanes)} {text} to {vector(target, e.lanes)}")
            case Reduce(op, value):
                return self.reduce(op, self.expression(value), value.dtype, value.lanes)
        raise CompileError(f"kernel {self.kernel.name}: no LLVM form for {type(e).__name__}")

    def splat(self, text: str, dtype: DType, lanes: int) -> str:
        scalar = register(dtype)
        one = self.new(f"insertelement {vector(scalar, lanes)} poison, {scalar} {text}, i32 0")
        kind = vector(scalar, lanes)
        return self.new(f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer")

    def reduce(self, op: str, text: str, dtype: DType, lanes: int) -> str:
        """Halves folded onto each other until one lane is left."""
        scalar = register(dtype)
        name = f"red{self.count}"
        while lanes > 1:
            half = lanes // 2
            kind = vector(scalar, lanes)
            parts = []
            for first in (0, half):
                picks = ", ".join(f"i32 {first + i}" for i in range(half))
                if half == 1:
                    parts.append(self.new(f"extractelement {kind} {text}, i32 {first}"))
                else:
                    parts.append(
                        self.new(f"shufflevector {kind} {text}, {kind} poison, <{half} x i32> <{picks}>")
                    )
            a, b = Var(f"{name}a", dtype, half), Var(f"{name}b", dtype, half)
            self.values[a.name], self.values[b.name] = parts
            text = self.expression(combine(op, a, b, half, dtype))
            lanes = half
        return text


def _zero(dtype: DType) -> str:
    """All bits zero, as a scalar."""
    return constant(0.0, dtype) if register(dtype) in ("float", "double") else "0"
