"""Attention as one kernel: a block of queries against the keys, a block of keys at a time.

Scores never leave a thread's scratch memory. They are kept keys by queries, so that the lanes of a
vector are queries: the maximum, the exponentials and their sum need no step across lanes, and keys are
read as they lie. The maximum seen so far and what depends on it are corrected when a later block of
keys has a larger one (Milakov and Gimelshein, 2018; Dao et al., 2022). One query alone, as a decoder's
steps have, goes another way (`one_query.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tallow.backend import Target
from tallow.dim import bounds, ceildiv, floordiv, product
from tallow.kernel import build
from tallow.kernel.build import add, call, const, minimum, mul, select, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Load, Stmt, Store, Update, Var
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.pointwise import unravel
from tallow_cpu.lowerings.attention_item import Item
from tallow_cpu.lowerings.decay import decay
from tallow_cpu.lowerings.one_query import OneQuery
from tallow_cpu.lowerings.tile import PARALLEL_FLOPS, Shape, multiply_rows


def decline_plain(group: Group, target: Target) -> Declined:
    """attention that no pass has made cpu.attention of."""
    return Declined("attention with a head size that is not a constant of at most 512")


def lower_attention(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.attention: one grid iteration for each image, head and block of queries."""
    if group.prologue:
        return Declined("operands of attention must be in memory")
    return _Attention(group, target).calls()


