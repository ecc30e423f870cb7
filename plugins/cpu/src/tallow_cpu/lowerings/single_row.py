"""Products of a single row, as a decoder's steps are: the right operand is read once, in its own order."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.backend import Target
from tallow.dim import bounds, ceildiv, product
from tallow.dtype import bool_
from tallow.kernel import build
from tallow.kernel.build import add, call, const, floordiv, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, Let, Load, Stmt, Store, Var
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.contraction import batch_start, lower_matmul
from tallow_cpu.lowerings.tile import PARALLEL_FLOPS, lanes

COLUMNS = 8192  # sums of a block at most, which the first cache holds
BLOCKS = 4  # or a multiple of it, so that threads share a row
UNROLL = 8  # rows of the operand for each pass over the sums, as many as a first cache has ways


def lower_product(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """matmul of two operands in memory."""
    if group.root.output.shape[-2] != 1 or group.prologue or group.root.output.dtype == bool_:
        return lower_matmul(group, target)
    return _Row(group, target).calls()


class _Row:
    """sum over k of a[k] * b[k, :], a block of columns for each grid iteration."""

    def __init__(self, group: Group, target: Target):
        self.group, self.inliner = group, Inliner(group)
        self.a, self.b = group.root.inputs
        self.result = group.root.output.shape
        self.depth, self.columns = self.a.shape[-1], self.result[-1]
        self.kind = accumulator(self.a.dtype)
        self.block = COLUMNS
        if isinstance(self.columns, int):
            width = lanes(target)
            blocks = ceildiv(ceildiv(max(self.columns, 1), COLUMNS), BLOCKS) * BLOCKS
            self.block = ceildiv(ceildiv(max(self.columns, 1), blocks), width) * width

    def let(self, body: list[Stmt], e: Expr, hint: str) -> Var:
        body.append(Let(Var(self.inliner.fresh(hint), e.dtype), e))
        return body[-1].var

    def calls(self) -> Sequence[KernelCall]:
        inliner, size = self.inliner, self.inliner.size
        outer = (*self.result[:-2], ceildiv(self.columns, self.block))
        grid = product(outer)
        item = inliner.loop("g")
        body: list[Stmt] = []
        *image, block = unravel(inliner, item, outer, body)
        first = self.let(body, mul(block, const(self.block)), "first")
        count = self.let(body, call("min", sub(size(self.columns), first), const(self.block)), "count")
        a = self.let(body, batch_start(self.a.shape, self.result, inliner, image), "a")
        b = self.let(body, add(batch_start(self.b.shape, self.result, inliner, image), first), "b")
        sums = Buffer(inliner.fresh("sums"), self.kind, self.block, "local", True)
        n = inliner.loop("n")
        body += [Alloc(sums), For(n, count, (Store(sums, n, const(0, self.kind)),), "vector")]
        body += self.summing(sums, count, a, b)
        body.append(self.writing(sums, count, image, first))
        flops = 2 * product((*self.result, self.depth)) + count_flops(self.group)
        each = 2 * self.block * (bounds(self.depth)[1] or 256)
        loop = For(item, size(grid), tuple(body), "grid")
        return [inliner.call("row", [loop], grid, max(1, PARALLEL_FLOPS // max(1, each)), flops)]

    def summing(self, sums: Buffer, count: Expr, a: Expr, b: Expr) -> list[Stmt]:
        """Passes over the sums, UNROLL rows of the right operand at a time, then one by one."""
        left, right = self.inliner.buffer(self.a), self.inliner.buffer(self.b)
        depth, step = self.inliner.size(self.depth), self.inliner.size(self.columns)

        def one_pass(start: Expr, rows: int) -> list[Stmt]:
            body: list[Stmt] = []
            lines = []
            for r in range(rows):
                at = add(start, const(r))
                value = self.let(body, build.cast(Load(left, add(a, at)), self.kind), "v")
                lines.append((value, self.let(body, add(b, mul(at, step)), "line")))
            n = self.inliner.loop("n")
            inner: list[Stmt] = []
            total: Expr = Load(sums, n)
            for value, line in lines:
                other = build.cast(Load(right, add(line, n)), self.kind)
                total = self.let(inner, call("fma", value, other, total), "s")
            inner.append(Store(sums, n, total))
            return [*body, For(n, count, tuple(inner), "vector")]

        k, rest = self.inliner.loop("k"), self.inliner.loop("k")
        whole = mul(floordiv(depth, const(UNROLL)), const(UNROLL))
        return [
            For(k, whole, tuple(one_pass(k, UNROLL)), "serial", const(0), UNROLL),
            For(rest, depth, tuple(one_pass(rest, 1)), "serial", whole),
        ]

    def writing(self, sums: Buffer, count: Expr, image: Sequence[Expr], first: Expr) -> Stmt:
        """The sums through the epilogue into the results."""
        n = self.inliner.loop("n")
        body: list[Stmt] = []
        root = self.group.root.output
        index = (*image, const(0), add(first, n))
        scope = self.inliner.scope(body, {root: lambda _: build.cast(Load(sums, n), root.dtype)})
        for value in self.group.outputs:
            scope.store(value, value.shape, index, scope.read(value, index))
        return For(n, count, tuple(body), "vector")
