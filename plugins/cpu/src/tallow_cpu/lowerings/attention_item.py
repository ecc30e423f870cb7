"""What the ways through attention share: the operands, the scratch memory of an item and its parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tallow.backend import Target
from tallow.dim import Dim, bounds
from tallow.dtype import DType, bool_
from tallow.kernel import build
from tallow.kernel.build import add, call, const, less, minimum, mul, select
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, Load, Stmt, Store, Var
from tallow.lower.group import Group
from tallow.lower.inline import Inliner
from tallow.lower.reduce import accumulator
from tallow.ops.pointwise import operand_index
from tallow_cpu.lowerings.tile import Shape, is_roomy, multiply_rows

KEYS = 128  # keys of a block, about: their scores stay in the nearest cache


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the work is cut: `columns` queries of an item; `rows` keys by all columns, and `queries` by
    `panel` features, in registers at a time; `keys` of a block."""

    columns: int
    rows: int
    keys: int
    queries: int
    panel: int


def choose_blocks(queries: Dim, keys: Dim, width: int, kind: DType, target: Target) -> Blocks:
    """Tiles that fit the registers and waste little: one vector of queries if there are no more."""
    registers, lanes = 30 if is_roomy(target) else 14, max(target.vector_bytes, 16) // kind.itemsize
    most = bounds(queries)[1]
    across = 1 if most is not None and most <= lanes else 2
    columns = across * lanes
    tall = min(registers // across - 1, 14)
    rows = min(8, tall)
    if isinstance(keys, int) and keys:
        rows = min(range(max(tall // 2, 1), tall + 1), key=lambda r: (-(-keys // r) * r, -r))
    vectors = -(-width // lanes)
    wide = min(range(1, registers // 5 + 1), key=lambda v: (-(-vectors // v) * v, -v))
    fits = [q for q in (1, 2, 4, 8, 16) if q <= columns and q * wide + wide <= registers]
    several = min((q for q in fits if most is not None and q >= most), default=fits[-1])
    return Blocks(columns, rows, max(KEYS // rows, 1) * rows, several, wide * lanes)


class Item:
    """An item of the grid: a block of queries of one image and head.

    The kernel sets which: `image`, `head`, its `first` query, their `count`, and how many keys are `visible`.
    """

    image: Expr
    head: Expr
    first: Expr
    count: Expr
    visible: Expr

    def __init__(self, group: Group, target: Target):
        self.group, self.node = group, group.root
        self.batch, self.heads, self.groups, self.queries, self.keys, self.depth, self.width = self.node[
            "sizes"
        ]
        self.inliner = Inliner(group)
        self.kind = accumulator(self.node.output.dtype)
        self.blocks = blocks = choose_blocks(self.queries, self.keys, self.width, self.kind, target)
        self.sources = [self.inliner.buffer(v) for v in self.node.inputs[:3]]
        self.panels = -(-self.width // blocks.panel)
        self.turned = self.local("turned", self.depth * blocks.columns)
        self.scores = self.local("scores", blocks.keys * blocks.columns)
        self.result = self.local("result", blocks.columns * self.panels * blocks.panel)
        self.top, self.ground, self.fade, self.total = (
            self.local(name, blocks.columns) for name in ("top", "ground", "fade", "total")
        )

    def local(self, name: str, size: int) -> Buffer:
        return Buffer(self.inliner.fresh(name), self.kind, max(size, 1), "local", True)

    def register(self, name: str, size: int) -> Buffer:
        return Buffer(self.inliner.fresh(name), self.kind, size, "register", True)

    def lanes(self, write: Callable[[list[Stmt], Var], None], count: int | None = None) -> For:
        """A vector loop over the queries of the item, or over `count` places."""
        n = self.inliner.loop("n")
        body: list[Stmt] = []
        write(body, n)
        return For(n, const(count or self.blocks.columns), tuple(body), "vector")

    def fill(self, buffer: Buffer, value: float) -> For:
        number = const(value, self.kind)
        return self.lanes(lambda body, n: body.append(Store(buffer, n, number)), buffer.size)

    def element(self, operand: int, place: Expr) -> Expr:
        return build.cast(Load(self.sources[operand], place), self.kind)

    def start(self, operand: str, body: list[Stmt], image: Expr, head: Expr) -> Expr:
        """Where a head's features of the first query or key are in an operand's memory."""
        offset, strides = self.node[operand]
        size = self.inliner.size
        place = add(add(mul(image, size(strides[0])), mul(head, size(strides[1]))), size(offset))
        return self.inliner.let(body, place, operand)

    def turn_queries(self, start: Expr, columns: int) -> Stmt:
        """`columns` queries of the item, scaled, features by queries; those beyond the last repeat it."""
        m, d = self.inliner.loop("m"), self.inliner.loop("d")
        strides = self.node["q"][1]
        body: list[Stmt] = []
        at = minimum(add(self.first, m), self.inliner.size(self.queries - 1))
        row = self.inliner.let(body, add(start, mul(at, self.inliner.size(strides[2]))), "row")

        value = self.element(0, add(row, mul(d, self.inliner.size(strides[3]))))
        scaled = call("mul", value, const(self.node["scale"], self.kind))
        store = Store(self.turned, add(mul(d, const(columns)), m), scaled)
        body.append(For(d, const(self.depth), (store,)))
        return For(m, const(columns), tuple(body))

    def masked(self, body: list[Stmt], score: Expr, n: Var, key: Expr) -> Expr:
        """A raw score of query first + n after everything that happens before the softmax."""
        attributes, number = self.node.attributes, lambda value: const(value, self.kind)
        query = add(self.first, n)
        cap = attributes.get("softcap", 0.0)
        if cap:
            score = call("mul", call("tanh", call("mul", score, number(1 / cap))), number(cap))
        if len(self.node.inputs) > 3:
            mask = self.node.inputs[3]
            scores = (self.batch, self.heads, self.keys, self.queries)
            at = operand_index(mask.shape, scores, (self.image, self.head, key, query)[4 - mask.rank :])
            exact = isinstance(self.queries, int) and self.queries % self.blocks.columns == 0
            inside = (
                None if exact or mask.shape[-1:] == (1,) else less(query, self.inliner.size(self.queries))
            )
            value = self.inliner.scope(body).read(mask, at, inside)
            if mask.dtype == bool_:
                score = select(value, score, number(attributes.get("fill", -math.inf)))
            else:
                score = call("add", score, build.cast(value, self.kind))
        if attributes["causal"]:
            last = add(query, self.inliner.size(attributes.get("causal_offset", 0)))
            score = select(call("le", key, last), score, number(-math.inf))
        return score

    def place(self, query: Expr, column: Expr) -> Expr:
        return add(mul(query, const(self.panels * self.blocks.panel)), column)

    def weighed_tiles(
        self, first: Var, count: Expr, query: Expr, v: Expr, rows: int, pitch: int
    ) -> list[Stmt]:
        """`rows` queries from `query` on: what there is, faded, plus the block's values; the weights of one
        key are `pitch` from those of the next."""
        return [
            s
            for panel in range(self.panels)
            for s in self.weighed_tile(first, count, query, panel, v, rows, pitch)
        ]

    def weighed_tile(
        self, first: Var, count: Expr, query: Expr, panel: int, v: Expr, rows: int, pitch: int
    ) -> list[Stmt]:
        wide, size = self.blocks.panel, self.inliner.size
        strides, origin = self.node["v"][1], panel * wide
        total = self.register("acc", rows * wide)
        body: list[Stmt] = [Alloc(total)]
        for r in range(rows):
            fade = self.inliner.let(body, Load(self.fade, add(query, const(r))), "fade")

            def take(inner: list[Stmt], n: Var, r=r, fade=fade) -> None:
                old = Load(self.result, self.place(add(query, const(r)), add(n, const(origin))))
                inner.append(Store(total, add(n, const(r * wide)), call("mul", old, fade)))

            body.append(self.lanes(take, wide))
        base = self.inliner.let(body, add(v, mul(first, size(strides[2]))), "base")

        def value(key: Expr, n: Expr) -> Expr:
            column = add(n, const(origin))
            mask = less(column, const(self.width)) if origin + wide > self.width else None
            place = add(add(base, mul(key, size(strides[2]))), mul(column, size(strides[3])))
            return build.cast(Load(self.sources[2], place, 1, mask), self.kind)

        def weight(r: int, key: Expr) -> Expr:
            return Load(self.scores, add(mul(key, const(pitch)), add(query, const(r))))

        body += multiply_rows(self.inliner, Shape(rows, wide), total, count, weight, value)
        for r in range(rows):

            def keep(inner: list[Stmt], n: Var, r=r) -> None:
                place = self.place(add(query, const(r)), add(n, const(origin)))
                inner.append(Store(self.result, place, Load(total, add(n, const(r * wide)))))

            body.append(self.lanes(keep, wide))
        return body
