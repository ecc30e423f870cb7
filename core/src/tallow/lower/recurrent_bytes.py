"""Lowering of the LSTM whose states are rounded to 8 bits: a direction goes over all its sequences together.

At each step the states of all sequences share one scale, so a grid iteration is a whole direction. Of each
sequence the states become bytes, which meet the packed weights four at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tallow.dim import bounds
from tallow.dtype import bool_, i32, u8
from tallow.kernel import build
from tallow.kernel.build import add, const, mul
from tallow.kernel.grammar import Alias, Alloc, Buffer, Expr, For, Load, Stmt, Store, Update
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.recurrent import GUESSED_STEPS, UNROLL, WORK, Columns, RecurrenceWriter
from tallow.ops.recurrence import BLOCK, functions_of


def lower_recurrence_of_bytes(group: Group, target) -> Sequence[KernelCall] | Declined:
    """One call where all directions have the same activations, else one for each."""
    node = group.root
    directions, _, hidden = node.inputs[2].shape
    if not isinstance(hidden, int) or hidden == 0:
        return Declined("states whose width is not known, or zero")
    if any(n.op != "constant" and v.rank == 5 for n in group.prologue for v in n.outputs):
        return Declined("weights must be in memory")
    functions = functions_of(node.attributes, directions)
    alike = all(f == functions[0] for f in functions)
    together = [tuple(range(directions))] if alike else [(d,) for d in range(directions)]
    calls = []
    for which in together:
        writer = _Writer(group, target, which, functions[which[0]], (1, 0, node.inputs[2].shape[1]))
        calls.append(writer.call())
        if writer.missing:
            return Declined(writer.missing[0])
    return calls


class _Writer(RecurrenceWriter):
    """States of one sequence at a time; `step` and `offset` are the rounding of this step of time."""

    def __init__(self, group: Group, target, directions, functions, share):
        super().__init__(group, target, directions, functions, share)
        self.summed = i32
        self.words = -(-self.hidden // 4)
        fresh = self.inliner.fresh
        self.codes = Buffer(fresh("codes"), u8, 4 * self.words, "local", True)
        self.coded = Buffer(fresh("words"), i32, self.words, "local", True)
        self.low = Buffer(fresh("low"), self.kind, 1, "register", True)
        self.high = Buffer(fresh("high"), self.kind, 1, "register", True)
        self.total = Buffer(fresh("total"), i32, 1, "register", True)
        self.alive = [const(True, bool_)]

    def call(self) -> KernelCall:
        inliner, statements = self.inliner, []
        item = inliner.loop("g")
        self.direction = inliner.let(statements, add(item, const(self.directions[0])), "d")
        size = mul(inliner.size(self.batch), const(len(self.places) * self.padded))
        self.start = inliner.let(statements, mul(item, size), "start")
        statements += [Alloc(self.codes), Alias(self.coded, self.codes)]
        statements.append(self.each(self.opening))
        step, body = inliner.loop("t"), []
        self.time = inliner.let(body, self.time_of(step), "time")
        body += self.measure()
        self.read_rounding(body)
        body += [self.each(self.advance), self.each(self.take)]
        statements += [For(step, inliner.size(self.steps), tuple(body)), self.each(self.closing)]
        grid = len(self.directions)
        one = 8 * self.hidden * self.hidden
        work = one * (bounds(self.batch)[0] or 1) * (bounds(self.steps)[1] or GUESSED_STEPS)
        loop = For(item, inliner.size(grid), tuple(statements), "grid")
        flops = grid * one * self.steps * self.batch
        return inliner.call(self.node.op, [loop], grid, max(1, WORK // max(1, work)), flops)

    def each(self, write: Callable[[], list[Stmt]]) -> For:
        """A loop over the sequences, within which `row` and `base` are those of one."""
        at, body = self.inliner.loop("b"), []
        self.row = [at]
        place = add(self.start, mul(at, const(len(self.places) * self.padded)))
        self.base = self.inliner.let(body, place, "base")
        body += write()
        return For(at, self.inliner.size(self.batch), tuple(body))

    # Rounding ----------------------------------------------------------------------------------

    def measure(self) -> list[Stmt]:
        """The least and the greatest state of all sequences, and 0."""
        zero = const(0)
        clear = [s for b in (self.low, self.high) for s in (Alloc(b), Store(b, zero, const(0, self.kind)))]

        def update(body: list[Stmt], column: Expr) -> None:
            h = self.inliner.let(body, Load(self.state, self.place("h", 0, column)), "h")
            body += [Update(self.low, zero, "min", h), Update(self.high, zero, "max", h)]

        return [*clear, self.each(lambda: [self.along(update)])]

    def read_rounding(self, body: list[Stmt]) -> None:
        do, zero = self.do(body), const(0)
        low, high = (self.inliner.let(body, Load(b, zero), "end") for b in (self.low, self.high))
        step = do("div", do("sub", high, low), 255.0)
        self.step = do("select", do("eq", step, 0.0), 1.0, step)
        self.offset = do("max", do("min", do("round", do("div", do("neg", low), self.step)), 255.0), 0.0)
        self.zero = self.inliner.let(body, build.cast(self.offset, i32), "zero")
        lost = do("eq", do("sub", self.step, self.step), 0.0)  # false for a scale that is not finite
        self.scale = do("select", lost, self.step, math.nan)

    def advance(self) -> list[Stmt]:
        """One step of one sequence."""
        zero = const(0)

        def code(body: list[Stmt], column: Expr) -> None:
            do = self.do(body)
            h = self.inliner.let(body, Load(self.state, self.place("h", 0, column)), "h")
            rounded = do("add", do("round", do("div", h, self.step)), self.offset)
            whole = self.inliner.let(body, build.cast(do("max", do("min", rounded, 255.0), 0.0), i32), "code")
            body += [Store(self.codes, column, build.cast(whole, u8)), Update(self.total, zero, "add", whole)]

        body: list[Stmt] = [Alloc(self.total), Store(self.total, zero, const(0, i32)), self.along(code)]
        count = mul_i32(self.zero, self.hidden)
        self.excess = self.inliner.let(body, build.call("sub", Load(self.total, zero), count), "excess")
        return body + self.stage(0)

    def take(self) -> list[Stmt]:
        def move(body: list[Stmt], column: Expr) -> None:
            value = Load(self.state, self.place("new", 0, column))
            body.append(Store(self.state, self.place("h", 0, column), value))

        return [self.along(move)]

    # Products ----------------------------------------------------------------------------------

    def operand(self, what: str, number: int = 0) -> int:
        return 4 if what == "weights" else 8

    def product(self, number: int, columns: Columns) -> list[Stmt]:
        weights = self.inliner.buffer(self.node.inputs[4])
        body: list[Stmt] = []
        line = columns.gates * BLOCK
        at = add(mul(self.direction, const(self.blocks)), columns.block)
        starts = [
            self.inliner.let(body, add(mul(add(at, const(p)), const(self.words * line)), columns.within), "w")
            for p in range(columns.parts)
        ]

        def one(k: Expr) -> list[Stmt]:
            inner: list[Stmt] = []
            word = self.inliner.let(inner, Load(self.coded, k), "word")
            for p in range(columns.parts):
                for g in range(columns.gates):
                    n = self.inliner.loop("n")
                    other = Load(weights, add(add(add(starts[p], mul(k, const(line))), const(g * BLOCK)), n))
                    place = add(n, const(columns.sum(0, p, g)))
                    value = build.call("dot_bytes", word, other, Load(columns.sums, place))
                    inner.append(For(n, const(columns.width), (Store(columns.sums, place, value),), "vector"))
            return inner

        k, whole = self.inliner.loop("k"), self.words // UNROLL * UNROLL
        several = [s for u in range(UNROLL) for s in one(add(k, const(u)))]
        body.append(For(k, const(whole), tuple(several), "serial", const(0), UNROLL))
        return body + [s for rest in range(whole, self.words) for s in one(const(rest))]

    def recurrent(self, body: list[Stmt], total: Expr, gate: int, column: Expr) -> Expr:
        """(sum of codes * w - zero * sum of w + shift * sum of (codes - zero)) * scale."""
        at = add(const(gate * self.hidden), column)
        sums, shift, scale = (self.read(body, operand, self.direction, at) for operand in (5, 6, 7))
        do = self.do(body)
        total = do("sub", total, do("mul", self.zero, sums))
        total = do("add", total, do("mul", self.excess, shift))
        return do("mul", build.cast(total, self.kind), do("mul", self.scale, scale))


def mul_i32(value: Expr, count: int) -> Expr:
    return build.call("mul", value, const(count, i32))
