"""Lowering of topk: insertion into a short list when few are wanted, else a merge sort of places.

Equal elements keep their order; NaN counts as the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tallow.dim import Dim, bounds, product
from tallow.dtype import bool_, i64
from tallow.graph import Node
from tallow.kernel import build
from tallow.kernel.build import add, const, less, minimum, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Let, Load, Stmt, Store, Var
from tallow.lower.group import Group, KernelCall, Temporary
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import GRAIN, unravel

FEW = 32  # so many are kept by insertion
LEVELS = 48  # of merging: more than any size has bits


@dataclass(slots=True)
class _Line:
    """One line along the axis, at the `outer` index of a grid iteration."""

    inliner: Inliner
    node: Node
    item: Var
    outer: list[Expr]
    statements: list[Stmt]

    @property
    def axis(self) -> int:
        return self.node["axis"]

    def index(self, at: Expr) -> tuple[Expr, ...]:
        return (*self.outer[: self.axis], at, *self.outer[self.axis :])

    def read(self, body: list[Stmt], at: Expr) -> Expr:
        return self.inliner.scope(body).read(self.node.inputs[0], self.index(at))

    def let(self, body: list[Stmt], value: Expr, hint: str) -> Var:
        var = Var(self.inliner.fresh(hint), value.dtype)
        body.append(Let(var, value))
        return var

    def variable(self, hint: str, value: Expr) -> Buffer:
        """A variable that may change."""
        buffer = Buffer(self.inliner.fresh(hint), value.dtype, 1, "register", True)
        self.statements += [Alloc(buffer), Store(buffer, const(0), value)]
        return buffer

    def write(self, body: list[Stmt], at: Expr, value: Expr, place: Expr) -> None:
        """One pair of results."""
        scope = self.inliner.scope(body)
        for output, element in zip(self.node.outputs, (value, place), strict=True):
            scope.store(output, output.shape, self.index(at), element)

    def before(self, a: Expr, b: Expr) -> Expr:
        """Whether a comes before b however they stand."""
        first = build.call("gt" if self.node["largest"] else "lt", a, b)
        if not a.dtype.is_float:
            return first
        a, b = (a, b) if self.node["largest"] else (b, a)
        return build.call(
            "or", first, build.call("and", build.call("isnan", a), build.call("not", build.call("isnan", b)))
        )


def lower_topk(group: Group, target) -> Sequence[KernelCall]:
    """One grid iteration for each line along the axis."""
    node = group.root
    source, axis, k = node.inputs[0], node["axis"], node["k"]
    inliner = Inliner(group)
    item, statements = inliner.loop("g"), []
    kept = [d for a, d in enumerate(source.shape) if a != axis]
    lines, extent = product(kept), source.shape[axis]
    outer = list(unravel(inliner, item, kept, statements))
    line = _Line(inliner, node, item, outer, statements)
    if isinstance(k, int) and k <= FEW:
        _insert(line, extent, k)
    else:
        _merge(line, extent, k, lines)
    work = (bounds(extent)[1] or 1024) * 8
    loop = For(item, inliner.size(lines), tuple(statements), "grid")
    return [inliner.call("topk", [loop], lines, max(1, GRAIN // max(1, work)))]


def _insert(line: _Line, extent: Dim, k: int) -> None:
    """The best k so far in order; what comes in moves the rest along."""
    inliner, statements = line.inliner, line.statements
    zero, dtype = const(0), line.node.outputs[0].dtype
    values = Buffer(inliner.fresh("values"), dtype, max(k, 1), "local", True)
    places = Buffer(inliner.fresh("places"), i64, max(k, 1), "local", True)
    clear = inliner.loop("z")
    none = (Store(values, clear, build.const(0, dtype)), Store(places, clear, zero))
    statements += [Alloc(values), Alloc(places), For(clear, const(k), none)]
    value, place = line.variable("value", build.const(0, dtype)), line.variable("place", zero)
    moving = line.variable("moving", build.const(False, bool_))
    step, slot = inliner.loop("r"), inliner.loop("s")
    body: list[Stmt] = []
    element = line.read(body, step)
    room = less(step, const(k))
    enters = build.call("or", room, line.before(element, Load(values, const(max(k, 1) - 1))))
    inner: list[Stmt] = []
    new, new_at = line.let(inner, Load(value, zero), "new"), line.let(inner, Load(place, zero), "at")
    old, old_at = line.let(inner, Load(values, slot), "old"), line.let(inner, Load(places, slot), "at")
    free = build.call("or", Load(moving, zero), build.call("ge", slot, step))
    shift = (
        Store(values, slot, new),
        Store(places, slot, new_at),
        Store(value, zero, old),
        Store(place, zero, old_at),
        Store(moving, zero, build.const(True, bool_)),
    )
    inner.append(If(build.call("or", free, line.before(new, old)), shift))
    start = (
        Store(value, zero, element),
        Store(place, zero, step),
        Store(moving, zero, build.const(False, bool_)),
    )
    body.append(If(enters, (*start, For(slot, const(k), tuple(inner)))))
    statements.append(For(step, inliner.size(extent), tuple(body)))
    out, last = inliner.loop("o"), []
    line.write(last, out, Load(values, out), Load(places, out))
    statements.append(For(out, const(k), tuple(last)))


def _merge(line: _Line, extent: Dim, k: Dim, lines: Dim) -> None:
    """Bottom-up merge sort of the places, to and fro between the two halves of scratch memory."""
    inliner, statements, zero = line.inliner, line.statements, const(0)
    order = inliner.buffer(Temporary("order", i64, lines * 2 * extent), writable=True)
    size = inliner.size(extent)
    base = line.let(statements, mul(line.item, mul(size, const(2))), "base")
    fill = inliner.loop("i")
    statements.append(For(fill, size, (Store(order, add(base, fill), fill),), "vector"))
    side = line.variable("side", zero)
    left, right = line.variable("left", zero), line.variable("right", zero)
    level = inliner.loop("level")
    work: list[Stmt] = []
    width = line.let(work, build.call("shift_left", const(1), level), "width")
    here = line.let(work, add(base, mul(Load(side, zero), size)), "here")
    there = line.let(work, add(base, mul(sub(const(1), Load(side, zero)), size)), "there")
    pair, body = inliner.loop("p"), []
    low = line.let(body, mul(mul(pair, width), const(2)), "low")
    middle = line.let(body, minimum(add(low, width), size), "middle")
    high = line.let(body, minimum(add(middle, width), size), "high")
    body += [Store(left, zero, low), Store(right, zero, middle)]
    body.append(_merged(line, order, (left, right), (here, there), (low, middle, high)))
    pairs = build.floordiv(add(size, sub(mul(width, const(2)), const(1))), mul(width, const(2)))
    work += [For(pair, pairs, tuple(body)), Store(side, zero, sub(const(1), Load(side, zero)))]
    narrow = less(build.call("shift_left", const(1), level), size)
    statements.append(For(level, const(LEVELS), (If(narrow, tuple(work)),)))
    out, last = inliner.loop("o"), []
    place = line.let(last, Load(order, add(add(base, mul(Load(side, zero), size)), out)), "place")
    line.write(last, out, line.read(last, place), place)
    statements.append(For(out, inliner.size(k), tuple(last)))


def _merged(line: _Line, order: Buffer, pointers, sides, limits) -> For:
    """Two sorted runs written as one; the left one goes first where elements are equal."""
    zero, (left, right), (here, there), (low, middle, high) = const(0), pointers, sides, limits
    out, body = line.inliner.loop("o"), []
    i, j = line.let(body, Load(left, zero), "i"), line.let(body, Load(right, zero), "j")
    a = line.let(body, Load(order, add(here, minimum(i, sub(middle, const(1))))), "a")
    b = line.let(body, Load(order, add(here, minimum(j, sub(high, const(1))))), "b")
    later = line.before(line.read(body, b), line.read(body, a))
    keeps = build.call("or", build.call("ge", j, high), build.call("not", later))
    body.append(
        If(
            build.call("and", less(i, middle), keeps),
            (Store(order, add(there, out), a), Store(left, zero, add(i, const(1)))),
            (Store(order, add(there, out), b), Store(right, zero, add(j, const(1)))),
        )
    )
    return For(out, high, tuple(body), "serial", low)
