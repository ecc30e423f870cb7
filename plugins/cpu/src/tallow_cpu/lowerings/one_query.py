"""Attention of one query, as a decoder's steps are: each key and each value is read once, as it lies.

Lanes are the features of a key, then keys, then the features of a value.
"""

from __future__ import annotations

import math

from tallow.kernel.build import add, call, const, minimum, mul, select, sub
from tallow.kernel.grammar import Alloc, Expr, For, Load, Stmt, Store, Update, Var
from tallow_cpu.lowerings.attention_item import Item
from tallow_cpu.lowerings.decay import decay

KEYS = 8  # products in flight: their sums hide each other's latency


class OneQuery:
    """The part of an attention kernel between its queries and its results, where an item has one query."""

    def __init__(self, item: Item):
        self.item, self.inliner, self.kind = item, item.inliner, item.kind
        self.block = item.scores.size // KEYS * KEYS
        self.scores = item.scores

    def statements(self, q: Expr, k: Expr, v: Expr) -> list[Stmt]:
        """As `_Attention.weigh`: a block of keys after the other."""
        step = self.inliner.loop("k")
        body: list[Stmt] = []
        rest = sub(self.item.visible, step)
        count = self.inliner.let(body, minimum(rest, const(self.block)), "keys")
        tile = self.inliner.loop("t")
        body.append(For(tile, count, tuple(self.products(step, tile, k)), "serial", const(0), KEYS))
        body += self.weights(step, count)
        body += self.item.weighed_tiles(step, count, const(0), v, rows=1, pitch=1)
        turned = self.item.turn_queries(q, columns=1)
        return [turned, For(step, self.item.visible, tuple(body), "serial", const(0), self.block)]

    def products(self, first: Var, tile: Var, k: Expr) -> list[Stmt]:
        """The query times KEYS keys; those beyond the last repeat it."""
        item, size = self.item, self.inliner.size
        strides = item.node["k"][1]
        body: list[Stmt] = []
        total = item.register("acc", KEYS)
        n = self.inliner.loop("n")
        updates: list[Stmt] = []
        for r in range(KEYS):
            key = minimum(add(add(first, tile), const(r)), size(item.keys - 1))
            base = self.inliner.let(body, add(k, mul(key, size(strides[2]))), "base")
            product = call("mul", Load(item.turned, n), item.element(1, add(base, mul(n, size(strides[3])))))
            updates.append(Update(total, const(r), "add", product))
        body += [Alloc(total), *(Store(total, const(r), const(0, self.kind)) for r in range(KEYS))]
        body.append(For(n, const(item.depth), tuple(updates), "vector"))
        for r in range(KEYS):
            body.append(Store(self.scores, add(tile, const(r)), Load(total, const(r))))
        return body

    def weights(self, first: Var, count: Expr) -> list[Stmt]:
        """The block's scores made weights, below the new maximum; the sum so far and how much it fades."""
        item, zero, low = self.item, const(0, self.kind), const(-math.inf, self.kind)
        at = const(0)
        peak, total = item.register("peak", 1), item.register("sum", 1)
        body: list[Stmt] = [Alloc(peak), Store(peak, at, low), Alloc(total), Store(total, at, zero)]
        n = self.inliner.loop("n")
        scoring: list[Stmt] = []
        score = item.masked(scoring, Load(self.scores, n), at, add(first, n))
        score = self.inliner.let(scoring, score, "score")
        scoring += [Store(self.scores, n, score), Update(peak, at, "max", score)]
        body.append(For(n, count, tuple(scoring), "vector"))

        old, found = (self.inliner.let(body, Load(b, at), "top") for b in (item.top, peak))
        new = self.inliner.let(body, select(call("gt", found, old), found, old), "new")
        # Where no key counts so far, weights are 0 rather than exp(-inf + inf).
        ground = self.inliner.let(body, select(call("eq", new, low), zero, new), "ground")
        fade = self.inliner.let(body, decay(body, self.inliner.fresh, call("sub", old, ground)), "fade")
        body += [Store(item.top, at, new), Store(item.fade, at, fade)]

        n = self.inliner.loop("n")
        weighing: list[Stmt] = []
        below = call("sub", Load(self.scores, n), ground)
        weight = self.inliner.let(weighing, decay(weighing, self.inliner.fresh, below), "weight")
        weighing += [Store(self.scores, n, weight), Update(total, at, "add", weight)]
        body.append(For(n, count, tuple(weighing), "vector"))
        faded = call("fma", Load(item.total, at), fade, Load(total, at))
        body.append(Store(item.total, at, faded))
        return body