class _Attention(Item):
    def calls(self) -> Sequence[KernelCall]:
        size, blocks = self.inliner.size, self.blocks
        grid = product((self.batch, self.heads, ceildiv(self.queries, blocks.columns)))
        item = self.inliner.loop("g")
        body: list[Stmt] = []
        outer = (self.batch, self.heads, ceildiv(self.queries, blocks.columns))
        self.image, self.head, block = unravel(self.inliner, item, outer, body)
        self.first = self.inliner.let(body, mul(block, const(blocks.columns)), "first")
        rest = sub(size(self.queries), self.first)
        self.count = self.inliner.let(body, minimum(rest, const(blocks.columns)), "count")
        shared = self.head
        if self.heads != self.groups:
            shared = self.inliner.let(
                body, build.floordiv(self.head, size(floordiv(self.heads, self.groups))), "shared"
            )
        q = self.start("q", body, self.image, self.head)
        k, v = (self.start(name, body, self.image, shared) for name in ("k", "v"))
        buffers = (self.turned, self.scores, self.result, self.top, self.ground, self.fade, self.total)
        body += [Alloc(buffer) for buffer in buffers]
        body += [self.fill(self.result, 0.0), self.fill(self.top, -math.inf), self.fill(self.total, 0.0)]
        self.visible = self.count_visible(body)
        body += self.weigh(q, k, v)
        if self.node["causal"]:
            body += self.hidden(v)
        body.append(self.write(v))
        flops = 2 * product((self.batch, self.heads, self.queries, self.keys, self.depth + self.width))
        each = 2 * blocks.columns * (bounds(self.keys)[1] or 256) * (self.depth + self.width)
        loop = For(item, size(grid), tuple(body), "grid")
        return [self.inliner.call("attention", [loop], grid, max(1, PARALLEL_FLOPS // max(each, 1)), flops)]

    def weigh(self, q: Expr, k: Expr, v: Expr) -> list[Stmt]:
        """The values of all keys that some query of the item may see, weighed, into the result."""
        low, high = bounds(self.queries)
        one = OneQuery(self)
        if high == 1:
            return one.statements(q, k, v)
        step = self.inliner.loop("k")
        block = tuple(self.key_block(step, k, v))
        several = (
            self.turn_queries(q, self.blocks.columns),
            For(step, self.visible, block, "serial", const(0), self.blocks.keys),
        )
        if low > 1:
            return list(several)
        return [If(call("eq", self.count, const(1)), tuple(one.statements(q, k, v)), several)]

    def count_visible(self, body: list[Stmt]) -> Expr:
        """How many keys, from the first on, some query of the item may see."""
        keys = self.inliner.size(self.keys)
        if not self.node["causal"]:
            return keys
        offset = self.inliner.size(self.node.attributes.get("causal_offset", 0))
        visible = build.maximum(add(add(self.first, self.count), offset), const(0))
        return self.inliner.let(body, minimum(visible, keys), "visible")

    def hidden(self, v: Expr) -> list[Stmt]:
        """The values of keys that no query of the item sees, times 0, which is 0 where they are finite."""
        tail, zero = self.local("tail", self.width), const(0, self.kind)
        key, m = self.inliner.loop("k"), self.inliner.loop("m")
        strides, size = self.node["v"][1], self.inliner.size

        def gather(body: list[Stmt], n: Var) -> None:
            value = self.element(2, add(add(v, mul(key, size(strides[2]))), mul(n, size(strides[3]))))
            body.append(Update(tail, n, "add", call("mul", zero, value)))

        def spread(body: list[Stmt], n: Var) -> None:
            body.append(Update(self.result, self.place(m, n), "add", Load(tail, n)))

        gathered = For(key, size(self.keys), (self.lanes(gather, self.width),), "serial", self.visible)
        spreading = For(m, self.count, (self.lanes(spread, self.width),))
        return [Alloc(tail), self.fill(tail, 0.0), gathered, spreading]

    def key_block(self, first: Var, k: Expr, v: Expr) -> list[Stmt]:
        """Scores of a block of keys, their exponentials, and the values weighed by them."""
        body: list[Stmt] = []
        count = self.inliner.let(body, minimum(sub(self.visible, first), const(self.blocks.keys)), "keys")
        peak = self.register("peak", self.blocks.columns)
        body += [Alloc(peak), self.fill(peak, -math.inf)]
        tile = self.inliner.loop("t")
        body.append(
            For(
                tile,
                count,
                tuple(self.score_tile(first, tile, k, peak)),
                "serial",
                const(0),
                self.blocks.rows,
            )
        )
        body += self.exponentials(count, peak)
        query = self.inliner.loop("m")
        weighed = self.weighed_tiles(first, count, query, v, self.blocks.queries, self.blocks.columns)
        body.append(For(query, self.count, tuple(weighed), "serial", const(0), self.blocks.queries))
        return body

    def score_tile(self, first: Var, tile: Var, k: Expr, peak: Buffer) -> list[Stmt]:
        """Keys tile.. of the block against all queries of the item; keys beyond the last repeat it."""
        columns, size = self.blocks.columns, self.inliner.size
        strides = self.node["k"][1]
        body: list[Stmt] = []
        start = self.inliner.let(body, add(first, tile), "key")
        keys = [
            self.inliner.let(body, minimum(add(start, const(r)), size(self.keys - 1)), "key") if r else start
            for r in range(self.blocks.rows)
        ]
        bases = [self.inliner.let(body, add(k, mul(key, size(strides[2]))), "base") for key in keys]
        total = self.register("acc", self.blocks.rows * columns)
        body += [Alloc(total), self.fill(total, 0.0)]

        body += multiply_rows(
            self.inliner,
            Shape(self.blocks.rows, columns),
            total,
            const(self.depth),
            lambda r, d: self.element(1, add(bases[r], mul(d, size(strides[3])))),
            lambda d, n: Load(self.turned, add(mul(d, const(columns)), n)),
        )
        for r, key in enumerate(keys):
            body.append(self.finish_scores(total, peak, r, add(tile, const(r)), key))
        return body

    def finish_scores(self, total: Buffer, peak: Buffer, r: int, place: Expr, key: Expr) -> Stmt:
        """One key's scores with cap and masks into scratch memory, and into the peak."""
        columns = self.blocks.columns

        def write(body: list[Stmt], n: Var) -> None:
            score = self.masked(body, Load(total, add(n, const(r * columns))), n, key)
            score = self.inliner.let(body, score, "score")
            body.append(Store(self.scores, add(mul(place, const(columns)), n), score))
            # A score that is no number may lose here: its exponential spoils the sum all the same.
            higher = select(call("gt", score, Load(peak, n)), score, Load(peak, n))
            body.append(Store(peak, n, higher))

        return self.lanes(write)

    def exponentials(self, count: Expr, peak: Buffer) -> list[Stmt]:
        """The new maximum, how much older sums fade by it, and the block's scores made weights."""
        low, zero = const(-math.inf, self.kind), const(0, self.kind)
        total = self.register("sum", self.blocks.columns)

        def correct(body: list[Stmt], n: Var) -> None:
            old, found = self.inliner.let(body, Load(self.top, n), "old"), Load(peak, n)
            new = self.inliner.let(body, select(call("gt", found, old), found, old), "new")
            # Where no key counts so far, weights are 0 rather than exp(-inf + inf).
            ground = self.inliner.let(body, select(call("eq", new, low), zero, new), "ground")
            fade = self.inliner.let(body, decay(body, self.inliner.fresh, call("sub", old, ground)), "fade")
            body.append(Store(self.top, n, new))
            body.append(Store(self.ground, n, ground))
            body.append(Store(self.fade, n, fade))
            body.append(Store(total, n, call("mul", Load(self.total, n), fade)))

        key = self.inliner.loop("k")

        def weigh(body: list[Stmt], n: Var) -> None:
            place = add(mul(key, const(self.blocks.columns)), n)
            below = call("sub", Load(self.scores, place), Load(self.ground, n))
            weight = self.inliner.let(body, decay(body, self.inliner.fresh, below), "weight")
            body.append(Store(self.scores, place, weight))
            body.append(Update(total, n, "add", weight))

        keep = self.lanes(lambda body, n: body.append(Store(self.total, n, Load(total, n))))
        return [Alloc(total), self.lanes(correct), For(key, count, (self.lanes(weigh),)), keep]

    def write(self, v: Expr) -> Stmt:
        """Each query's result divided by its sum of weights, through the epilogue."""
        m, column = self.inliner.loop("m"), self.inliner.loop("c")
        body: list[Stmt] = []
        total = self.inliner.let(body, Load(self.total, m), "total")
        one = const(1, self.kind)
        none = call("eq", self.inliner.size(self.keys), const(0))
        share = select(none, one, call("div", one, total))
        if self.node.attributes.get("safe", False):
            body += self.unweighed(m, total, v)
            share = select(call("gt", total, const(0, self.kind)), share, one)
        share = self.inliner.let(body, share, "share")
        query = add(self.first, m)
        inner: list[Stmt] = []
        done = build.cast(
            call("mul", Load(self.result, self.place(m, column)), share), self.node.output.dtype
        )
        done = self.inliner.let(inner, done, "y")
        scope = self.inliner.scope(inner, {self.node.output: lambda _: done})
        index = (self.image, self.head, query, column)
        if self.node["tokens_first"]:
            index = (self.image, query, self.head, column)
        for value in self.group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))
        body.append(For(column, const(self.width), tuple(inner), "vector"))
        return For(m, self.count, tuple(body))

    def unweighed(self, m: Expr, total: Expr, v: Expr) -> list[Stmt]:
        """Where weights are not numbers: the values times 0, which is 0 where they are finite."""
        strides, size = self.node["v"][1], self.inliner.size
        key = self.inliner.loop("k")
        zero = const(0, self.kind)

        def clear(body: list[Stmt], n: Var) -> None:
            body.append(Store(self.result, self.place(m, n), zero))

        def spoil(body: list[Stmt], n: Var) -> None:
            value = self.element(2, add(add(v, mul(key, size(strides[2]))), mul(n, size(strides[3]))))
            body.append(Update(self.result, self.place(m, n), "add", call("mul", zero, value)))

        loops = (
            self.lanes(clear, self.width),
            For(key, size(self.keys), (self.lanes(spoil, self.width),)),
        )
        return [If(call("isnan", total), loops)]
