"""What a contraction is: rows, columns and a summed index, with maps from them to elements of operands.

The summed index is `taps` runs of `each` elements: a product has one tap, a convolution one for each
place of its window, and each run is its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tallow.dim import Dim, bounds, exact_quotient, product
from tallow.dtype import bool_
from tallow.graph import Node, Value
from tallow.kernel import build
from tallow.kernel.build import add, const, floordiv, logical_and, mod, mul, select
from tallow.kernel.grammar import Const, Expr, Load, Stmt
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import unravel
from tallow.ops.pointwise import operand_index

MOST = 8  # elements that are copied at once


class Operand(Protocol):
    """One side of a contraction. A line is a row of the left operand, a column of the right one.

    along: whether neighbours in memory follow the summed index ("depth") or the lines. padded: whether
    there are elements beyond the last line of a tile, whatever they are.
    """

    along: Literal["depth", "line"]
    padded: bool

    def place(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], line: Expr) -> object:
        """Whatever of a line's elements does not depend on the summed index, named in `body`."""

    def tap(self, inliner: Inliner, body: list[Stmt], place: object, tap: Expr) -> object:
        """Whatever of a line's elements in one tap does not depend on where in it they are."""

    def element(
        self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr | None, beside: Expr
    ) -> Expr:
        """Element `at` of a tap, of the line `beside` places after the located one; 0 where `guard` is false."""

    def chunk(self, inliner: Inliner) -> int:
        """How many elements, from a multiple of as many on, are neighbours `along` the operand, lie at a multiple
        of as many in memory, and are inside or outside together: a power of two, 1 if nothing is known."""

    def load(self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr) -> Load:
        """`element` as one load, for operands of chunks; what is known of it holds for its neighbours."""


@dataclass(frozen=True, slots=True)
class Contraction:
    """rows x columns results for each index of `outer`, each the sum over taps and `each` of a product."""

    outer: tuple[Dim, ...]
    rows: Dim
    columns: Dim
    taps: int
    each: Dim
    left: Operand
    right: Operand
    result_index: Callable[[Inliner, list[Stmt], Sequence[Expr], Expr, Expr], tuple[Expr, ...]]

    @property
    def depth(self) -> Dim:
        return self.taps * self.each


@dataclass(frozen=True, slots=True)
class Matrix:
    """An operand of a product: its last two axes are `lines` of summed elements, or the other way round;
    the axes before broadcast to `batch`, or are lines too where there is none."""

    value: Value
    batch: tuple[Dim, ...]
    lines_first: bool
    along: Literal["depth", "line"]
    padded: bool = False

    def place(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], line: Expr) -> object:
        shape = self.value.shape
        lead: tuple[Expr, ...] = (const(0),) * (len(shape) - 2)
        if self.batch:
            lead = operand_index(shape[:-2], self.batch, tuple(outer))
        if self.value in inliner.producer:
            return lead, line
        step = inliner.size(self.value.shape[-1])
        at: Expr = const(0)
        for dim, index in zip(shape[:-1], (*lead, const(0)), strict=True):
            at = add(mul(at, inliner.size(dim)), index)
        return inliner.let(body, add(mul(at, step), mul(line, step) if self.lines_first else line), "line")

    def tap(self, inliner: Inliner, body: list[Stmt], place: object, tap: Expr) -> object:
        return place

    def element(
        self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr | None, beside: Expr
    ) -> Expr:
        step = inliner.size(self.value.shape[-1])
        if isinstance(place, tuple):
            lead, line = place
            pair = (add(line, beside), at) if self.lines_first else (at, add(line, beside))
            value = inliner.scope(body).read(self.value, (*lead, *pair), guard)
            return value if guard is None else select(guard, value, const(0, value.dtype))
        inside = add(at, mul(beside, step)) if self.lines_first else add(mul(at, step), beside)
        return Load(inliner.buffer(self.value), add(place, inside), 1, guard)

    def turn(self, inliner: Inliner) -> Node | None:
        """The transpose that the operand comes out of, if that is all that is done to a value in memory."""
        node = inliner.producer.get(self.value)
        direct = node is not None and node.op == "transpose" and node.inputs[0] not in inliner.producer
        return node if direct else None

    def chunk(self, inliner: Inliner) -> int:
        if self.value not in inliner.producer:
            return whole_power(self.value.shape[-1])
        turn = self.turn(inliner)
        inner = self.value.rank - 1 if self.lines_first == (self.along == "depth") else self.value.rank - 2
        if turn is None or turn["permutation"][inner] != self.value.rank - 1:
            return 1
        return whole_power(turn.inputs[0].shape[-1])

    def load(self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr) -> Load:
        turn = self.turn(inliner)
        if turn is None:
            return self.element(inliner, body, place, at, guard, const(0))
        lead, line = place
        index = (*lead, line, at) if self.lines_first else (*lead, at, line)
        source = turn.inputs[0]
        permuted = sorted(zip(turn["permutation"], index, strict=True), key=lambda pair: pair[0])
        place = inliner.linear(source.shape, [axis for _, axis in permuted])
        return Load(inliner.buffer(source), place, 1, guard)


