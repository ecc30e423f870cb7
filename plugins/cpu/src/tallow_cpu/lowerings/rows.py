"""Row kernels of the normalisations, one grid iteration for each row."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.backend import Target
from tallow.dim import Dim, bounds, product
from tallow.kernel import build
from tallow.kernel.build import const
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, Let, Load, Stmt, Store, Update, Var
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, unravel
from tallow.lower.reduce import accumulator


class _Row:
    """A kernel over the rows of the root's first operand; `rank` trailing axes make a row."""

    def __init__(self, group: Group, axes: int):
        self.group, self.node = group, group.root
        self.inliner = Inliner(group)
        self.source = self.node.inputs[0]
        self.lead = self.source.shape[: self.source.rank - axes]
        self.tail = self.source.shape[self.source.rank - axes :]
        self.item = self.inliner.loop("g")
        self.statements: list[Stmt] = []
        self.outer = unravel(self.inliner, self.item, self.lead, self.statements)
        self.kind = accumulator(self.source.dtype)

    def register(self, hint: str, value: Expr) -> Buffer:
        buffer = Buffer(self.inliner.fresh(hint), self.kind, 1, "register", True)
        self.statements += [Alloc(buffer), Store(buffer, const(0), value)]
        return buffer

    def each(self, write) -> None:
        """A vector loop along the row: `write(body, index)` fills its body."""
        column = self.inliner.loop("i")
        body: list[Stmt] = []
        write(body, (*self.outer, *([const(0)] * (len(self.tail) - 1)), column))
        loop = For(column, self.inliner.size(self.tail[-1]), tuple(body), "vector")
        self.statements.append(loop)

    def read(self, body: list[Stmt], index) -> Expr:
        return build.cast(self.inliner.scope(body).read(self.source, index), self.kind)

    def let(self, value: Expr, hint: str) -> Var:
        var = Var(self.inliner.fresh(hint), value.dtype)
        self.statements.append(Let(var, value))
        return var

    def finish(self, name: str, cost: int) -> Sequence[KernelCall]:
        grid: Dim = product(self.lead)
        work = (bounds(product(self.tail))[1] or 128) * cost
        loop = For(self.item, self.inliner.size(grid), tuple(self.statements), "grid")
        return [
            self.inliner.call(name, [loop], grid, max(1, GRAIN // max(1, work)), self.source.type.size * cost)
        ]


def lower_layer_norm(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """Mean, then variance around it, then the result with scale, shift and whatever follows."""
    node = group.root
    if node["axis"] != node.inputs[0].rank - 1 or group.prologue:
        return Declined("a normalisation of more than the last axis, or of an operand not in memory")
    row = _Row(group, 1)
    zero, kind = const(0), row.kind
    count = build.cast(row.inliner.size(row.tail[-1]), kind)
    size = row.let(count, "size")
    centred = node.op == "layer_norm"
    mean: Expr = build.const(0, kind)
    if centred:
        total = row.register("total", build.const(0, kind))
        row.each(lambda body, index: body.append(Update(total, zero, "add", row.read(body, index))))
        mean = row.let(build.call("div", Load(total, zero), size), "mean")
    squares = row.register("squares", build.const(0, kind))

    def square(body: list[Stmt], index) -> None:
        d = Var(row.inliner.fresh("d"), kind)
        body.append(Let(d, build.call("sub", row.read(body, index), mean)))
        body.append(Update(squares, zero, "add", build.call("mul", d, d)))

    row.each(square)
    variance = build.call("div", Load(squares, zero), size)
    spread = build.call("sqrt", build.call("add", variance, build.const(node["epsilon"], kind)))
    factor = row.let(build.call("div", build.const(1, kind), spread), "factor")

    def write(body: list[Stmt], index) -> None:
        scope = row.inliner.scope(body)
        value = build.call("mul", build.call("sub", row.read(body, index), mean), factor)
        for operand, op in zip(node.inputs[1:], ("mul", "add"), strict=False):
            at = index[len(index) - operand.rank :]
            at = tuple(const(0) if d == 1 else i for d, i in zip(operand.shape, at, strict=True))
            value = build.call(op, value, build.cast(scope.read(operand, at), kind))
        done = build.cast(scope.let(value, "y"), node.output.dtype)
        scope = row.inliner.scope(body, {node.output: lambda _: done})
        for result in group.outputs:
            scope.store(result, result.shape, index, scope.read(result, index))

    row.each(write)
    return row.finish("norm", 8)
