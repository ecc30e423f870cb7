"""Verifier of kernels: types, lanes, scopes and the shape of the whole, told with the lines around a fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, get_args

from tallow.dtype import DType, bf16, bool_, f16, f32, i64
from tallow.errors import VerifyError
from tallow.kernel.build import children
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
    LoopKind,
    Multiply,
    Prefetch,
    Ramp,
    Reduce,
    Role,
    Splat,
    Stmt,
    Store,
    StoreMatrix,
    Update,
    UpdateOp,
    Var,
)
from tallow.kernel.text import print_expr, print_kernel
from tallow.scalar import SCALAR

_NEIGHBOURS = 2  # lines shown before and after a fault


def verify(kernel: Kernel) -> None:
    """Check a kernel in any stage of lowering; VerifyError says what is wrong, and shows where."""
    _Verifier(kernel).run()


class _Verifier:
    """`line` follows the printer: its number is that of the statement being checked."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.line = 0
        self.variables: dict[str, Var] = {}
        self.buffers: dict[str, Buffer] = {}
        self.known: set[str] = (
            set()
        )  # variables with constant values once loops of constant bounds are unrolled
        self.grid_open = False
        self.fragments: dict[str, Fragment] = {}
        self.group = 0  # threads of the group loop around; 0 outside one, or where they are no constant

    def fault(self, message: str) -> NoReturn:
        lines = print_kernel(self.kernel).splitlines()
        first = max(0, self.line - _NEIGHBOURS)
        shown = (
            f"{'>' if number == self.line else ' '} {number + 1:4} {lines[number]}"
            for number in range(first, min(len(lines), self.line + _NEIGHBOURS + 1))
        )
        raise VerifyError("\n".join([f"kernel {self.kernel.name}: {message}", *shown]))

    def need(self, condition: bool, message: str) -> None:
        if not condition:
            self.fault(message)

    def run(self) -> None:
        for b in self.kernel.parameters:
            self.need(b.space == "global", f"parameter {b.name}: expected a global buffer, got {b.space}")
            self.declare(b)
        for s in self.kernel.sizes:
            self.need(s.dtype == i64 and s.lanes == 1, f"size {s.name}: expected a scalar i64")
            self.variables[s.name] = s
        loops = [s for s in self.kernel.body if isinstance(s, For)]
        if len(loops) != 1 or loops[0].kind != "grid" or self.kernel.body[-1] is not loops[0]:
            self.fault("expected a body of lets and then one grid loop")
        odd = next((s for s in self.kernel.body[:-1] if not isinstance(s, Let)), None)
        self.need(odd is None, f"expected lets before the grid loop, got {type(odd).__name__}")
        self.block(self.kernel.body)

    # Statements --------------------------------------------------------------------------------

    @contextmanager
    def scope(self) -> Iterator[None]:
        saved = dict(self.variables), dict(self.buffers), set(self.known), dict(self.fragments), self.group
        yield
        self.variables, self.buffers, self.known, self.fragments, self.group = saved

    def block(self, body: tuple[Stmt, ...]) -> None:
        with self.scope():
            for s in body:
                self.line += 1
                self.statement(s)

    def declare(self, buffer: Buffer) -> None:
        known = buffer.name in self.buffers or buffer.name in self.fragments
        self.need(not known, f"buffer {buffer.name} is declared twice")
        self.buffers[buffer.name] = buffer

    def statement(self, s: Stmt) -> None:
        match s:
            case Let(var, value):
                self.let(var, value)
            case Alloc(Fragment()):
                self.fragment(s.buffer)
            case Alloc(buffer):
                self.need(buffer.space != "global", f"{buffer.name}: expected a space other than global")
                self.need(buffer.size is not None, f"{buffer.name}: expected a constant size")
                self.declare(buffer)
            case Alias(buffer, of):
                self.alias(buffer, of)
            case Store(buffer, index, value, mask):
                lanes = self.place(buffer, index, value.lanes, mask)
                self.target(buffer, value)
                self.need(value.lanes == lanes, f"{lanes} places of {buffer.name} take {value.lanes} lanes")
            case Update(buffer, index, op, value):
                self.need(op in get_args(UpdateOp), f"no update is named {op!r}")
                lanes = self.place(buffer, index, value.lanes, None)
                self.target(buffer, value)
                self.need(value.lanes == lanes == 1, "an update takes one scalar; vectors are stored")
            case For():
                self.loop(s)
            case If(condition, then, otherwise):
                self.expression(condition)
                self.typed(condition, bool_, 1, "condition")
                self.block(then)
                if otherwise:
                    self.line += 1
                    self.block(otherwise)
            case Prefetch(buffer, index):
                self.place(buffer, index, 1, None)
            case Barrier(threads):
                self.neighbours(threads or 1, "barrier")
            case Copy():
                self.copy(s)
            case Exchange(var, value, distance):
                self.need(distance > 0, f"exchange: expected a distance above 0, got {distance}")
                self.neighbours(2 * distance, "exchange")
                self.need(var.lanes == 1, f"exchange: expected a scalar, got {var.lanes} lanes")
                self.let(var, value)
                self.known.discard(var.name)
            case Multiply(total, left, right):
                self.multiply(total, left, right)
            case LoadMatrix(fragment, buffer, index, pitch):
                self.held(fragment, "left", "right")
                self.matrix(fragment, buffer, index, pitch)
            case StoreMatrix(buffer, index, pitch, fragment):
                self.held(fragment, "sum")
                self.matrix(fragment, buffer, index, pitch)
            case _:
                self.fault(f"expected a statement, got {type(s).__name__}")

    # Neighbouring threads ------------------------------------------------------------------------

    def neighbours(self, threads: int, what: str) -> None:
        """Check that a group is made of aligned neighbours of a number; 1 is any."""
        power = threads > 0 and not threads & (threads - 1)
        self.need(power, f"{what}: expected a power of two of threads, got {threads}")
        if threads > 1:
            whole = self.group and not self.group % threads
            self.need(
                bool(whole),
                f"{what}: expected a group loop over a multiple of {threads} threads, got {self.group or 'none'}",
            )

    def fragment(self, fragment: Fragment) -> None:
        name, role = fragment.name, fragment.role
        self.need(name not in self.buffers and name not in self.fragments, f"buffer {name} is declared twice")
        self.need(role in get_args(Role), f"no fragment is a {role!r}")
        dtypes = (f32,) if role == "sum" else (f16, bf16, f32)
        listed = " or ".join(map(str, dtypes))
        self.need(fragment.dtype in dtypes, f"{role} {name}: expected {listed}, got {fragment.dtype}")
        self.need(min(fragment.rows, fragment.columns) > 0, f"{name}: expected elements")
        self.need(role != "sum" or not fragment.turned, f"{name}: a sum is not turned")
        self.neighbours(fragment.threads, name)
        self.need(self.group > 0, f"{name}: expected a group loop around a fragment")
        self.fragments[name] = fragment

    def held(self, fragment: Fragment, *roles: Role) -> None:
        name = fragment.name
        self.need(self.fragments.get(name) == fragment, f"fragment {name} is not declared here")
        self.need(fragment.role in roles, f"{name}: expected a {' or '.join(roles)}, got a {fragment.role}")

    def matrix(self, fragment: Fragment, buffer: Buffer, index: Expr, pitch: int) -> None:
        self.place(buffer, index, 1, None)
        self.typed(index, i64, 1, f"index of {buffer.name}")
        self.need(buffer.space == "shared", f"{buffer.name}: expected shared memory, got {buffer.space}")
        self.need(
            buffer.dtype == fragment.dtype,
            f"{fragment.name}: expected memory of {fragment.dtype}, got {buffer.dtype}",
        )
        line = fragment.rows if fragment.turned else fragment.columns
        self.need(pitch >= line, f"{fragment.name}: expected lines {line} or more apart, got {pitch}")

    def multiply(self, total: Fragment, left: Fragment, right: Fragment) -> None:
        for fragment, role in ((total, "sum"), (left, "left"), (right, "right")):
            self.held(fragment, role)
        fits = (left.rows, right.rows, right.columns) == (total.rows, left.columns, total.columns)
        alike = left.dtype == right.dtype and left.threads == right.threads == total.threads
        self.need(
            fits and alike,
            f"{total.name} += {left.name} @ {right.name}: expected factors of one dtype that fit the sum, held "
            "by the same threads",
        )

    def copy(self, s: Copy) -> None:
        self.need(
            s.count > 0 and not s.count & (s.count - 1),
            f"copy to {s.buffer.name}: expected a power of two of elements, got {s.count}",
        )
        for buffer, index in ((s.buffer, s.index), (s.source, s.start)):
            self.place(buffer, index, s.count if index.lanes == 1 else 1, None)
            self.typed(index, i64, 1, f"index of {buffer.name}")
        same = s.buffer.dtype == s.source.dtype
        self.need(same, f"copy: expected buffers of one dtype, got {s.buffer.dtype} and {s.source.dtype}")
        writable = s.buffer.writable or s.buffer.space != "global"
        self.need(writable, f"{s.buffer.name} is not writable: declare the parameter so, or write elsewhere")
        if s.mask is not None:
            self.expression(s.mask)
            self.typed(s.mask, bool_, 1, f"mask of {s.source.name}")

    # Memory --------------------------------------------------------------------------------------

    def alias(self, buffer: Buffer, of: Buffer) -> None:
        self.need(self.buffers.get(of.name) == of, f"{buffer.name}: buffer {of.name} is not declared here")
        fits = buffer.size is not None and of.size is not None
        fits = fits and buffer.size * buffer.dtype.itemsize <= of.size * of.dtype.itemsize
        self.need(fits and buffer.space == of.space, f"{buffer.name}: does not fit the memory of {of.name}")
        self.declare(buffer)

    def let(self, var: Var, value: Expr) -> None:
        self.expression(value)
        self.typed(value, var.dtype, var.lanes, f"value of {var.name}")
        self.variables[var.name] = var
        (self.known.add if self.constant(value) else self.known.discard)(var.name)

    def target(self, buffer: Buffer, value: Expr) -> None:
        self.need(
            buffer.writable or buffer.space != "global",
            f"{buffer.name} is not writable: declare the parameter so, or write elsewhere",
        )
        self.expression(value)
        self.typed(value, buffer.dtype, value.lanes, f"value for {buffer.name}")

    def loop(self, s: For) -> None:
        name = s.var.name
        self.need(s.kind in get_args(LoopKind), f"no loop is of kind {s.kind!r}")
        self.need(isinstance(s.step, int) and s.step > 0, f"loop over {name}: expected a step above 0")
        self.need(s.var.dtype == i64 and s.var.lanes == 1, f"loop variable {name}: expected a scalar i64")
        for what, bound in (("start", s.start), ("stop", s.stop)):
            self.expression(bound)
            self.typed(bound, i64, 1, f"{what} of loop over {name}")
            if s.kind == "unroll" and not self.constant(bound):
                self.fault(f"unroll loop over {name}: expected constant bounds, got {print_expr(bound)}")
        fixed = s.kind != "grid" and self.constant(s.start) and self.constant(s.stop)
        if s.kind == "grid":
            self.need(not self.grid_open, f"grid loop over {name} inside the grid loop")
            self.grid_open = True
        with self.scope():
            if s.kind == "group":
                whole = s.start == Const(0) and s.step == 1 and isinstance(s.stop, Const)
                self.group = s.stop.value if whole else 0
            self.variables[name] = s.var
            (self.known.add if fixed else self.known.discard)(name)
            self.block(s.body)

    # Expressions -------------------------------------------------------------------------------

    def constant(self, e: Expr) -> bool:
        """Whether an expression is a constant once loops are unrolled."""
        match e:
            case Const() | Ramp():
                return True
            case Var(name):
                return name in self.known
            case Load():
                return False
        return all(map(self.constant, children(e)))

    def typed(self, e: Expr, dtype: DType, lanes: int, what: str) -> None:
        if (e.dtype, e.lanes) != (dtype, lanes):
            self.fault(f"{what}: expected {dtype} x {lanes}, got {e.dtype} x {e.lanes} in {print_expr(e)}")

    def place(self, buffer: Buffer, index: Expr, lanes: int, mask: Expr | None) -> int:
        """Check an access; how many lanes it has."""
        declared = self.buffers.get(buffer.name)
        self.need(declared is not None, f"buffer {buffer.name} is not declared here")
        self.need(declared == buffer, f"buffer {buffer.name} is declared as {declared}, used as {buffer}")
        self.expression(index)
        self.typed(index, i64, index.lanes, f"index of {buffer.name}")
        lanes = max(lanes, index.lanes)
        self.need(index.lanes in (1, lanes), f"{lanes} lanes of {buffer.name} at {index.lanes} indexes")
        if buffer.space == "register" and not self.constant(index):
            self.fault(
                f"index of register buffer {buffer.name}: expected a constant, got {print_expr(index)}"
            )
        if isinstance(index, Const) and buffer.size is not None and mask is None:
            inside = 0 <= index.value and index.value + lanes <= buffer.size
            self.need(inside, f"{buffer.name}[{index.value}] x {lanes} is outside its {buffer.size} elements")
        if mask is not None:
            self.expression(mask)
            self.typed(mask, bool_, lanes, f"mask of {buffer.name}")
        return lanes

    def expression(self, e: Expr) -> None:
        self.need(e.lanes >= 1, f"expected at least one lane, got {e.lanes}")
        match e:
            case Const(value, dtype):
                self.need(isinstance(value, (int, float)), f"constant {value!r}: expected a plain number")
                self.need(dtype.kind != "string", "no kernel computes with strings")
            case Var(name):
                declared = self.variables.get(name)
                self.need(declared is not None, f"variable {name} is not defined here")
                self.typed(e, declared.dtype, declared.lanes, f"variable {name}")
            case Ramp():
                self.need(e.dtype == i64, f"ramp: expected i64, got {e.dtype}")
            case Splat(value):
                self.expression(value)
                self.typed(value, value.dtype, 1, "splat")
            case Load(buffer, index, lanes, mask):
                self.need(
                    self.place(buffer, index, lanes, mask) == lanes, f"load of {lanes} lanes by a vector"
                )
            case Call():
                self.application(e)
            case Cast(value):
                self.expression(value)
            case Bitcast(value, dtype):
                self.expression(value)
                same = value.dtype.itemsize == dtype.itemsize
                self.need(same, f"bitcast: expected dtypes of one width, got {value.dtype} and {dtype}")
            case Reduce(op, value, lanes):
                self.need(op in get_args(UpdateOp), f"no reduction is named {op!r}")
                self.need(lanes == 1, f"reduce: expected a scalar result, got {lanes} lanes")
                self.expression(value)
            case _:
                self.fault(f"expected an expression, got {type(e).__name__}")

    def application(self, e: Call) -> None:
        row = SCALAR.get(e.function)
        self.need(row is not None, f"no scalar function is named {e.function!r}")
        count = len(e.arguments)
        self.need(count == row.arity, f"{e.function}: expected {row.arity} arguments, got {count}")
        for a in e.arguments:
            self.expression(a)
        typed = e.arguments
        if e.function == "select":
            self.typed(typed[0], bool_, typed[0].lanes, "condition of select")
            typed = typed[1:]
        dtype = typed[-1].dtype
        got = ", ".join(f"{a.dtype} x {a.lanes}" for a in e.arguments)
        alike = all(a.dtype == dtype for a in typed) and len({a.lanes for a in e.arguments}) == 1
        self.need(alike, f"{e.function}: expected arguments of one dtype and as many lanes, got {got}")
        self.need(dtype.kind in row.kinds, f"{e.function}: not a function of {dtype}")
        self.typed(e, row.result_dtype(dtype), e.lanes, f"result of {e.function}")
