"""Contractions on matrix units: pieces of both operands in shared memory, each sub-group with fragments of sums.

Operands stay in shared memory as they lie in the device's: a line's summed elements beside each other, or lines.
Where enough of them lie together, threads copy several at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import Dim
from tallow.dtype import DType, f32
from tallow.kernel.build import add, const, floordiv, less, logical_and, mod, mul
from tallow.kernel.grammar import (
    Alias,
    Alloc,
    Barrier,
    Buffer,
    Copy,
    Expr,
    For,
    Fragment,
    If,
    Load,
    LoadMatrix,
    Multiply,
    Role,
    Stmt,
    Store,
    StoreMatrix,
)
from tallow.lower.group import Group
from tallow.lower.inline import Inliner
from tallow.lower.workgroup.contraction import Contraction, Operand
from tallow.lower.workgroup.tile import UNIT, Block, padding, patch_pitch, staged_bytes
from tallow.lower.workgroup.tiled import Side, Staged

COPIED = 16  # bytes that a thread copies at once, at most


class _Part(Side):
    """One operand's lines of a block in shared memory, from element `first` on."""

    def __init__(self, tiled: Fragments, operand: Operand, role: Role, lines: int, first: int):
        self.tiled, self.operand, self.role, self.lines, self.first = tiled, operand, role, lines, first
        inliner, block, dtype = tiled.inliner, tiled.tile, tiled.kind
        self.by_depth = operand.along == "depth"
        self.inner, outer = (block.depth, lines) if self.by_depth else (lines, block.depth)
        self.chunk = min(operand.chunk(inliner), COPIED // dtype.itemsize, self.inner)
        self.beside = 1 if self.by_depth else self.chunk
        self.pitch = self.inner + padding(dtype)
        self.size = self.pitch * outer
        self.pieces = self.inner * outer // self.chunk
        self.count = -(-self.pieces // block.threads)
        self.waiting = Buffer(inliner.fresh("next"), dtype, self.count * self.chunk, "register", True)

    def spread(self, thread: Expr) -> list[tuple[Expr, Expr]]:
        result = []
        for j in range(self.count):
            at = add(thread, const(j * self.tiled.tile.threads))
            each = const(self.inner // self.chunk)
            outer, inner = floordiv(at, each), mul(mod(at, each), const(self.chunk))
            result.append((outer, inner) if self.by_depth else (inner, outer))
        return result

    @property
    def idle(self) -> bool:
        return self.pieces < self.tiled.tile.threads

    def mine(self) -> Expr:
        return less(self.tiled.thread, const(self.pieces))

    def take(self, body: list[Stmt], j: int, place: object, k: Expr, guard: Expr) -> None:
        if self.chunk == 1:
            super().take(body, j, place, k, guard)
            return
        found = self.operand.load(self.tiled.inliner, body, place, k, guard)
        to = const(j * self.chunk)
        body.append(Copy(self.waiting, to, found.buffer, found.index, self.chunk, found.mask))

    def share(self) -> list[Stmt]:
        memory, stores = self.tiled.memory, []
        for j, (line, at, _) in enumerate(self.places):
            place, source = self.place(line, at), const(j * self.chunk)
            if self.chunk == 1:
                stores.append(Store(memory, place, Load(self.waiting, source)))
            else:
                stores.append(Copy(memory, place, self.waiting, source, self.chunk))
        return [If(self.mine(), tuple(stores))] if self.idle else stores

    def place(self, line: Expr, at: Expr) -> Expr:
        """Where element `at` of a line is in shared memory."""
        outer, inner = (line, at) if self.by_depth else (at, line)
        return add(add(mul(outer, const(self.pitch)), inner), const(self.first))

    def fragment(self, body: list[Stmt], line: Expr, at: int) -> Fragment:
        """The fragment of UNIT lines from `line` on and of the elements from `at` on."""
        tiled, unit = self.tiled, self.tiled.tile.unit
        rows, columns = (UNIT, unit) if self.role == "left" else (unit, UNIT)
        turned = self.by_depth != (self.role == "left")
        found = tiled.fragment(self.role, tiled.kind, rows, columns, turned)
        body += [Alloc(found), LoadMatrix(found, tiled.memory, self.place(line, const(at)), self.pitch)]
        return found


class Fragments(Staged):
    """One kernel while it is written; `kind` is the operands' dtype, sums are of f32."""

    def __init__(self, group: Group, inliner: Inliner, work: Contraction, block: Block, dtype: DType):
        super().__init__(group, inliner, work, block, dtype)
        size = staged_bytes(block, dtype) // dtype.itemsize
        self.memory = Buffer(inliner.fresh("pieces"), dtype, size, "shared", True)

    def fragment(self, role: Role, dtype: DType, rows: int, columns: int, turned: bool = False) -> Fragment:
        name = self.inliner.fresh(role)
        return Fragment(name, dtype, role, rows, columns, self.tile.neighbours, turned)

    def tile_body(self, outer: Sequence[Expr], row: Expr, column: Expr) -> list[Stmt]:
        inliner, work, block = self.inliner, self.work, self.tile
        self.thread = inliner.loop("t")
        left = _Part(self, work.left, "left", block.height, 0)
        right = _Part(self, work.right, "right", block.width, left.size)
        body: list[Stmt] = []
        self.lane = inliner.let(body, mod(self.thread, const(block.neighbours)), "lane")
        self.part = inliner.let(body, floordiv(self.thread, const(block.neighbours)), "part")
        down, across = floordiv(self.part, const(block.across)), mod(self.part, const(block.across))
        self.first_row = inliner.let(body, mul(down, const(UNIT * block.rows)), "down")
        self.first_column = inliner.let(body, mul(across, const(UNIT * block.columns)), "across")
        left.locate(body, outer, row, work.rows, self.thread)
        right.locate(body, outer, column, work.columns, self.thread)
        self.totals = [
            [self.fragment("sum", f32, UNIT, UNIT) for _ in range(block.columns)] for _ in range(block.rows)
        ]
        body += [Alloc(total) for line in self.totals for total in line]
        body += [Alloc(left.waiting), Alloc(right.waiting)]
        body += self.pieces(left, right)
        body += self.write_all(outer, row, column)
        return [Alloc(self.memory), For(self.thread, const(block.threads), tuple(body), "group")]

    def multiply(self, left: _Part, right: _Part) -> list[Stmt]:
        block, body = self.tile, []
        for at in range(0, block.depth, block.unit):
            rows = [left.fragment(body, self.beyond(self.first_row, r), at) for r in range(block.rows)]
            columns = [
                right.fragment(body, self.beyond(self.first_column, c), at) for c in range(block.columns)
            ]
            for r, one in enumerate(rows):
                body += [Multiply(self.totals[r][c], one, other) for c, other in enumerate(columns)]
        return body

    def beyond(self, first: Expr, fragments: int) -> Expr:
        """The line so many fragments further on."""
        return add(first, const(UNIT * fragments))

    def write_all(self, outer: Sequence[Expr], row: Expr, column: Expr) -> list[Stmt]:
        """Rows of fragments one by one, through memory that only the sub-group's own threads use."""
        block, pitch = self.tile, patch_pitch(self.tile)
        size = block.down * block.across * UNIT * pitch
        patch = Buffer(self.inliner.fresh("patch"), f32, size, "shared", True)
        body: list[Stmt] = [Alias(patch, self.memory)]
        own = self.inliner.let(body, mul(self.part, const(UNIT * pitch)), "own")
        for r, line in enumerate(self.totals):
            for c, total in enumerate(line):
                body.append(StoreMatrix(patch, add(own, const(UNIT * c)), pitch, total))
            first = add(row, self.beyond(self.first_row, r))
            loop = self.write_row(outer, patch, own, first, add(column, self.first_column))
            body += [Barrier(block.neighbours), loop, Barrier(block.neighbours)]
        return body

    def write_row(
        self, outer: Sequence[Expr], patch: Buffer, own: Expr, first_row: Expr, first_column: Expr
    ) -> For:
        """The elements of a row of fragments through the epilogue into the results."""
        inliner, work, block = self.inliner, self.work, self.tile
        at, wide = inliner.loop("e"), UNIT * block.columns
        body: list[Stmt] = []
        r = inliner.let(body, floordiv(at, const(wide)), "r")
        c = inliner.let(body, mod(at, const(wide)), "c")
        at_row = inliner.let(body, add(first_row, r), "row")
        at_column = inliner.let(body, add(first_column, c), "column")
        inside = logical_and(self.there(at_row, work.rows), self.there(at_column, work.columns))
        place = add(own, add(mul(r, const(patch_pitch(block))), c))
        stores: list[Stmt] = []
        self.store(stores, outer, at_row, at_column, Load(patch, place))
        body.append(If(inside, tuple(stores)))
        return For(at, const(UNIT * wide), tuple(body), "serial", self.lane, block.neighbours)

    def there(self, line: Expr, size: Dim) -> Expr:
        return less(line, self.inliner.size(size))
