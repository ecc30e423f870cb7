"""Lowering of recurrences: one grid iteration runs all steps of a direction for a few sequences.

Each step is a product of the hidden states with the packed weights, a few blocks of columns at a time
with all their sums in registers, and then the cell on those columns. New states are written beside the
old ones and take their place when the step is over, where the sequence has not ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tallow.dim import Dim, bounds
from tallow.kernel import build
from tallow.kernel.build import add, const, less, minimum, mul, sub
from tallow.kernel.expand import unable
from tallow.kernel.grammar import (
    Alloc,
    Buffer,
    Expr,
    For,
    If,
    Load,
    Stmt,
    Store,
    Update,
)
from tallow.lower.group import Declined, Group, KernelCall, Temporary
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import unravel
from tallow.ops.recurrence import BLOCK, Function, backwards, functions_of, stages

ROWS = 4  # sequences that one grid iteration takes at most
BLOCKS = 8  # blocks of columns that are computed together at most
UNROLL = 4
WORK = 60_000  # arithmetic that is worth a thread of its own
GUESSED_STEPS = 32  # where their number is not known


def lower_recurrence(group: Group, target) -> Sequence[KernelCall] | Declined:
    """Sequences go ROWS at a time; those that are left over, where their number is not known, singly."""
    node = group.root
    directions, batch, hidden = node.inputs[2].shape
    if not isinstance(hidden, int) or hidden == 0:
        return Declined("states whose width is not known, or zero")
    made = {v for n in group.prologue for v in n.outputs}
    if any(v in made for v in node.inputs if v.rank == 5):
        return Declined("weights must be in memory")
    functions = functions_of(node.attributes, directions)
    alike = all(f == functions[0] for f in functions)
    together = [tuple(range(directions))] if alike else [(d,) for d in range(directions)]
    calls = []
    for which in together:
        for rows, first, count in _shares(batch, len(which)):
            writer = RecurrenceWriter(group, target, which, functions[which[0]], (rows, first, count))
            calls.append(writer.call())
            if writer.missing:
                return Declined(writer.missing[0])
    return calls


def _shares(batch: Dim, directions: int) -> list[tuple[int, Dim, Dim]]:
    """(sequences at a time, the first of them, how many items) of the calls that cover a batch."""
    if isinstance(batch, int):
        items = max(-(-batch // ROWS), min(batch, 2 // directions))
        return [(-(-batch // items) if items else 1, 0, items)]
    whole = batch // ROWS
    single = (1, whole * ROWS, batch - whole * ROWS)
    high = bounds(batch)[1]
    return [single] if high is not None and high < ROWS else [(ROWS, 0, whole), single]


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns whose sums are in registers: `parts` pieces of `width` columns from `block` on."""

    block: Expr
    within: Expr
    parts: int
    width: int
    gates: int
    sums: Buffer

    def first(self, part: int) -> Expr:
        """The column of the states where a part starts."""
        return add(mul(add(self.block, const(part)), const(BLOCK)), self.within)

    def sum(self, row: int, part: int, gate: int) -> int:
        """The element of the sums where a part of a gate of a row starts."""
        return ((row * self.parts + part) * self.gates + gate) * self.width