@dataclass(frozen=True, slots=True)
class Pixels:
    """The windows of a convolution as rows: one for each pixel of the result. `channel_axis` tells where
    the data has its channels; outer items are image and group."""

    node: Node
    kernel: tuple[int, ...]
    channel_axis: int
    each: Dim
    padded: bool = False

    @property
    def along(self) -> Literal["depth", "line"]:
        return "line" if self.channel_axis == 1 else "depth"

    @property
    def x(self) -> Value:
        return self.node.inputs[0]

    def spatial(self, value: Value) -> tuple[Dim, ...]:
        return tuple(d for axis, d in enumerate(value.shape) if axis not in (0, self.channel_axis))

    def place(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], line: Expr) -> object:
        image, group = outer
        origins = []
        for axis, at in enumerate(unravel(inliner, line, self.spatial(self.node.output), body)):
            low = inliner.size(self.node["pads"][axis][0])
            origins.append(
                inliner.let(body, build.sub(mul(at, const(self.node["strides"][axis])), low), "origin")
            )
        return image, group, tuple(origins)

    def tap(self, inliner: Inliner, body: list[Stmt], place: object, tap: Expr) -> object:
        image, group, origins = place
        inside: Expr = build.const(True, bool_)
        index: list[Expr] = []
        sizes = self.spatial(self.x)
        for axis in range(len(self.kernel) - 1, -1, -1):
            step = mod(tap, const(self.kernel[axis])) if axis else tap
            tap = floordiv(tap, const(self.kernel[axis]))
            at = inliner.let(body, add(origins[axis], mul(step, const(self.node["dilations"][axis]))), "at")
            index.insert(0, at)
            if self.node["pads"][axis] != (0, 0):
                inside = logical_and(inside, build.within(at, inliner.size(sizes[axis])))
        index.insert(self.channel_axis - 1, mul(group, inliner.size(self.each)))
        base = inliner.linear(self.x.shape, (image, *index))
        everywhere = isinstance(inside, Const) and inside.value
        if not isinstance(inside, Const):
            inside = inliner.let(body, inside, "inside")
        base = select(inside, base, const(0))
        return inliner.let(body, base, "base"), None if everywhere else inside

    @property
    def never_empty(self) -> bool:
        return (bounds(product(self.x.shape))[0] or 0) > 0

    def element(
        self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr | None, beside: Expr
    ) -> Expr:
        base, inside = place
        step = inliner.size(product(self.x.shape[self.channel_axis + 1 :]))
        data = inliner.buffer(self.x)
        where = add(base, mul(at, step))
        if inside is None:
            return Load(data, where, 1, guard)
        if not self.never_empty:
            return Load(data, where, 1, inside if guard is None else logical_and(inside, guard))
        return select(inside, inliner.let(body, Load(data, where, 1, guard), "x"), const(0, data.dtype))

    def chunk(self, inliner: Inliner) -> int:
        return whole_power(self.each) if self.along == "depth" else 1

    def load(self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr) -> Load:
        base, inside = place
        mask = guard if inside is None else logical_and(inside, guard)
        return Load(inliner.buffer(self.x), add(base, at), 1, mask)


@dataclass(frozen=True, slots=True)
class Filters:
    """The weights of a convolution as columns: [M, C / groups, *kernel], or [*kernel, C / groups, M] where
    channels are last. Outer items are image and group."""

    w: Value
    columns: Dim
    channels_last: bool
    padded: bool = False

    @property
    def along(self) -> Literal["depth", "line"]:
        return "line" if self.channels_last else "depth"

    def place(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], line: Expr) -> object:
        return inliner.let(body, add(mul(outer[1], inliner.size(self.columns)), line), "filter")

    def tap(self, inliner: Inliner, body: list[Stmt], place: Expr, tap: Expr) -> object:
        return place, tap

    def element(
        self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr | None, beside: Expr
    ) -> Expr:
        (line, tap), size = place, inliner.size
        shape = self.w.shape
        if self.channels_last:
            run = mul(add(mul(tap, size(shape[-2])), at), size(shape[-1]))
            return Load(inliner.buffer(self.w), add(add(line, run), beside), 1, guard)
        run = mul(add(mul(add(line, beside), size(shape[1])), at), size(product(shape[2:])))
        return Load(inliner.buffer(self.w), add(run, tap), 1, guard)

    def chunk(self, inliner: Inliner) -> int:
        return whole_power(self.columns) if self.channels_last else 1

    def load(self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr) -> Load:
        return self.element(inliner, body, place, at, guard, const(0))


@dataclass(frozen=True, slots=True)
class Panels:
    """Weights packed for tiles, [groups, panels, *kernel, each, width], as columns; filled up with zeros, so that
    a tile may read all its columns. `group`: which of the outer items tells the group."""

    w: Value
    group: int | None
    along: Literal["depth", "line"] = "line"
    padded: bool = True

    @property
    def run(self) -> int:
        """Elements of one tap in a panel."""
        return self.w.shape[-2] * self.w.shape[-1]

    def place(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], line: Expr) -> object:
        width, panels = self.w.shape[-1], self.w.shape[1]
        panel = floordiv(line, const(width))
        if self.group is not None:
            panel = add(mul(outer[self.group], const(panels)), panel)
        each = product(self.w.shape[1:] if self.group is None else self.w.shape[2:])
        return inliner.let(body, add(mul(panel, const(each)), mod(line, const(width))), "panel")

    def tap(self, inliner: Inliner, body: list[Stmt], place: Expr, tap: Expr) -> object:
        return inliner.let(body, add(place, mul(tap, const(self.run))), "panel")

    def element(
        self, inliner: Inliner, body: list[Stmt], place: Expr, at: Expr, guard: Expr | None, beside: Expr
    ) -> Expr:
        inside = add(mul(at, const(self.w.shape[-1])), beside)
        return Load(inliner.buffer(self.w), add(place, inside), 1, guard)

    def chunk(self, inliner: Inliner) -> int:
        return 1

    def load(self, inliner: Inliner, body: list[Stmt], place: object, at: Expr, guard: Expr) -> Load:
        return self.element(inliner, body, place, at, guard, const(0))


def whole_power(size: Dim) -> int:
    """The largest power of two up to MOST that divides a size, whatever it turns out to be."""
    power = MOST
    while power > 1 and exact_quotient(size, power) is None:
        power //= 2
    return power
