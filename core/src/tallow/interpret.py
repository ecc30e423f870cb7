"""interpret: what a kernel means, statement by statement; every printer is tested against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tallow.dtype import DType, bool_, f32
from tallow.errors import VerifyError
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
    Matrix,
    Multiply,
    Ramp,
    Reduce,
    Splat,
    Stmt,
    Store,
    StoreMatrix,
    Update,
    Var,
)
from tallow.kernel.updates import combine
from tallow.scalar import apply


def interpret(
    kernel: Kernel,
    arrays: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    begin: int = 0,
    stop: int | None = None,
) -> None:
    """Run iterations begin..stop of the grid on flat arrays by parameter name, writing results in place.

    The threads of a group loop take turns from barrier to barrier. Raises VerifyError for an access out of
    bounds, naming buffer and index, and where threads of a group do not meet at the same place.
    """
    _Interpreter(kernel, arrays, sizes, begin, stop).run()


class _Interpreter:
    def __init__(self, kernel: Kernel, arrays, sizes, begin: int, stop: int | None):
        self.kernel, self.begin, self.stop = kernel, begin, stop
        self.memory: dict[str, np.ndarray] = dict(arrays)
        self.values: dict[str, object] = {name: np.int64(size) for name, size in sizes.items()}
        self.meeting = {id(s) for s in walk_stmts(kernel.body) if _meets(s)}

    def run(self) -> None:
        for s in self.kernel.body:
            self.statement(s)

    def block(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            self.statement(s)

    def statement(self, s: Stmt) -> None:
        match s:
            case Let(var, value):
                self.values[var.name] = self.value(value)
            case Alloc(Fragment(name, dtype, _, rows, columns)):
                self.memory[name] = np.zeros((rows, columns), dtype.numpy)
            case Alloc(buffer):
                self.memory[buffer.name] = np.zeros(buffer.size, buffer.dtype.numpy)
            case Alias(buffer, of):
                whole = self.memory[of.name].view(np.uint8)[: buffer.size * buffer.dtype.itemsize]
                self.memory[buffer.name] = whole.view(buffer.dtype.numpy)
            case Store(buffer, index, value, mask):
                self.store(buffer, index, self.value(value), max(value.lanes, index.lanes), mask)
            case Update(buffer, index, op, value):
                lanes = value.lanes
                new = combine(op, Load(buffer, index, lanes), value, lanes, buffer.dtype)
                self.store(buffer, index, self.value(new), lanes, None)
            case Copy():
                self.copy(s)
            case For(var, stop, body, kind, start, step):
                low, high = int(self.value(start)), int(self.value(stop))
                if kind == "grid":
                    low, high = self.begin, high if self.stop is None else self.stop
                if kind == "group":
                    return self.group(var, range(low, high, step), body)
                for number in range(low, high, step):
                    self.values[var.name] = np.int64(number)
                    self.block(body)
            case If(condition, then, otherwise):
                self.block(then if self.value(condition) else otherwise)

    # Threads of a group --------------------------------------------------------------------------

    def group(self, var: Var, numbers: range, body: tuple[Stmt, ...]) -> None:
        """Each thread with values and memory of its own, in turns that end where all meet."""
        values, memory = self.values, self.memory
        waiting = []
        for number in numbers:
            own = {**values, var.name: np.int64(number)}
            waiting.append((own, dict(memory), self.turns(body)))
        while waiting:
            met, place = set(), None
            for own, mine, turns in waiting:
                self.values, self.memory = own, mine
                place = next(turns, None)
                met.add(id(place))
            if len(met) > 1:
                raise VerifyError(
                    f"kernel {self.kernel.name}: threads of a group do not meet at the same place"
                )
            if place is None:
                break
            self.together(place, [(own, mine) for own, mine, _ in waiting])
        self.values, self.memory = values, memory

    def turns(self, body: tuple[Stmt, ...]) -> Iterator[Stmt]:
        """Runs statements, pausing at each that threads run together."""
        for s in body:
            if id(s) not in self.meeting:
                self.statement(s)
                continue
            match s:
                case Barrier() | Exchange() | LoadMatrix() | Multiply() | StoreMatrix():
                    yield s
                case If(condition, then, otherwise):
                    yield from self.turns(then if self.value(condition) else otherwise)
                case For(var, stop, inner, _, start, step):
                    for number in range(int(self.value(start)), int(self.value(stop)), step):
                        self.values[var.name] = np.int64(number)
                        yield from self.turns(inner)

    def together(self, s: Stmt, threads: list[tuple[dict, dict]]) -> None:
        """What threads, each with values and memory of its own, do when all have met."""
        match s:
            case Exchange(var, value, distance):
                found = []
                for self.values, self.memory in threads:
                    found.append(self.value(value))
                for number, (own, _) in enumerate(threads):
                    own[var.name] = found[number ^ distance]
            case LoadMatrix(fragment) | Multiply(fragment) | StoreMatrix(fragment=fragment):
                for first in range(0, len(threads), fragment.threads):
                    self.matrix(s, threads[first : first + fragment.threads])

    def matrix(self, s: Matrix, holders: list[tuple[dict, dict]]) -> None:
        """What the holders of a fragment do with it; in each one's memory is the whole."""
        self.values, self.memory = holders[0]
        match s:
            case Multiply(total, left, right):
                a, b = (factor(self.memory[f.name], f.dtype) for f in (left, right))
                with np.errstate(all="ignore"):
                    new = self.memory[total.name] + (a[:, :, None] * b[None]).sum(1, dtype=np.float32)
                for _, memory in holders:
                    memory[total.name] = new
                return
        fragment, index = s.fragment, int(self.value(s.index))
        for self.values, self.memory in holders:
            if self.value(s.index) != index:
                raise VerifyError(
                    f"kernel {self.kernel.name}: threads that hold {fragment.name} are at different "
                    f"places of {s.buffer.name}: {index} and {int(self.value(s.index))}"
                )
        rows, columns = np.indices((fragment.rows, fragment.columns))
        at = columns * s.pitch + rows if fragment.turned else rows * s.pitch + columns
        at = self.within(s.buffer, at + index, np.True_)
        if isinstance(s, StoreMatrix):
            self.memory[s.buffer.name][at] = self.memory[fragment.name]
            return
        for _, memory in holders:
            memory[fragment.name] = self.memory[s.buffer.name][at]

    # Memory --------------------------------------------------------------------------------------

    def copy(self, s: Copy) -> None:
        to, start = int(self.value(s.index)), int(self.value(s.start))
        on = s.mask is None or bool(self.value(s.mask))
        for buffer, at in ((s.buffer, to), *(((s.source, start),) if on else ())):
            if at % s.count:
                raise VerifyError(
                    f"kernel {self.kernel.name}: {buffer.name}[{at}]: expected a multiple of {s.count}"
                )
        lanes = np.arange(s.count)
        found = self.memory[s.source.name][self.within(s.source, start + lanes, on)] if on else 0
        self.memory[s.buffer.name][self.within(s.buffer, to + lanes, np.True_)] = found

    def places(self, buffer: Buffer, index: Expr, lanes: int, mask) -> np.ndarray:
        """Positions that are touched; those that the mask hides come as 0."""
        at = np.atleast_1d(self.value(index))
        if index.lanes == 1 and lanes > 1:
            at = at + np.arange(lanes)
        return self.within(buffer, at, mask)

    def within(self, buffer: Buffer, at: np.ndarray, mask) -> np.ndarray:
        """Positions, 0 where the mask hides them; VerifyError for those outside the buffer."""
        at = np.where(mask, at, 0)
        size = self.memory[buffer.name].size
        bad = at[mask & ((at < 0) | (at >= size))]
        if bad.size:
            raise VerifyError(
                f"kernel {self.kernel.name}: {buffer.name}[{bad[0]}] is outside its {size} elements"
            )
        return at

    def mask(self, mask: Expr | None, lanes: int) -> np.ndarray:
        return np.ones(lanes, bool) if mask is None else np.broadcast_to(self.value(mask), lanes)

    def store(self, buffer: Buffer, index: Expr, value, lanes: int, mask: Expr | None) -> None:
        on = self.mask(mask, lanes)
        at = self.places(buffer, index, lanes, on)
        self.memory[buffer.name][at[on]] = np.broadcast_to(value, lanes)[on]

    def value(self, e: Expr):
        match e:
            case Const(value, dtype, lanes):
                one = np.asarray(value).astype(dtype.numpy)
                return one if lanes == 1 else np.broadcast_to(one, lanes)
            case Var(name):
                return self.values[name]
            case Ramp(lanes):
                return np.arange(lanes)
            case Splat(value, lanes):
                return np.broadcast_to(self.value(value), lanes)
            case Load(buffer, index, lanes, mask):
                return self.load(buffer, index, max(lanes, index.lanes), mask)
            case Call(function, arguments, dtype):
                return np.asarray(apply(function, *(np.asarray(self.value(a)) for a in arguments))).astype(
                    dtype.numpy
                )
            case Cast(value, dtype):
                return convert(np.asarray(self.value(value)), dtype)
            case Bitcast(value, dtype):
                return np.atleast_1d(self.value(value)).view(dtype.numpy).reshape(np.shape(self.value(value)))
            case Reduce(op, value):
                return self.reduce(op, self.value(value), value.dtype)
        raise VerifyError(f"kernel {self.kernel.name}: no meaning for {type(e).__name__}")

    def load(self, buffer: Buffer, index: Expr, lanes: int, mask: Expr | None):
        on = self.mask(mask, lanes)
        at = self.places(buffer, index, lanes, on)
        array = self.memory[buffer.name]
        zero = np.zeros((), array.dtype)
        found = (
            np.where(on, array[at], zero).astype(array.dtype) if array.size else np.broadcast_to(zero, lanes)
        )
        return found if lanes > 1 else found[0]

    def reduce(self, op: str, value: np.ndarray, dtype: DType):
        while value.size > 1:
            half = value.size // 2
            a, b = Var("a", dtype, half), Var("b", dtype, half)
            saved = self.values
            self.values = {"a": value[:half], "b": value[half:]}
            value = np.atleast_1d(self.value(combine(op, a, b, half, dtype)))
            self.values = saved
        return value[0]