class RecurrenceWriter:
    """One call: which directions, all with the same activations, and the share of the sequences."""

    def __init__(self, group: Group, target, directions, functions: tuple[Function, ...], share):
        self.group, self.target, self.node = group, target, group.root
        self.directions, self.functions = directions, functions
        self.rows, self.first, self.count = share
        self.kind = self.summed = self.node.outputs[0].dtype
        self.cell = self.node.op.split("_")[0]
        self.stages = stages(self.cell, self.node.attributes)
        self.steps = self.node["steps"]
        _, self.batch, self.hidden = self.node.inputs[2].shape
        self.blocks = -(-self.hidden // BLOCK)
        self.inliner = Inliner(group)
        self.missing: list[str] = []
        states = {"lstm": ("h", "new", "c"), "rnn": ("h", "new"), "gru": ("h", "new")}[self.cell]
        self.places = states if len(self.stages) == 1 else (*states, "keep", "reset")
        self.padded = self.blocks * BLOCK
        size = len(directions) * self.count * self.rows * len(self.places) * self.padded
        self.state = self.inliner.buffer(Temporary("states", self.kind, size), writable=True)

    # Small parts -------------------------------------------------------------------------------

    def do(self, body: list[Stmt]) -> Callable[..., Expr]:
        """Scalar functions by name, each result a name in `body`; numbers take the states' dtype."""

        def do(function: str, *operands) -> Expr:
            typed = (build.const(o, self.kind) if isinstance(o, (int, float)) else o for o in operands)
            reason = unable(function, self.kind)
            if reason is not None:
                self.missing.append(reason)
            return self.inliner.let(body, build.call(function, *typed), function)

        return do

    def read(self, body: list[Stmt], operand: int, *index: Expr) -> Expr:
        return self.inliner.scope(body).read(self.node.inputs[operand], index)

    def place(self, name: str, row: int, column: Expr) -> Expr:
        """Where a state of a row is."""
        line = row * len(self.places) + self.places.index(name)
        return add(self.base, add(const(line * self.padded), column))

    def along(self, write: Callable[[list[Stmt], Expr], None]) -> For:
        """A vector loop over all columns of a state."""
        column = self.inliner.loop("j")
        body: list[Stmt] = []
        write(body, column)
        return For(column, const(self.hidden), tuple(body), "vector")

    # The kernel --------------------------------------------------------------------------------

    def call(self) -> KernelCall:
        inliner, statements = self.inliner, []
        item = inliner.loop("g")
        direction, share = unravel(inliner, item, (len(self.directions), self.count), statements)
        self.direction = self.inliner.let(statements, add(direction, const(self.directions[0])), "d")
        first = add(mul(share, const(self.rows)), inliner.size(self.first))
        last = inliner.size(self.batch - 1)
        self.row = [
            self.inliner.let(statements, minimum(add(first, const(r)), last), "row") for r in range(self.rows)
        ]
        size = self.rows * len(self.places) * self.padded
        self.base = self.inliner.let(statements, mul(item, const(size)), "base")
        self.length = [self.read(statements, 1, row) for row in self.row]
        statements += self.opening()
        statements.append(self.loop())
        statements += self.closing()
        grid = len(self.directions) * self.count
        one = 2 * sum(self.stages) * self.hidden * self.hidden * self.rows
        work = one * (bounds(self.steps)[1] or GUESSED_STEPS)
        loop = For(item, inliner.size(grid), tuple(statements), "grid")
        return inliner.call(self.node.op, [loop], grid, max(1, WORK // max(1, work)), grid * one * self.steps)

    def opening(self) -> list[Stmt]:
        """The initial states."""
        states = ("h", "c") if self.cell == "lstm" else ("h",)
        result: list[Stmt] = []
        for operand, name in enumerate(states, 2):
            for r in range(self.rows):

                def write(body, column, operand=operand, name=name, r=r):
                    value = self.read(body, operand, self.direction, self.row[r], column)
                    body.append(Store(self.state, self.place(name, r, column), value))

                result.append(self.along(write))
        return result

    def closing(self) -> list[Stmt]:
        """The final states."""
        result: list[Stmt] = []
        for output, name in zip(self.node.outputs[1:], ("h", "c"), strict=False):
            for r in range(self.rows):

                def write(body, column, output=output, name=name, r=r):
                    index = (self.direction, self.row[r], column)
                    value = Load(self.state, self.place(name, r, column))
                    self.inliner.scope(body).store(output, output.shape, index, value)

                result.append(self.along(write))
        return result

    def loop(self) -> For:
        """All steps. One in which no sequence is left costs next to nothing."""
        step, body = self.inliner.loop("t"), []
        self.time = self.inliner.let(body, self.time_of(step), "time")
        self.alive = [self.inliner.let(body, less(self.time, length), "alive") for length in self.length]
        some = self.alive[0]
        for alive in self.alive[1:]:
            some = build.call("or", some, alive)
        work: list[Stmt] = []
        for stage in range(len(self.stages)):
            work += self.stage(stage)
        for r in range(self.rows):

            def take(inner, column, r=r):
                value = Load(self.state, self.place("new", r, column))
                inner.append(Store(self.state, self.place("h", r, column), value))

            work.append(If(self.alive[r], (self.along(take),)))
        body.append(If(some, tuple(work)))
        for r in range(self.rows):

            def clear(inner, column, r=r):
                self.result(inner, r, column, build.const(0, self.kind))

            body.append(If(build.call("not", self.alive[r]), (self.along(clear),)))
        return For(step, self.inliner.size(self.steps), tuple(body))

    def time_of(self, step: Expr) -> Expr:
        back = sub(self.inliner.size(self.steps - 1), step)
        if len(self.directions) == 1:
            return back if backwards(self.node.attributes, self.directions[0]) else step
        return build.select(build.call("eq", self.direction, const(0)), step, back)

    def result(self, body: list[Stmt], r: int, column: Expr, value: Expr) -> None:
        y = self.node.outputs[0]
        index = (self.time, self.direction, self.row[r], column)
        self.inliner.scope(body).store(y, y.shape, index, value)

    # Products ----------------------------------------------------------------------------------

    def stage(self, number: int) -> list[Stmt]:
        """One product and what follows it, for all columns; the last columns may be fewer at a time."""
        parts, width = self.tile(self.stages[number])
        whole = self.blocks // parts * parts
        result = self.columns(number, const(0), whole, parts, width)
        if whole != self.blocks:
            result += self.columns(number, const(whole), self.blocks, self.blocks - whole, width)
        return result

    def tile(self, gates: int) -> tuple[int, int]:
        """How many blocks at a time and how many columns of each, so that the sums fit the registers."""
        lanes = max(1, self.target.vector_bytes // self.kind.itemsize)
        registers = 24 if self.target.limits.get("registers", 16) == 32 else 12
        vectors = max(1, registers // (gates * self.rows))
        if lanes == 1 or vectors * lanes >= BLOCK:
            most = min(max(1, vectors * lanes // BLOCK), BLOCKS, self.blocks)
            return -(-self.blocks // -(-self.blocks // most)), BLOCK
        width = lanes
        while 2 * width <= vectors * lanes:
            width *= 2
        return 1, width

    def columns(self, number: int, start: Expr, stop: int, parts: int, width: int) -> list[Stmt]:
        block, within = self.inliner.loop("block"), self.inliner.loop("within")
        gates = self.stages[number]
        name = self.inliner.fresh("sum")
        sums = Buffer(name, self.summed, self.rows * parts * gates * width, "register", True)
        inside = within if width < BLOCK else const(0)
        columns = Columns(block, inside, parts, width, gates, sums)
        zero = self.inliner.loop("z")
        body: list[Stmt] = [Alloc(sums)]
        body.append(For(zero, const(sums.size), (Store(sums, zero, build.const(0, self.summed)),), "vector"))
        body += self.product(number, columns)
        for r in range(self.rows):
            body.append(If(self.alive[r], tuple(self.cells(number, columns, r))))
        if width < BLOCK:
            body = [For(within, const(BLOCK), tuple(body), "serial", const(0), width)]
        return [For(block, const(stop), tuple(body), "serial", start, parts)]

    def product(self, number: int, columns: Columns) -> list[Stmt]:
        """The states (or the reset ones) of all rows times the weights of the columns."""
        weights = self.inliner.buffer(self.node.inputs[self.operand("weights", number)])
        source = "reset" if number else "h"
        body: list[Stmt] = []
        line = columns.gates * BLOCK  # from one summed index to the next
        at = add(mul(self.direction, const(self.blocks)), columns.block)
        starts = [
            self.inliner.let(
                body, add(mul(add(at, const(p)), const(self.hidden * line)), columns.within), "w"
            )
            for p in range(columns.parts)
        ]

        def one(k: Expr) -> list[Stmt]:
            inner: list[Stmt] = []
            for r in range(self.rows):
                h = self.inliner.let(inner, Load(self.state, self.place(source, r, k)), "h")
                for p in range(columns.parts):
                    for g in range(columns.gates):
                        n = self.inliner.loop("n")
                        where = add(add(starts[p], mul(k, const(line))), const(g * BLOCK))
                        value = build.call("mul", h, Load(weights, add(where, n)))
                        update = Update(columns.sums, add(n, const(columns.sum(r, p, g))), "add", value)
                        inner.append(For(n, const(columns.width), (update,), "vector"))
            return inner

        k, whole = self.inliner.loop("k"), self.hidden // UNROLL * UNROLL
        several = [s for u in range(UNROLL) for s in one(add(k, const(u)))]
        body.append(For(k, const(whole), tuple(several), "serial", const(0), UNROLL))
        return body + [s for rest in range(whole, self.hidden) for s in one(const(rest))]

    def operand(self, what: str, number: int = 0) -> int:
        """The number of an operand: weights of a stage, or what follows them."""
        first = 4 if self.cell == "lstm" else 3
        return first + (number if what == "weights" else len(self.stages))

    # Cells -------------------------------------------------------------------------------------

    def cells(self, number: int, columns: Columns, r: int) -> list[Stmt]:
        """What becomes of the sums of one row: vector loops over the parts."""
        write = {"lstm": self.lstm, "gru": self.gru, "rnn": self.rnn}[self.cell]
        result: list[Stmt] = []
        for p in range(columns.parts):
            n = self.inliner.loop("n")
            inner: list[Stmt] = []
            column = self.inliner.let(inner, add(columns.first(p), n), "column")
            body: list[Stmt] = []
            sums = (Load(columns.sums, add(n, const(columns.sum(r, p, g)))) for g in range(columns.gates))
            gates = [self.recurrent(body, s, g, column) for g, s in enumerate(sums)]
            write(number, body, gates, r, column)
            inner += body if self.hidden % BLOCK == 0 else [If(less(column, const(self.hidden)), tuple(body))]
            result.append(For(n, const(columns.width), tuple(inner), "vector"))
        return result

    def recurrent(self, body: list[Stmt], total: Expr, gate: int, column: Expr) -> Expr:
        """The states' part of a gate, of the sum of their products."""
        return total

    def projected(self, body: list[Stmt], gate: int, r: int, column: Expr) -> Expr:
        """The input's part of a gate."""
        line = add(mul(self.time, self.inliner.size(self.batch)), self.row[r])
        start = mul(self.direction, const(sum(self.stages) * self.hidden))
        return self.read(body, 0, line, add(start, add(column, const(gate * self.hidden))))

    def clip(self, do, x: Expr) -> Expr:
        limit = self.node["clip"]
        return do("max", do("min", x, limit), -limit) if limit else x

    def keep(self, body: list[Stmt], r: int, column: Expr, h: Expr) -> None:
        """The new hidden state, as state and as result."""
        body.append(Store(self.state, self.place("new", r, column), h))
        self.result(body, r, column, h)

    def lstm(self, number: int, body: list[Stmt], sums: list[Expr], r: int, column: Expr) -> None:
        do, (f, g, last) = self.do(body), self.functions
        i, o, forget, inner = (
            self.clip(do, do("add", s, self.projected(body, gate, r, column))) for gate, s in enumerate(sums)
        )
        c = self.inliner.let(body, Load(self.state, self.place("c", r, column)), "c")
        peepholes = self.operand("rest")
        holes: list[Expr] = []
        if peepholes < len(self.node.inputs):
            holes = [
                self.read(body, peepholes, self.direction, add(const(part * self.hidden), column))
                for part in range(3)
            ]
            i, forget = do("fma", holes[0], c, i), do("fma", holes[2], c, forget)
        i = f(do, i)
        forget = do("sub", 1.0, i) if self.node["input_forget"] else f(do, forget)
        c = do("fma", i, g(do, inner), do("mul", forget, c))
        body.append(Store(self.state, self.place("c", r, column), c))
        o = do("fma", holes[1], c, o) if holes else o
        self.keep(body, r, column, do("mul", f(do, o), last(do, c)))

    def gru(self, number: int, body: list[Stmt], sums: list[Expr], r: int, column: Expr) -> None:
        do, (f, g) = self.do(body), self.functions
        h = self.inliner.let(body, Load(self.state, self.place("h", r, column)), "h")

        def gate(part: int) -> Expr:
            return f(do, self.clip(do, do("add", sums[part], self.projected(body, part, r, column))))

        if number == 0:
            z, reset = gate(0), gate(1)
        else:
            z = self.inliner.let(body, Load(self.state, self.place("keep", r, column)), "z")
        if number == 0 and len(self.stages) == 2:
            body.append(Store(self.state, self.place("keep", r, column), z))
            body.append(Store(self.state, self.place("reset", r, column), do("mul", reset, h)))
            return
        inner = do("add", sums[-1], self.read(body, self.operand("rest"), self.direction, column))
        outer = self.projected(body, 2, r, column)
        inner = do("add", inner, outer) if number else do("fma", reset, inner, outer)
        new = g(do, self.clip(do, inner))
        self.keep(body, r, column, do("fma", z, do("sub", h, new), new))

    def rnn(self, number: int, body: list[Stmt], sums: list[Expr], r: int, column: Expr) -> None:
        do, (f,) = self.do(body), self.functions
        self.keep(
            body, r, column, f(do, self.clip(do, do("add", sums[0], self.projected(body, 0, r, column))))
        )
