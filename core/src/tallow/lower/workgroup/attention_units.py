"""Attention on matrix units: each sub-group has a few queries, and a block of keys and values is in shared memory.

Threads of a sub-group stand in lines, one for each query. Scores, then weights, then a part of the weighed values
pass through the same memory of the sub-group, from fragments to the threads of a line or back.
"""

from __future__ import annotations

import math

from tallow.dim import Dim, bounds
from tallow.dtype import f32
from tallow.kernel.build import add, call, cast, const, floordiv, less, logical_and, mod, mul, select
from tallow.kernel.grammar import (
    Alias,
    Alloc,
    Barrier,
    Buffer,
    Copy,
    Exchange,
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
    Update,
    Var,
)
from tallow.lower.group import Group
from tallow.lower.workgroup.attention_blocks import Attention
from tallow.lower.workgroup.contraction import Matrix
from tallow.lower.workgroup.fragments import COPIED
from tallow.lower.workgroup.tile import FEWEST, UNIT, has_units, padding, threads, unit_depth
from tallow.target import Target

GAP = 4  # elements of f32 between lines of scores
STEP = 4  # scores of a thread that become weights at once
SUMS = 64  # weighed values that a thread keeps, at most
BLOCKS = ((4, 64), (4, 32), (2, 64), (2, 32), (1, 32), (1, 16))  # sub-groups of a group, and keys


