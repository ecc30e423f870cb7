"""Verifier of kernels: types, lanes, scopes and the shape of the whole, told with the lines around a fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, get_args

from tallow.dtype import DType, bool_, i64
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
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    LoopKind,
    Prefetch,
    Ramp,
    Reduce,
    Splat,
    Stmt,
    Store,
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
        saved = dict(self.variables), dict(self.buffers), set(self.known)
        yield
        self.variables, self.buffers, self.known = saved

    def block(self, body: tuple[Stmt, ...]) -> None:
        with self.scope():
            for s in body:
                self.line += 1
                self.statement(s)

    def declare(self, buffer: Buffer) -> None:
        self.need(buffer.name not in self.buffers, f"buffer {buffer.name} is declared twice")
        self.buffers[buffer.name] = buffer

    def statement(self, s: Stmt) -> None:
        match s:
            case Let(var, value):
                self.let(var, value)
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
            case Barrier():
                pass
            case _:
                self.fault(f"expected a statement, got {type(s).__name__}")

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
