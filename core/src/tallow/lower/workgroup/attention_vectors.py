"""Attention by one thread with vectors: scores are kept keys by queries, so that lanes are queries.

Maxima, exponentials and their sums then need no step across lanes, keys are read as they lie, and both
products are tiles in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tallow.dim import bounds
from tallow.kernel.build import add, call, const, less, minimum, mul, select, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, Load, Stmt, Store, Update, Var
from tallow.lower.group import Group
from tallow.lower.workgroup.attention_blocks import Attention
from tallow.lower.workgroup.tile import lanes
from tallow.target import Target

KEYS = 96  # keys of a block, about: their scores stay in the nearest cache


class Vectors(Attention):
    """`rows` keys by all queries of the block, and `several` queries by `panel` features, in registers."""

    def __init__(self, group: Group, target: Target):
        super().__init__(group, target)
        width = lanes(target, self.kind.itemsize)
        most = bounds(self.queries)[1]
        across = 1 if most is not None and most <= width else 2
        sums = 24 if target.limits.get("registers", 16) >= 32 else 12
        self.columns, self.rows = across * width, sums // across
        self.block_keys = KEYS // self.rows * self.rows
        vectors = -(-self.width // width)
        wide = min(range(1, 5 if sums == 24 else 3), key=lambda v: (-(-vectors // v) * v, -v))
        self.panel, self.panels = wide * width, -(-vectors // wide)
        self.several = max(n for n in (1, 2, 4, 8) if n <= self.columns and n * wide <= sums)

    # Writing ---------------------------------------------------------------------------------------

    def lanes(self, write: Callable[[list[Stmt], Var], None], count: int | None = None) -> For:
        """A vector loop over the queries of the block, or over `count` places."""
        n = self.inliner.loop("n")
        body: list[Stmt] = []
        write(body, n)
        return For(n, const(count or self.columns), tuple(body), "vector")

    def fill(self, buffer: Buffer, value: float) -> list[Stmt]:
        """All of a buffer; registers a line of the block's queries at a time, so that they stay vectors."""
        number = self.number(value)
        if buffer.space != "register":
            return [self.lanes(lambda body, n: body.append(Store(buffer, n, number)), buffer.size)]
        return [
            self.lanes(lambda body, n, at=at: body.append(Store(buffer, add(n, const(at)), number)))
            for at in range(0, buffer.size, self.columns)
        ]

    # The kernel ------------------------------------------------------------------------------------

    def block(self) -> list[Stmt]:
        inliner, size = self.inliner, self.inliner.size
        self.turned = self.local("turned", self.depth * self.columns, "local")
        self.scores = self.local("scores", self.block_keys * self.columns, "local")
        self.result = self.local("result", self.columns * self.panels * self.panel, "local")
        self.top, self.ground, self.fade, self.total = (
            self.local(name, self.columns, "local") for name in ("top", "ground", "fade", "total")
        )
        buffers = (self.turned, self.scores, self.result, self.top, self.ground, self.fade, self.total)
        body: list[Stmt] = [Alloc(buffer) for buffer in buffers]
        self.count = inliner.let(
            body, minimum(sub(size(self.queries), self.first), const(self.columns)), "count"
        )
        for buffer, value in ((self.result, 0.0), (self.top, -math.inf), (self.total, 0.0)):
            body += self.fill(buffer, value)
        body.append(self.turn())
        step = inliner.loop("k")
        body.append(
            For(step, size(self.keys), tuple(self.keys_from(step)), "serial", const(0), self.block_keys)
        )
        body.append(self.write())
        return body

    def turn(self) -> Stmt:
        """The block's queries, features by queries; those beyond the last repeat it."""
        m, d = self.inliner.loop("m"), self.inliner.loop("d")
        body: list[Stmt] = []
        value = self.query(body, add(self.first, m), d)
        body.append(Store(self.turned, add(mul(d, const(self.columns)), m), value))
        return For(m, const(self.columns), (For(d, const(self.depth), tuple(body)),))

    def keys_from(self, first: Expr) -> list[Stmt]:
        inliner = self.inliner
        body: list[Stmt] = []
        rest = sub(inliner.size(self.keys), first)
        count = inliner.let(body, minimum(rest, const(self.block_keys)), "keys")
        peak = self.local("peak", self.columns, "local")
        body += [Alloc(peak), *self.fill(peak, -math.inf)]
        tile = inliner.loop("t")
        body.append(For(tile, count, tuple(self.score(first, tile, peak)), "serial", const(0), self.rows))
        body += self.exponentials(count, peak)
        query = inliner.loop("m")
        weighed = [s for panel in range(self.panels) for s in self.weigh(first, count, query, panel)]
        body.append(For(query, self.count, tuple(weighed), "serial", const(0), self.several))
        return body

    def score(self, first: Expr, tile: Expr, peak: Buffer) -> list[Stmt]:
        """Some keys against all queries of the block; keys beyond the last repeat it."""
        inliner, columns = self.inliner, self.columns
        body: list[Stmt] = []
        start = inliner.let(body, add(first, tile), "key")
        keys = [
            inliner.let(body, self.last(self.keys, add(start, const(r))), "key") for r in range(self.rows)
        ]
        total = self.local("acc", self.rows * columns, "register")
        body += [Alloc(total), *self.fill(total, 0.0)]
        d = inliner.loop("d")
        inner: list[Stmt] = []
        values = [inliner.let(inner, self.key(inner, key, d), "a") for key in keys]
        for r, value in enumerate(values):

            def meet(loop: list[Stmt], n: Var, r=r, value=value) -> None:
                product = call("mul", value, Load(self.turned, add(mul(d, const(columns)), n)))
                loop.append(Update(total, add(n, const(r * columns)), "add", product))

            inner.append(self.lanes(meet))
        body.append(For(d, const(self.depth), tuple(inner)))
        exact = isinstance(self.queries, int) and self.queries % columns == 0
        for r, key in enumerate(keys):

            def keep(loop: list[Stmt], n: Var, r=r, key=key) -> None:
                query = add(self.first, n)
                inside = None if exact else less(query, inliner.size(self.queries))
                score = self.masked(loop, Load(total, add(n, const(r * columns))), query, key, inside)
                score = inliner.let(loop, score, "score")
                loop.append(Store(self.scores, add(mul(add(tile, const(r)), const(columns)), n), score))
                # A score that is no number may lose here: its exponential spoils the sum all the same.
                old = Load(peak, n)
                loop.append(Store(peak, n, select(call("gt", score, old), score, old)))

            body.append(self.lanes(keep))
        return body

    def exponentials(self, count: Expr, peak: Buffer) -> list[Stmt]:
        """The new maximum, how much older sums fade by it, and the block's scores made weights."""

        def correct(body: list[Stmt], n: Var) -> None:
            new, ground, fade = self.renewed(
                body, self.inliner.let(body, Load(self.top, n), "old"), Load(peak, n)
            )
            body += [Store(b, n, e) for b, e in ((self.top, new), (self.ground, ground), (self.fade, fade))]
            body.append(Store(self.total, n, call("mul", Load(self.total, n), fade)))

        key = self.inliner.loop("k")

        def weigh(body: list[Stmt], n: Var) -> None:
            place = add(mul(key, const(self.columns)), n)
            below = call("sub", Load(self.scores, place), Load(self.ground, n))
            weight = self.inliner.let(body, call("exp", below), "weight")
            body += [Store(self.scores, place, weight), Update(self.total, n, "add", weight)]

        return [self.lanes(correct), For(key, count, (self.lanes(weigh),))]

    def place(self, query: Expr, feature: Expr) -> Expr:
        return add(mul(query, const(self.panels * self.panel)), feature)

    def weigh(self, first: Expr, count: Expr, query: Expr, panel: int) -> list[Stmt]:
        """Some queries and one panel of features: what there is, faded, and the block's values."""
        inliner, wide, origin = self.inliner, self.panel, panel * self.panel
        total = self.local("acc", self.several * wide, "register")
        body: list[Stmt] = [Alloc(total)]
        for r in range(self.several):
            fade = inliner.let(body, Load(self.fade, add(query, const(r))), "fade")

            def take(loop: list[Stmt], n: Var, r=r, fade=fade) -> None:
                old = Load(self.result, self.place(add(query, const(r)), add(n, const(origin))))
                loop.append(Store(total, add(n, const(r * wide)), call("mul", old, fade)))

            body.append(self.lanes(take, wide))
        key = inliner.loop("k")
        inner: list[Stmt] = []
        place = mul(key, const(self.columns))
        weights = [
            inliner.let(inner, Load(self.scores, add(place, add(query, const(r)))), "w")
            for r in range(self.several)
        ]
        for r, weight in enumerate(weights):

            def meet(loop: list[Stmt], n: Var, r=r, weight=weight) -> None:
                feature = add(n, const(origin))
                guard = less(feature, const(self.width)) if origin + wide > self.width else None
                value = self.value(loop, add(first, key), feature, guard)
                loop.append(Update(total, add(n, const(r * wide)), "add", call("mul", weight, value)))

            inner.append(self.lanes(meet, wide))
        body.append(For(key, count, tuple(inner)))
        for r in range(self.several):

            def keep(loop: list[Stmt], n: Var, r=r) -> None:
                at = self.place(add(query, const(r)), add(n, const(origin)))
                loop.append(Store(self.result, at, Load(total, add(n, const(r * wide)))))

            body.append(self.lanes(keep, wide))
        return body

    def write(self) -> Stmt:
        """Each query's result divided by its sum of weights."""
        m = self.inliner.loop("m")
        body: list[Stmt] = []
        total = self.inliner.let(body, Load(self.total, m), "total")
        share = self.share(body, total)
        feature = self.inliner.loop("c")
        again = self.spoil(total, self.result, [(self.place(m, feature), feature, None)])
        if again:
            body.append(For(feature, const(self.width), tuple(again)))
        query = self.inliner.let(body, add(self.first, m), "query")

        def store(loop: list[Stmt], n: Var) -> None:
            self.finish(loop, query, n, call("mul", Load(self.result, self.place(m, n)), share))

        body.append(self.lanes(store, self.width))
        return For(m, self.count, tuple(body))