def _meets(s: Stmt) -> bool:
    """Whether threads meet in a statement."""
    together = (Barrier, Exchange, LoadMatrix, Multiply, StoreMatrix)
    return any(isinstance(inner, together) for inner in walk_stmts((s,)))


def factor(array: np.ndarray, dtype: DType) -> np.ndarray:
    """The numbers that a matrix unit multiplies, in f32: those of f32 are rounded to 11 bits."""
    if dtype != f32:
        return array.astype(np.float32)
    bits = array.view(np.uint32)
    return np.where(np.isfinite(array), bits + 0x1000 & 0xFFFFE000, bits).astype(np.uint32).view(np.float32)


def convert(array: np.ndarray, to: DType) -> np.ndarray:
    """The kernel language's cast: floats to integers truncate and saturate, NaN gives 0; integers wrap."""
    with np.errstate(all="ignore"):
        if to == bool_:
            return array != 0
        if to.is_integer and array.dtype.kind not in "iub":
            info = np.iinfo(to.numpy)
            wide = np.trunc(np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
            over, under = wide >= float(info.max), wide <= float(info.min)
            inside = np.where(over | under, 0, wide).astype(to.numpy)
            return np.where(over, info.max, np.where(under, info.min, inside)).astype(to.numpy)
        return array.astype(to.numpy)
