"""Contractions over the tile: sums in the registers of a thread, for devices with vectors and with groups.

Lines beyond the last repeat the last, so that no operand is read outside; their sums are not written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tallow.dim import Dim, bounds, ceildiv, product
from tallow.dtype import DType
from tallow.kernel import build
from tallow.kernel.build import add, const, floordiv, less, logical_and, minimum, mod, mul, sub
from tallow.kernel.grammar import Alloc, Barrier, Buffer, Expr, For, If, Load, Stmt, Store, Update, Var
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops, unravel
from tallow.lower.workgroup.contraction import Contraction, Operand
from tallow.lower.workgroup.tile import CHUNK, Block, Tile

PARALLEL_FLOPS = 60_000  # arithmetic that is worth a thread of its own


class Tiled:
    """One kernel while it is written."""

    def __init__(self, group: Group, inliner: Inliner, work: Contraction, tile: Tile | Block, kind: DType):
        self.group, self.inliner, self.work, self.tile, self.kind = group, inliner, work, tile, kind

    def call(self, name: str) -> Sequence[KernelCall]:
        inliner, work, tile = self.inliner, self.work, self.tile
        row_tiles, column_tiles = ceildiv(work.rows, tile.height), ceildiv(work.columns, tile.width)
        grid = product(work.outer) * row_tiles * column_tiles
        item = inliner.loop("g")
        body: list[Stmt] = []
        *outer, down, across = unravel(inliner, item, (*work.outer, row_tiles, column_tiles), body)
        row = inliner.let(body, mul(down, const(tile.height)), "row")
        column = inliner.let(body, mul(across, const(tile.width)), "column")
        body += self.tile_body(outer, row, column)
        flops = product((*work.outer, work.rows, work.columns, work.depth)) * 2 + count_flops(self.group)
        each = 2 * tile.height * tile.width * (bounds(work.depth)[1] or 256)
        loop = For(item, inliner.size(grid), tuple(body), "grid")
        return [inliner.call(name, [loop], grid, max(1, PARALLEL_FLOPS // max(1, each)), flops)]

    def tile_body(self, outer: Sequence[Expr], row: Expr, column: Expr) -> list[Stmt]:
        raise NotImplementedError

    def last(self, size: Dim, line: Expr) -> Expr:
        """A line, or the last one."""
        return minimum(line, self.inliner.size(size - 1))

    def sums(self) -> Buffer:
        """The sums of one thread."""
        size = self.tile.rows * self.tile.columns
        return Buffer(self.inliner.fresh("sums"), self.kind, size, "register", True)

    def over_taps(self, write: Callable[[Expr], list[Stmt]]) -> list[Stmt]:
        if self.work.taps == 1:
            return write(const(0))
        tap = self.inliner.loop("tap")
        return [For(tap, const(self.work.taps), tuple(write(tap)))]

    def store(self, body: list[Stmt], outer: Sequence[Expr], row: Expr, column: Expr, sum_: Expr) -> None:
        """A finished sum through the epilogue into the results."""
        index = self.work.result_index(self.inliner, body, outer, row, column)
        root = self.group.root.output
        scope = self.inliner.scope(body, {root: lambda _: build.cast(sum_, root.dtype)})
        for value in self.group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))


class Single(Tiled):
    """One thread: rows of vectors in registers, operands read where they lie."""

    def tile_body(self, outer: Sequence[Expr], row: Expr, column: Expr) -> list[Stmt]:
        inliner, work, tile = self.inliner, self.work, self.tile
        self.total = self.sums()
        body: list[Stmt] = []
        rows = [inliner.let(body, self.last(work.rows, add(row, const(r))), "row") for r in range(tile.rows)]
        places = [work.left.place(inliner, body, outer, at) for at in rows]
        panel = work.right.place(inliner, body, outer, column)
        body.append(Alloc(self.total))
        for r in range(tile.rows):
            n = inliner.loop("n")
            empty = Store(self.total, add(n, const(r * tile.columns)), const(0, self.kind))
            body.append(For(n, const(tile.columns), (empty,), "vector"))
        body += self.over_taps(lambda tap: self.meet(places, panel, tap, column))
        for r, at in enumerate(rows):
            body.append(self.write_row(outer, r, at, column))
        return body

    def meet(self, places: Sequence[object], panel: object, tap: Expr, column: Expr) -> list[Stmt]:
        """All elements of one tap."""
        inliner, work, tile = self.inliner, self.work, self.tile
        body: list[Stmt] = []
        lines = [work.left.tap(inliner, body, place, tap) for place in places]
        panel = work.right.tap(inliner, body, panel, tap)
        k = inliner.loop("k")
        inner: list[Stmt] = []
        values = [
            inliner.let(
                inner, build.cast(work.left.element(inliner, inner, line, k, None, const(0)), self.kind), "a"
            )
            for line in lines
        ]
        exact = work.right.padded or (isinstance(work.columns, int) and work.columns % tile.columns == 0)
        edge = None if exact else inliner.size(work.columns)
        for r, value in enumerate(values):
            n = inliner.loop("n")
            guard = None if edge is None else less(add(column, n), edge)
            loop: list[Stmt] = []
            other = build.cast(work.right.element(inliner, loop, panel, k, guard, n), self.kind)
            loop.append(
                Update(self.total, add(n, const(r * tile.columns)), "add", build.call("mul", value, other))
            )
            inner.append(For(n, const(tile.columns), tuple(loop), "vector"))
        body.append(For(k, inliner.size(work.each), tuple(inner)))
        return body

    def write_row(self, outer: Sequence[Expr], r: int, row: Expr, column: Expr) -> Stmt:
        n = self.inliner.loop("n")
        body: list[Stmt] = []
        place = add(n, const(r * self.tile.columns))
        self.store(body, outer, row, add(column, n), Load(self.total, place))
        columns = self.work.columns
        if not isinstance(columns, int) or columns % self.tile.columns:
            body = [If(less(add(column, n), self.inliner.size(columns)), tuple(body))]
        return For(n, const(self.tile.columns), tuple(body), "vector")


class Side:
    """Half of the staging: one operand's lines of a tile, copied to shared memory by all threads.

    Each thread fetches the same places of every piece: next pieces wait in registers while this one is used.
    """

    beside = 1  # neighbouring lines that are copied at once

    def __init__(self, tiled: Staged, operand: Operand, lines: int, name: str):
        self.tiled, self.operand, self.lines = tiled, operand, lines
        inliner, tile, kind = tiled.inliner, tiled.tile, tiled.kind
        self.pitch = lines + (CHUNK if operand.along == "depth" else 0)
        self.count = -(-lines * tile.depth // tile.threads)
        self.memory = Buffer(inliner.fresh(name), kind, self.pitch * tile.depth, "shared", True)
        self.waiting = Buffer(inliner.fresh("next"), kind, self.count, "register", True)

    def spread(self, thread: Expr) -> list[tuple[Expr, Expr]]:
        """(line, place in the piece) of each element that a thread copies."""
        depth, result = self.tiled.tile.depth, []
        for j in range(self.count):
            at = add(thread, const(j * self.tiled.tile.threads))
            if self.operand.along == "depth":
                result.append((floordiv(at, const(depth)), mod(at, const(depth))))
            else:
                result.append((mod(at, const(self.lines)), floordiv(at, const(self.lines))))
        return result

    @property
    def idle(self) -> bool:
        """Whether some threads have nothing to copy."""
        return self.lines * self.tiled.tile.depth < self.tiled.tile.threads

    def locate(self, body: list[Stmt], outer: Sequence[Expr], first: Expr, size: Dim, thread: Expr) -> None:
        inliner = self.tiled.inliner
        self.places = []
        known: dict[Expr, object] = {}
        for line, at in self.spread(thread):
            line, at = inliner.let(body, line, "line"), inliner.let(body, at, "at")
            if line not in known:
                beyond = minimum(add(first, line), inliner.size(size - self.beside))
                known[line] = self.operand.place(inliner, body, outer, inliner.let(body, beyond, "line"))
            self.places.append((line, at, known[line]))

    def fetch(self, body: list[Stmt], tap: Expr, first: Expr) -> None:
        """The piece from `first` on into registers; zeros beyond the end of the run."""
        tiled, inliner = self.tiled, self.tiled.inliner
        size = inliner.size(tiled.work.each)
        at_tap: dict[int, object] = {}
        for j, (_, at, place) in enumerate(self.places):
            if id(place) not in at_tap:
                at_tap[id(place)] = self.operand.tap(inliner, body, place, tap)
            k = inliner.let(body, add(first, at), "k")
            guard = inliner.let(body, less(k, size), "inside")
            if self.idle:
                guard = logical_and(guard, self.mine())
            self.take(body, j, at_tap[id(place)], k, guard)

    def take(self, body: list[Stmt], j: int, place: object, k: Expr, guard: Expr) -> None:
        """Element `k` of a line into register `j`."""
        value = self.operand.element(self.tiled.inliner, body, place, k, guard, const(0))
        body.append(Store(self.waiting, const(j), build.cast(value, self.waiting.dtype)))

    def mine(self) -> Expr:
        return less(self.tiled.thread, const(self.lines * self.tiled.tile.depth))

    def share(self) -> list[Stmt]:
        """What waits in registers, for all threads."""
        stores = tuple(
            Store(self.memory, add(mul(at, const(self.pitch)), line), Load(self.waiting, const(j)))
            for j, (line, at, _) in enumerate(self.places)
        )
        return [If(self.mine(), stores)] if self.idle else list(stores)


class Staged(Tiled):
    """A group of threads: pieces of both operands in shared memory, a block of sums for each thread."""

    def tile_body(self, outer: Sequence[Expr], row: Expr, column: Expr) -> list[Stmt]:
        inliner, work, tile = self.inliner, self.work, self.tile
        self.total, self.thread = self.sums(), inliner.loop("t")
        left, right = (
            Side(self, work.left, tile.height, "left"),
            Side(self, work.right, tile.width, "right"),
        )
        body: list[Stmt] = []
        self.down = inliner.let(body, floordiv(self.thread, const(tile.across)), "down")
        self.across = inliner.let(body, mod(self.thread, const(tile.across)), "across")
        left.locate(body, outer, row, work.rows, self.thread)
        right.locate(body, outer, column, work.columns, self.thread)
        z = inliner.loop("z")
        body += [Alloc(b) for b in (self.total, left.waiting, right.waiting)]
        body.append(For(z, const(self.total.size), (Store(self.total, z, const(0, self.kind)),)))
        body += self.pieces(left, right)
        body.append(self.write(outer, row, column))
        loop = For(self.thread, const(tile.threads), tuple(body), "group")
        return [Alloc(left.memory), Alloc(right.memory), loop]

    def pieces(self, left: Side, right: Side) -> list[Stmt]:
        """All pieces of all taps: share one, fetch the next, sum up."""
        inliner, work, depth = self.inliner, self.work, self.tile.depth
        each = ceildiv(work.each, depth)
        count = each * work.taps
        body: list[Stmt] = []
        for side in (left, right):
            side.fetch(body, const(0), const(0))
        piece = inliner.loop("piece")
        inner: list[Stmt] = [*left.share(), *right.share(), Barrier()]
        following = inliner.let(inner, add(piece, const(1)), "following")
        tap, at = const(0), following
        if work.taps != 1:
            # The piece after the last is fetched as the last tap's, so that taps stay inside the window.
            tap = minimum(floordiv(following, inliner.size(each)), const(work.taps - 1))
            tap = inliner.let(inner, tap, "tap")
            at = sub(following, mul(tap, inliner.size(each)))
        first = inliner.let(inner, mul(at, const(depth)), "first")
        for side in (left, right):
            side.fetch(inner, tap, first)
        inner += [*self.multiply(left, right), Barrier()]
        return [*body, For(piece, inliner.size(count), tuple(inner))]

    def multiply(self, left: Side, right: Side) -> list[Stmt]:
        """The piece's products into the thread's sums."""
        inliner, tile = self.inliner, self.tile
        k = inliner.loop("k")
        body: list[Stmt] = []
        parts = []
        for side, count, size, thread in (
            (left, tile.rows, tile.down, self.down),
            (right, tile.columns, tile.across, self.across),
        ):
            line = inliner.let(body, mul(k, const(side.pitch)), "line")
            parts.append(
                [
                    inliner.let(body, Load(side.memory, add(line, spread(n, count, size, thread))), "v")
                    for n in range(count)
                ]
            )
        for r, a in enumerate(parts[0]):
            for c, b in enumerate(parts[1]):
                body.append(Update(self.total, const(r * tile.columns + c), "add", build.call("mul", a, b)))
        return [For(k, const(tile.depth), tuple(body))]

    def write(self, outer: Sequence[Expr], row: Expr, column: Expr) -> Stmt:
        inliner, work, tile = self.inliner, self.work, self.tile
        r, c = inliner.loop("r"), inliner.loop("c")
        at_row = add(row, spread_at(r, tile.rows, tile.down, self.down))
        body: list[Stmt] = []
        at_row = inliner.let(body, at_row, "row")
        inner: list[Stmt] = []
        at_column = inliner.let(
            inner, add(column, spread_at(c, tile.columns, tile.across, self.across)), "column"
        )
        inside = logical_and(
            less(at_row, inliner.size(work.rows)), less(at_column, inliner.size(work.columns))
        )
        stores: list[Stmt] = []
        self.store(stores, outer, at_row, at_column, Load(self.total, add(mul(r, const(tile.columns)), c)))
        inner.append(If(inside, tuple(stores)))
        body.append(For(c, const(tile.columns), tuple(inner)))
        return For(r, const(tile.rows), tuple(body))


def spread(n: int, count: int, size: int, thread: Expr) -> Expr:
    """Where line n of a thread's `count` is among all: CHUNK neighbours, and then those of the next thread."""
    chunk = min(CHUNK, count)
    return add(mul(thread, const(chunk)), const(n // chunk * chunk * size + n % chunk))


def spread_at(n: Var, count: int, size: int, thread: Expr) -> Expr:
    """`spread` of a loop variable."""
    chunk = min(CHUNK, count)
    if count == chunk:
        return add(mul(thread, const(chunk)), n)
    block = mul(floordiv(n, const(chunk)), const(chunk * size))
    return add(mul(thread, const(chunk)), add(block, mod(n, const(chunk))))
