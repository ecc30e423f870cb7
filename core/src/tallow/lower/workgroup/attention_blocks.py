"""Attention by blocks: what kernels of all devices have in common.

A block of queries meets all keys, a block of keys at a time. Scores never reach the device's memory. The
maximum seen so far, and what depends on it, are corrected when a later block of keys has a larger one (Milakov
and Gimelshein, 2018; Dao et al., 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tallow.dim import ceildiv, floordiv, product
from tallow.dtype import bool_
from tallow.kernel import build
from tallow.kernel.build import add, call, const, minimum, mul, select
from tallow.kernel.grammar import Buffer, Expr, For, If, Stmt, Store, Update
from tallow.lower.group import Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, unravel
from tallow.lower.reduce import accumulator
from tallow.ops.pointwise import operand_index
from tallow.target import Target


class Attention:
    """What the kernels of all devices have in common, while one is written."""

    columns: int  # queries of a block

    def __init__(self, group: Group, target: Target):
        self.group, self.node, self.inliner = group, group.root, Inliner(group)
        self.q, self.k, self.v = self.node.inputs[:3]
        self.batch, self.heads, self.queries, self.depth = self.q.shape
        self.keys, self.width = self.k.shape[2], self.v.shape[3]
        self.kind = accumulator(self.node.output.dtype)

    def local(self, name: str, size: int, space: str) -> Buffer:
        return Buffer(self.inliner.fresh(name), self.kind, size, space, True)

    def number(self, value: float) -> Expr:
        return const(value, self.kind)

    def calls(self) -> Sequence[KernelCall]:
        inliner, size = self.inliner, self.inliner.size
        outer = (self.batch, self.heads, ceildiv(self.queries, self.columns))
        grid = product(outer)
        item = inliner.loop("g")
        body: list[Stmt] = []
        self.image, self.head, block = unravel(inliner, item, outer, body)
        self.first = inliner.let(body, mul(block, const(self.columns)), "first")
        self.shared_head = self.head
        if self.heads != self.k.shape[1]:
            repeat = size(floordiv(self.heads, self.k.shape[1]))
            self.shared_head = inliner.let(body, build.floordiv(self.head, repeat), "shared")
        body += self.block()
        flops = 2 * product((self.batch, self.heads, self.queries, self.keys, self.depth + self.width))
        loop = For(item, size(grid), tuple(body), "grid")
        return [inliner.call("attention", [loop], grid, max(1, GRAIN // 4096), flops)]

    def block(self) -> list[Stmt]:
        raise NotImplementedError

    # Elements --------------------------------------------------------------------------------------

    def last(self, size, token: Expr) -> Expr:
        """A token, or the last one."""
        return minimum(token, self.inliner.size(size - 1))

    def query(self, body: list[Stmt], token: Expr, feature: Expr) -> Expr:
        at = (self.image, self.head, self.last(self.queries, token), feature)
        value = build.cast(self.inliner.scope(body).read(self.q, at), self.kind)
        return call("mul", value, self.number(self.node["scale"]))

    def key(self, body: list[Stmt], token: Expr, feature: Expr) -> Expr:
        """A feature of a key; those beyond the last repeat it."""
        at = (self.image, self.shared_head, self.last(self.keys, token), feature)
        return build.cast(self.inliner.scope(body).read(self.k, at), self.kind)

    def value(self, body: list[Stmt], token: Expr, feature: Expr, guard: Expr | None) -> Expr:
        """A feature of a value; unspecified where `guard` is false."""
        at = (self.image, self.shared_head, token, feature)
        return build.cast(self.inliner.scope(body).read(self.v, at, guard), self.kind)

    def masked(self, body: list[Stmt], score: Expr, query: Expr, key: Expr, inside: Expr | None) -> Expr:
        """A raw score after everything that happens before the softmax; `inside`: where the query is one."""
        attributes = self.node.attributes
        cap = attributes.get("softcap", 0.0)
        if cap:
            score = call("mul", call("tanh", call("mul", score, self.number(1 / cap))), self.number(cap))
        for mask in self.node.inputs[3:]:
            scores = (self.batch, self.heads, self.queries, self.keys)
            at = operand_index(
                mask.shape, scores[4 - mask.rank :], (self.image, self.head, query, key)[4 - mask.rank :]
            )
            value = self.inliner.scope(body).read(mask, at, inside)
            if mask.dtype == bool_:
                score = select(value, score, self.number(attributes.get("fill", -math.inf)))
            else:
                score = call("add", score, build.cast(value, self.kind))
        if attributes["causal"]:
            final = add(query, self.inliner.size(attributes.get("causal_offset", 0)))
            score = select(call("le", key, final), score, self.number(-math.inf))
        return score

    def renewed(self, body: list[Stmt], old: Expr, found: Expr) -> tuple[Expr, Expr, Expr]:
        """The maximum with a block's, what to subtract from scores, and how much older sums fade by it."""
        low, let = self.number(-math.inf), self.inliner.let
        new = let(body, select(call("gt", found, old), found, old), "new")
        # Where no key counts so far, weights are 0 rather than exp(-inf + inf).
        ground = let(body, select(call("eq", new, low), self.number(0), new), "ground")
        return new, ground, let(body, call("exp", call("sub", old, ground)), "fade")

    def share(self, body: list[Stmt], total: Expr) -> Expr:
        """What sums of weighed values are multiplied by in the end."""
        one = self.number(1)
        none = call("eq", self.inliner.size(self.keys), const(0))
        share = select(none, one, call("div", one, total))
        if self.node.attributes.get("safe", False):
            share = select(call("gt", total, self.number(0)), share, one)
        return self.inliner.let(body, share, "share")

    def spoil(
        self, total: Expr, sums: Buffer, places: Sequence[tuple[Expr, Expr, Expr | None]]
    ) -> list[Stmt]:
        """Where weights are not numbers and count as 0: sums of 0 times each value, which are 0 where values
        are finite. places: (place in `sums`, feature, whether there is such a feature)."""
        if not self.node.attributes.get("safe", False):
            return []
        zero, token = self.number(0), self.inliner.loop("k")
        body: list[Stmt] = []
        clear: list[Stmt] = []
        for place, feature, guard in places:
            clear.append(Store(sums, place, zero))
            value = self.value(body, token, feature, guard)
            value = value if guard is None else select(guard, value, zero)
            body.append(Update(sums, place, "add", call("mul", zero, value)))
        return [If(call("isnan", total), (*clear, For(token, self.inliner.size(self.keys), tuple(body))))]

    def finish(self, body: list[Stmt], query: Expr, feature: Expr, value: Expr) -> None:
        """A result through the epilogue into memory."""
        root = self.node.output
        done = self.inliner.let(body, build.cast(value, root.dtype), "y")
        scope = self.inliner.scope(body, {root: lambda _: done})
        index = (self.image, self.head, query, feature)
        for result in self.group.outputs:
            scope.store(result, result.shape, index, scope.read(result, index))
