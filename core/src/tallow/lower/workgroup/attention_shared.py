"""Attention by a group of threads: queries, a block of keys or values, and their scores in shared memory."""

from __future__ import annotations

import math

from tallow.kernel.build import add, call, const, floordiv, less, logical_and, minimum, mod, mul, select
from tallow.kernel.grammar import Alloc, Barrier, Expr, For, If, Load, Stmt, Store, Update
from tallow.lower.group import Group
from tallow.lower.workgroup.attention_blocks import Attention
from tallow.lower.workgroup.tile import threads
from tallow.target import Target


class Shared(Attention):
    """Threads stand in `down` rows of `across`: each has a few scores of some queries and keys, and of the
    same queries some features of the result."""

    def __init__(self, group: Group, target: Target):
        super().__init__(group, target)
        count = threads(target)
        self.down = 1 << (count.bit_length() - 1) // 2
        self.across = count // self.down
        memory = target.limits.get("shared", 32 << 10) // self.kind.itemsize
        self.each = next((n for n in (2, 1) if self.memory(n) <= memory), 0)
        self.columns, self.block_keys = self.down * self.each, self.across * self.each

    @property
    def fits(self) -> bool:
        return self.each > 0

    def memory(self, each: int) -> int:
        """Elements of shared memory where a thread has `each` by `each` scores."""
        queries, keys = self.down * each, self.across * each
        return queries * (self.depth + keys + 6) + keys * (max(self.depth, self.width) + 1)

    def block(self) -> list[Stmt]:
        inliner = self.inliner
        self.pitch = max(self.depth, self.width) + 1
        self.tokens = self.local("queries", self.columns * (self.depth + 1), "shared")
        self.piece = self.local("piece", self.block_keys * self.pitch, "shared")
        self.scores = self.local("scores", self.columns * (self.block_keys + 1), "shared")
        self.top, self.ground, self.fade, self.total = (
            self.local(name, self.columns, "shared") for name in ("top", "ground", "fade", "total")
        )
        self.wide = -(-self.width // self.across)
        self.sums = self.local("sums", self.each * self.wide, "register")
        self.thread = inliner.loop("t")
        body: list[Stmt] = [Alloc(self.sums)]
        self.row = inliner.let(body, floordiv(self.thread, const(self.across)), "down")
        self.lane = inliner.let(body, mod(self.thread, const(self.across)), "across")
        body += self.open()
        step = inliner.loop("k")
        body.append(
            For(
                step,
                inliner.size(self.keys),
                tuple(self.keys_from(step)),
                "serial",
                const(0),
                self.block_keys,
            )
        )
        body += self.write()
        shared = (self.tokens, self.piece, self.scores, self.top, self.ground, self.fade, self.total)
        loop = For(self.thread, const(self.down * self.across), tuple(body), "group")
        return [*(Alloc(b) for b in shared), loop]

    def spread(self, count: int, wide: int, write) -> For:
        """All threads over `count` lines of `wide` elements: `write(body, line, place)` copies one."""
        inliner, at = self.inliner, self.inliner.loop("i")
        body: list[Stmt] = []
        line = inliner.let(body, floordiv(at, const(wide)), "line")
        write(body, line, inliner.let(body, mod(at, const(wide)), "place"))
        return For(at, const(count * wide), tuple(body), "serial", self.thread, self.down * self.across)

    def by_query(self, body: list[Stmt]) -> If:
        """What one thread does for each query of the block."""
        return If(less(self.thread, const(self.columns)), tuple(body))

    def open(self) -> list[Stmt]:
        def copy(body: list[Stmt], line: Expr, d: Expr) -> None:
            place = add(mul(line, const(self.depth + 1)), d)
            body.append(Store(self.tokens, place, self.query(body, add(self.first, line), d)))

        zero = self.number(0)
        places = range(self.sums.size)
        start = [Store(self.top, self.thread, self.number(-math.inf)), Store(self.total, self.thread, zero)]
        return [
            *(Store(self.sums, const(n), zero) for n in places),
            self.spread(self.columns, self.depth, copy),
            self.by_query(start),
            Barrier(),
        ]

    def keys_from(self, first: Expr) -> list[Stmt]:
        """One block of keys: scores, their exponentials, and the values weighed by them."""
        inliner = self.inliner
        body: list[Stmt] = []

        def copy_key(inner: list[Stmt], line: Expr, d: Expr) -> None:
            place = add(mul(line, const(self.pitch)), d)
            inner.append(Store(self.piece, place, self.key(inner, add(first, line), d)))

        def copy_value(inner: list[Stmt], line: Expr, d: Expr) -> None:
            token = inliner.let(inner, add(first, line), "token")
            guard = inliner.let(inner, less(token, inliner.size(self.keys)), "inside")
            value = select(guard, self.value(inner, token, d, guard), self.number(0))
            inner.append(Store(self.piece, add(mul(line, const(self.pitch)), d), value))

        body += [self.spread(self.block_keys, self.depth, copy_key), Barrier()]
        held = self.score(body, first)
        body += [Barrier(), self.by_query(self.renew()), self.spread(self.block_keys, self.width, copy_value)]
        body.append(Barrier())
        for place, row, score in held:
            weight = call("exp", call("sub", score, Load(self.ground, row)))
            body.append(Store(self.scores, place, weight))
        body += [Barrier(), self.by_query(self.add_up()), *self.weigh(), Barrier()]
        return body

    def score(self, body: list[Stmt], first: Expr) -> list[tuple[Expr, Expr, Expr]]:
        """A thread's scores into shared memory: (place, query of the block, score) of each."""
        inliner, each = self.inliner, self.each
        total = self.local("acc", each * each, "register")
        body += [Alloc(total), *(Store(total, const(n), self.number(0)) for n in range(total.size))]
        d = inliner.loop("d")
        rows = [inliner.let(body, add(self.row, const(r * self.down)), "row") for r in range(each)]
        tokens = [inliner.let(body, add(self.lane, const(c * self.across)), "token") for c in range(each)]
        inner: list[Stmt] = []
        left = [
            inliner.let(inner, Load(self.tokens, add(mul(row, const(self.depth + 1)), d)), "q")
            for row in rows
        ]
        right = [
            inliner.let(inner, Load(self.piece, add(mul(token, const(self.pitch)), d)), "k")
            for token in tokens
        ]
        for r, a in enumerate(left):
            for c, b in enumerate(right):
                inner.append(Update(total, const(r * each + c), "add", call("mul", a, b)))
        body.append(For(d, const(self.depth), tuple(inner)))
        held = []
        for r, row in enumerate(rows):
            query = inliner.let(body, self.last(self.queries, add(self.first, row)), "query")
            for c, token in enumerate(tokens):
                key = inliner.let(body, add(first, token), "key")
                clamped = inliner.let(body, self.last(self.keys, key), "key")
                score = self.masked(body, Load(total, const(r * each + c)), query, clamped, None)
                there = less(key, inliner.size(self.keys))
                score = inliner.let(body, select(there, score, self.number(-math.inf)), "score")
                place = inliner.let(body, add(mul(row, const(self.block_keys + 1)), token), "place")
                body.append(Store(self.scores, place, score))
                held.append((place, row, score))
        return held

    def line(self, write) -> For:
        """Over the block's keys of the thread's own query."""
        at = self.inliner.loop("k")
        body: list[Stmt] = []
        write(body, Load(self.scores, add(mul(self.thread, const(self.block_keys + 1)), at)))
        return For(at, const(self.block_keys), tuple(body))

    def renew(self) -> list[Stmt]:
        """The maximum of a query's scores, and what follows from it."""
        peak = self.local("peak", 1, "register")
        body: list[Stmt] = [Alloc(peak), Store(peak, const(0), self.number(-math.inf))]

        def higher(inner: list[Stmt], score: Expr) -> None:
            # A score that is no number loses here: its exponential spoils the sum all the same.
            score = self.inliner.let(inner, score, "score")
            old = Load(peak, const(0))
            inner.append(Store(peak, const(0), select(call("gt", score, old), score, old)))

        body.append(self.line(higher))
        new, ground, fade = self.renewed(body, Load(self.top, self.thread), Load(peak, const(0)))
        body += [
            Store(b, self.thread, e) for b, e in ((self.top, new), (self.ground, ground), (self.fade, fade))
        ]
        body.append(Store(self.total, self.thread, call("mul", Load(self.total, self.thread), fade)))
        return body

    def add_up(self) -> list[Stmt]:
        def plus(inner: list[Stmt], weight: Expr) -> None:
            inner.append(Update(self.total, self.thread, "add", weight))

        return [self.line(plus)]

    def features(self) -> list[tuple[int, Expr]]:
        return [(c, add(self.lane, const(c * self.across))) for c in range(self.wide)]

    def weigh(self) -> list[Stmt]:
        """Sums of values so far, faded, and the block's."""
        inliner = self.inliner
        body: list[Stmt] = []
        rows = [add(self.row, const(r * self.down)) for r in range(self.each)]
        for r, row in enumerate(rows):
            fade = inliner.let(body, Load(self.fade, row), "fade")
            for c in range(self.wide):
                place = const(r * self.wide + c)
                body.append(Store(self.sums, place, call("mul", Load(self.sums, place), fade)))
        key = inliner.loop("k")
        inner: list[Stmt] = []
        weights = [
            inliner.let(inner, Load(self.scores, add(mul(row, const(self.block_keys + 1)), key)), "w")
            for row in rows
        ]
        for c, feature in self.features():
            feature = minimum(feature, const(self.width - 1)) if self.width % self.across else feature
            value = inliner.let(inner, Load(self.piece, add(mul(key, const(self.pitch)), feature)), "v")
            for r, weight in enumerate(weights):
                inner.append(Update(self.sums, const(r * self.wide + c), "add", call("mul", weight, value)))
        return [*body, For(key, const(self.block_keys), tuple(inner))]

    def write(self) -> list[Stmt]:
        inliner = self.inliner
        rows: list[Stmt] = []
        for r in range(self.each):
            body: list[Stmt] = []
            row = inliner.let(body, add(self.row, const(r * self.down)), "row")
            query = inliner.let(body, add(self.first, row), "query")
            total = inliner.let(body, Load(self.total, row), "total")
            share = self.share(body, total)
            bounded = self.width % self.across != 0
            places = [
                (const(r * self.wide + c), feature, less(feature, const(self.width)) if bounded else None)
                for c, feature in self.features()
            ]
            body += self.spoil(total, self.sums, places)
            there = less(query, inliner.size(self.queries))
            for place, feature, guard in places:
                inner: list[Stmt] = []
                self.finish(inner, query, feature, call("mul", Load(self.sums, place), share))
                body.append(If(there if guard is None else logical_and(there, guard), tuple(inner)))
            rows += body
        return rows