class Units(Attention):
    """The kernel while it is written; `fits` tells whether the target has the units and memory for it."""

    def __init__(self, group: Group, target: Target):
        super().__init__(group, target)
        self.dtype = self.q.dtype
        self.neighbours = target.limits.get("subgroup", 1)
        self.across = max(self.neighbours // UNIT, 1)
        self.deep, self.wide = _whole(self.depth, unit_depth(self.dtype)), _whole(self.width, UNIT)
        found = self.choose(target)
        self.fits = found is not None
        self.parts, self.block_keys = found or (1, UNIT)
        self.columns = UNIT * self.parts

    def choose(self, target: Target) -> tuple[int, int] | None:
        """The sub-groups and the keys of a block, if the target has what it takes and there are queries for it."""
        most = bounds(self.queries)[1]
        alike = self.q.dtype == self.k.dtype == self.v.dtype and has_units(self.dtype, target)
        if not alike or self.neighbours % UNIT or self.wide // self.across > SUMS:
            return None
        if most is not None and most < FEWEST:
            return None
        memory, count = target.limits.get("shared", 32 << 10), threads(target) // self.neighbours
        for parts, keys in BLOCKS:
            idle = parts > 1 and most is not None and most <= UNIT * parts // 2
            if parts <= count and not idle and self.memory(parts, keys) <= memory:
                return parts, keys
        return None

    def memory(self, parts: int, keys: int) -> int:
        """Bytes of shared memory: queries, keys and values, and scores."""
        gap = padding(self.dtype)
        lines = (UNIT * parts + keys) * (self.deep + gap) + keys * (self.wide + gap)
        return lines * self.dtype.itemsize + parts * UNIT * (keys + GAP) * f32.itemsize

    # One block of queries --------------------------------------------------------------------------

    def block(self) -> list[Stmt]:
        inliner, gap = self.inliner, padding(self.dtype)
        self.deep_pitch, self.wide_pitch, self.pitch = self.deep + gap, self.wide + gap, self.block_keys + GAP
        self.tokens = self.tile("queries", self.columns * self.deep_pitch)
        self.seen = self.tile("keys", self.block_keys * self.deep_pitch)
        self.weighed = self.tile("values", self.block_keys * self.wide_pitch)
        self.scores = self.local("scores", self.columns * self.pitch, "shared")
        ratio = f32.itemsize // self.dtype.itemsize
        self.weights = self.tile("weights", self.scores.size * ratio)
        self.weights_pitch = self.pitch * ratio
        self.top, self.total = (self.local(name, 1, "register") for name in ("top", "total"))
        self.sums = self.local("sums", self.wide // self.across, "register")
        self.thread = inliner.loop("t")
        body: list[Stmt] = [*map(Alloc, (self.top, self.total, self.sums)), Alias(self.weights, self.scores)]
        lane = inliner.let(body, mod(self.thread, const(self.neighbours)), "lane")
        self.part = inliner.let(body, floordiv(self.thread, const(self.neighbours)), "part")
        self.own = inliner.let(body, mul(self.part, const(UNIT)), "own")
        self.row = inliner.let(body, add(self.own, floordiv(lane, const(self.across))), "row")
        self.lane = inliner.let(body, mod(lane, const(self.across)), "side")
        self.token = inliner.let(body, self.last(self.queries, add(self.first, self.row)), "query")
        body += self.open()
        step = inliner.loop("k")
        keys = tuple(self.keys_from(step))
        body.append(For(step, inliner.size(self.keys), keys, "serial", const(0), self.block_keys))
        body += self.write()
        shared = (self.tokens, self.seen, self.weighed, self.scores)
        loop = For(self.thread, const(self.parts * self.neighbours), tuple(body), "group")
        return [*map(Alloc, shared), loop]

    def tile(self, name: str, size: int) -> Buffer:
        return Buffer(self.inliner.fresh(name), self.dtype, size, "shared", True)

    def fragment(self, body: list[Stmt], role: Role, turned: bool = False) -> Fragment:
        unit = unit_depth(self.dtype)
        rows, columns = {"left": (UNIT, unit), "right": (unit, UNIT), "sum": (UNIT, UNIT)}[role]
        dtype = f32 if role == "sum" else self.dtype
        found = Fragment(self.inliner.fresh(role), dtype, role, rows, columns, self.neighbours, turned)
        body.append(Alloc(found))
        return found

    def open(self) -> list[Stmt]:
        zero, start = const(0), self.number(0)
        operand = Matrix(self.q, self.q.shape[:2], True, "depth")
        return [
            Store(self.top, zero, self.number(-math.inf)),
            Store(self.total, zero, start),
            *(Store(self.sums, const(n), start) for n in range(self.sums.size)),
            self.fill(self.tokens, operand, self.head, self.first, self.queries, self.deep),
        ]

    def fill(
        self,
        memory: Buffer,
        operand: Matrix,
        head: Expr,
        first: Expr,
        size: Dim,
        wide: int,
        padded: bool = False,
    ) -> For:
        """All threads copy lines of features from token `first` on; features beyond the last are 0. Tokens beyond
        the last repeat it, or are 0 if `padded`."""
        inliner, at, pitch = self.inliner, self.inliner.loop("i"), wide + padding(self.dtype)
        chunk = min(operand.chunk(inliner), COPIED // self.dtype.itemsize)
        body: list[Stmt] = []
        line = inliner.let(body, floordiv(at, const(wide // chunk)), "line")
        feature = inliner.let(body, mul(mod(at, const(wide // chunk)), const(chunk)), "feature")
        token = inliner.let(body, add(first, line), "token")
        guard = less(feature, const(operand.value.shape[3]))
        if padded:
            guard = logical_and(guard, less(token, inliner.size(size)))
        guard = inliner.let(body, guard, "inside")
        token = inliner.let(body, self.last(size, token), "token")
        source = operand.place(inliner, body, (self.image, head), token)
        to = add(mul(line, const(pitch)), feature)
        if chunk == 1:
            value = operand.element(inliner, body, source, feature, guard, const(0))
            body.append(Store(memory, to, cast(value, self.dtype)))
        else:
            found = operand.load(inliner, body, source, feature, guard)
            body.append(Copy(memory, to, found.buffer, found.index, chunk, found.mask))
        pieces = memory.size // pitch * (wide // chunk)
        return For(at, const(pieces), tuple(body), "serial", self.thread, self.parts * self.neighbours)

    def keys_from(self, first: Expr) -> list[Stmt]:
        """One block of keys: scores, their exponentials, and the values weighed by them."""
        keys, values = (Matrix(v, v.shape[:2], True, "depth") for v in (self.k, self.v))
        head, together = self.shared_head, Barrier(self.neighbours)
        body: list[Stmt] = [
            self.fill(self.seen, keys, head, first, self.keys, self.deep),
            self.fill(self.weighed, values, head, first, self.keys, self.wide, True),
            Barrier(),
            *self.multiply(),
            together,
        ]
        peak = self.local("peak", 1, "register")
        body += [Alloc(peak), Store(peak, const(0), self.number(-math.inf)), self.mask(first, peak)]
        highest = self.fold(body, Load(peak, const(0)), lambda a, b: select(call("gt", b, a), b, a))
        new, ground, fade = self.renewed(body, Load(self.top, const(0)), highest)
        faded = call("mul", Load(self.total, const(0)), fade)
        body += [Store(self.top, const(0), new), Store(self.total, const(0), faded)]
        body += [self.weigh(ground), together, *self.add_values(fade), Barrier()]
        return body

    def multiply(self) -> list[Stmt]:
        """Queries times keys, into the sub-group's memory of scores."""
        body: list[Stmt] = []
        totals = [self.fragment(body, "sum") for _ in range(0, self.block_keys, UNIT)]
        for d in range(0, self.deep, unit_depth(self.dtype)):
            query = self.fragment(body, "left")
            place = add(mul(self.own, const(self.deep_pitch)), const(d))
            body.append(LoadMatrix(query, self.tokens, place, self.deep_pitch))
            for n, total in enumerate(totals):
                key = self.fragment(body, "right", True)
                place = const(n * UNIT * self.deep_pitch + d)
                body += [LoadMatrix(key, self.seen, place, self.deep_pitch), Multiply(total, query, key)]
        return body + [self.show(total, n) for n, total in enumerate(totals)]

    def show(self, total: Fragment, number: int) -> StoreMatrix:
        """A fragment to its place in the sub-group's memory, for all its threads."""
        place = add(mul(self.own, const(self.pitch)), const(UNIT * number))
        return StoreMatrix(self.scores, place, self.pitch, total)

    def of_line(self, column: Expr) -> Expr:
        """The place of a column of the thread's line."""
        return add(mul(self.row, const(self.pitch)), column)

    def mask(self, first: Expr, peak: Buffer) -> For:
        """A thread's scores with all that happens before the softmax, and the greatest of them."""
        inliner, at = self.inliner, self.inliner.loop("s")
        body: list[Stmt] = []
        for n in range(STEP):
            column = inliner.let(body, self.column(at, n), "column")
            key = inliner.let(body, add(first, column), "key")
            clamped = inliner.let(body, self.last(self.keys, key), "key")
            score = call("mul", Load(self.scores, self.of_line(column)), self.number(self.node["scale"]))
            score = self.masked(body, score, self.token, clamped, None)
            there = less(key, inliner.size(self.keys))
            score = inliner.let(body, select(there, score, self.number(-math.inf)), "score")
            # A score that is no number loses here: its exponential spoils the sum all the same.
            old = Load(peak, const(0))
            body.append(Store(peak, const(0), select(call("gt", score, old), score, old)))
            body.append(Store(self.scores, self.of_line(column), score))
        return For(at, const(self.block_keys // (STEP * self.across)), tuple(body))

    def column(self, at: Expr, n: int) -> Expr:
        """Column n of a thread's STEP columns, at a step of its way along the line."""
        line = add(mul(at, const(STEP * self.across)), mul(self.lane, const(STEP)))
        return add(line, const(n))

    def weigh(self, ground: Expr) -> For:
        """Scores become weights, narrower and in the same memory: each step writes what earlier steps and all threads
        of this one have read."""
        inliner, at = self.inliner, self.inliner.loop("s")
        body: list[Stmt] = []
        columns = [inliner.let(body, self.column(at, n), "column") for n in range(STEP)]
        weights = []
        for column in columns:
            score = Load(self.scores, self.of_line(column))
            weights.append(inliner.let(body, call("exp", call("sub", score, ground)), "weight"))
        for weight in weights:
            body.append(Update(self.total, const(0), "add", weight))
        body.append(Barrier(self.neighbours))
        for column, weight in zip(columns, weights, strict=True):
            place = add(mul(self.row, const(self.weights_pitch)), column)
            body.append(Store(self.weights, place, cast(weight, self.dtype)))
        return For(at, const(self.block_keys // (STEP * self.across)), tuple(body))

    def fold(self, body: list[Stmt], value: Expr, join) -> Expr:
        """What the threads of a line have, joined by twos."""
        value, distance = self.inliner.let(body, value, "all"), self.across // 2
        while distance:
            there = Var(self.inliner.fresh("there"), value.dtype)
            body.append(Exchange(there, value, distance))
            value, distance = self.inliner.let(body, join(value, there), "all"), distance // 2
        return value

    def add_values(self, fade: Expr) -> list[Stmt]:
        """The block's values weighed, added to the faded sums; as many features at a time as there are keys."""
        body: list[Stmt] = []
        weights = []
        for k in range(0, self.block_keys, unit_depth(self.dtype)):
            weights.append(self.fragment(body, "left"))
            place = add(mul(self.own, const(self.weights_pitch)), const(k))
            body.append(LoadMatrix(weights[-1], self.weights, place, self.weights_pitch))
        body.append(Barrier(self.neighbours))
        for start in range(0, self.wide, self.block_keys):
            features = range(start, min(start + self.block_keys, self.wide), UNIT)
            for n, feature in enumerate(features):
                total = self.fragment(body, "sum")
                for k, weight in enumerate(weights):
                    value = self.fragment(body, "right")
                    place = const(k * unit_depth(self.dtype) * self.wide_pitch + feature)
                    body += [LoadMatrix(value, self.weighed, place, self.wide_pitch)]
                    body.append(Multiply(total, weight, value))
                body.append(self.show(total, n))
            body.append(Barrier(self.neighbours))
            for n in range(0, UNIT * len(features), self.across):
                place = const((start + n) // self.across)
                found = Load(self.scores, self.of_line(add(self.lane, const(n))))
                older = call("mul", Load(self.sums, place), fade)
                body.append(Store(self.sums, place, call("add", older, found)))
            body.append(Barrier(self.neighbours))
        return body

    def write(self) -> list[Stmt]:
        inliner = self.inliner
        body: list[Stmt] = []
        total = self.fold(body, Load(self.total, const(0)), lambda a, b: call("add", a, b))
        share = self.share(body, total)
        places = []
        for n in range(self.sums.size):
            feature = add(self.lane, const(n * self.across))
            outside = (n + 1) * self.across > self.width
            places.append((const(n), feature, less(feature, const(self.width)) if outside else None))
        places = [p for n, p in enumerate(places) if n * self.across < self.width]
        body += self.spoil(total, self.sums, places)
        stores: list[Stmt] = []
        for place, feature, guard in places:
            inner: list[Stmt] = []
            self.finish(inner, self.token, feature, call("mul", Load(self.sums, place), share))
            stores += inner if guard is None else [If(guard, tuple(inner))]
        return [*body, If(less(add(self.first, self.row), inliner.size(self.queries)), tuple(stores))]


def _whole(size: int, step: int) -> int:
    """The multiple of a step that holds a size."""
    return -(-size // step) * step
