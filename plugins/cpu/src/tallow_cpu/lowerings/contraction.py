"""Lowerings onto the register tile: products with packed and plain operands, convolutions with channels last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tallow.backend import Target
from tallow.choices import Candidate
from tallow.dim import Dim, bounds, ceildiv, product
from tallow.dtype import bool_, u8
from tallow.graph import Node, Value
from tallow.kernel import build
from tallow.kernel.build import add, const, floordiv, from_dim, less, logical_and, minimum, mod, mul
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Let, Load, Stmt, Store, Var
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops, unravel
from tallow.lower.reduce import accumulator
from tallow_cpu.lowerings.blocked import lower_blocked, row_index
from tallow_cpu.lowerings.blocking import WORSE, Contraction, Write
from tallow_cpu.lowerings.dots import Lines, lower_dots
from tallow_cpu.lowerings.gathered import batch_start, is_large, lower_gathered
from tallow_cpu.lowerings.tile import PARALLEL_FLOPS, Shape, is_roomy, lanes, multiply_rows, tile_heights
from tallow_cpu.shuffle import run_length

# Packed products ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MatrixRows:
    """Rows of cpu.matmul: the last axis of the left operand, one for each index of its other axes."""

    a: Value
    each: int  # known from the weights, also where the operand's own axis is not
    values: tuple[Value, ...]  # what a row's elements are computed from

    @property
    def taps(self) -> int:
        return 1

    @property
    def step(self) -> int | None:
        a = self.a
        plain = self.values == (a,) and accumulator(a.dtype) == a.dtype and a.shape[-1] == self.each
        return self.each if plain else None

    def start(self, outer: Sequence[Expr], row: Expr, inliner: Inliner) -> tuple[Buffer, Expr]:
        return inliner.buffer(self.a), mul(row, const(self.each))

    def locate(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], row: Expr):
        return row_index(inliner, body, self.values, self.a.shape[:-1], row)

    def copy(self, inliner: Inliner, place, tap: Expr, first: Expr, count: Expr, write: Write) -> list[Stmt]:
        size = self.a.shape[-1]
        mask = None if size == self.each else lambda at: less(at, from_dim(size))
        return [_copying(inliner, self.a, place, first, count, write, mask)]


def _copying(
    inliner: Inliner,
    source: Value,
    lead,
    first: Expr,
    count: Expr,
    write: Write,
    mask=None,
    fill: Value | None = None,
) -> For:
    """A vector loop that writes `count` elements of the source from [*lead, first] on; those that `mask` of
    an element's place refuses are zeros, or `fill`."""
    i = inliner.loop("i")
    body: list[Stmt] = []
    at = add(first, i)
    guard = None if mask is None else mask(at)
    element = inliner.scope(body).read(source, (*lead, at), guard)
    if fill is not None:
        element = build.select(guard, element, inliner.scope(body).read(fill, ()))
    body.append(write(i, build.cast(element, accumulator(source.dtype))))
    return For(i, count, tuple(body), "vector")


def _prologue_values(group: Group, operand: Value) -> tuple[Value, ...]:
    return (operand, *(v for node in group.prologue for v in node.inputs if v.type.size != 1))


def _epilogue_values(group: Group) -> tuple[Value, ...]:
    return (*group.outputs, *(v for node in group.epilogue for v in (*node.inputs, *node.outputs)))


def lower_packed(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.matmul: any leading axes of the left operand are rows."""
    if group.prologue:
        return Declined("operands of a packed product must be in memory")
    a, packed = group.root.inputs
    values = _epilogue_values(group)
    lead = a.shape[:-1]

    def result_index(inliner, body, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        return (*row_index(inliner, body, values, lead, row), column)

    if packed.shape[-1] == 1:
        return lower_dots(group, target, "matmul", _matrix_lines(a, packed.shape[2], result_index))
    depth = group.root["depth"] if a.dtype == u8 else packed.shape[2]
    source = MatrixRows(a, depth, _prologue_values(group, a))
    work = Contraction((), product(lead), group.root["n"], source, lambda outer: const(0), result_index)
    return lower_blocked(group, target, "matmul", work)


def _matrix_lines(a: Value, depth: int, result_index) -> Lines:
    """The rows of a matrix, one beside the other, as windows of one pixel on a line."""

    def index(inliner, body, image: Expr, spatial, column: Expr) -> tuple[Expr, ...]:
        return result_index(inliner, body, (), spatial[0], column)

    rows = product(a.shape[:-1])
    return Lines(a, (1, rows, depth), (1,), (1,), ((0, 0),), (1,), 1, (rows,), index)


# Convolutions ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pixels:
    """Rows of cpu.conv: the window of a pixel. Where neighbours of the last axis lie side by side, a tap
    is a whole line of the window (`merged`); of shuffled channels it is a run of neighbours. `fill`, a
    scalar, is what lies around the picture, not zeros."""

    node: Node
    merged: bool
    fill: Value | None = None

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.node["kernel"][:-1] if self.merged else self.node["kernel"]

    @property
    def channels(self) -> int:
        return self.node.inputs[0].shape[-1]

    @property
    def shuffle(self) -> int:
        return self.node.attributes.get("shuffle", 1)

    @property
    def taps(self) -> int:
        return product(self.kernel) * self.shuffle

    @property
    def each(self) -> int:
        line = self.node["kernel"][-1] if self.merged else 1
        return line * run_length(self.channels // self.node["groups"], self.shuffle)

    @property
    def step(self) -> int | None:
        x = self.node.inputs[0]
        plain = is_pointwise(self.node) and self.shuffle == 1 and accumulator(x.dtype) == x.dtype
        return self.channels if plain and isinstance(self.channels, int) else None

    def start(self, outer: Sequence[Expr], row: Expr, inliner: Inliner) -> tuple[Buffer, Expr]:
        x = self.node.inputs[0]
        image, group = outer
        pixel = add(mul(image, inliner.size(product(x.shape[1:-1]))), row)
        at = add(mul(pixel, const(self.channels)), mul(group, const(self.each)))
        return inliner.buffer(x), at

    def locate(self, inliner: Inliner, body: list[Stmt], outer: Sequence[Expr], row: Expr):
        """Image, group, and the first coordinate of the window on each axis."""
        result = self.node.output.shape[1:-1]
        image, group = outer
        origins = []
        for axis, at in enumerate(unravel(inliner, row, result, body)):
            low = self.node["pads"][axis][0]
            var = Var(inliner.fresh("origin"))
            body.append(Let(var, build.sub(mul(at, const(self.node["strides"][axis])), inliner.size(low))))
            origins.append(var)
        return image, group, origins

    def copy(self, inliner: Inliner, place, tap: Expr, first: Expr, count: Expr, write: Write) -> list[Stmt]:
        image, group, origins = place
        x = self.node.inputs[0]
        body: list[Stmt] = []
        inside: Expr = build.const(True, bool_)
        coordinates: list[Expr] = [image]
        if self.shuffle > 1:
            run, tap = mod(tap, const(self.shuffle)), floordiv(tap, const(self.shuffle))
        for axis in range(len(self.kernel) - 1, -1, -1):
            size = self.kernel[axis]
            step = mod(tap, const(size)) if axis else tap
            tap = floordiv(tap, const(size))
            at = Var(inliner.fresh("at"))
            body.append(Let(at, add(origins[axis], mul(step, const(self.node["dilations"][axis])))))
            coordinates.insert(1, at)
            if self.node["pads"][axis] != (0, 0):
                extent = inliner.size(x.shape[1 + axis])
                inside = logical_and(inside, build.within(at, extent))
        if self.merged:
            lines = self.line(inliner, coordinates, origins[-1], first, count, write)
        elif self.shuffle > 1:
            lines = self.run(inliner, body, coordinates, group, run, first, count, write)
        else:
            start = add(mul(group, const(self.each)), first)
            lines = [_copying(inliner, x, coordinates, start, count, write)]
        if isinstance(inside, build.Const):
            return [*body, *lines]
        return [*body, If(inside, tuple(lines), (self.zeros(inliner, count, write),))]

    def run(
        self,
        inliner: Inliner,
        body: list[Stmt],
        lead,
        group: Expr,
        run: Expr,
        first: Expr,
        count: Expr,
        write,
    ) -> list[Stmt]:
        """A run of the channels that a group reads of shuffled ones; what it is short of is zeros."""
        x, shuffle = self.node.inputs[0], const(self.shuffle)
        each = self.channels // self.node["groups"]

        def begin(of: Expr) -> Expr:
            channel = build.sub(add(mul(of, const(each)), const(self.shuffle - 1)), run)
            place = floordiv(channel, shuffle)
            return inliner.let(body, add(mul(run, const(self.channels // self.shuffle)), place), "run")

        start = begin(group)
        end = begin(add(group, const(1))) if each % self.shuffle else None
        mask = None if end is None else lambda at: less(at, end)
        return [_copying(inliner, x, lead, add(start, first), count, write, mask)]

    def zeros(self, inliner: Inliner, count: Expr, write: Write) -> For:
        i = inliner.loop("i")
        body: list[Stmt] = []
        value = const(0, accumulator(self.node.inputs[0].dtype))
        if self.fill is not None:
            value = inliner.scope(body).read(self.fill, ())
        return For(i, count, (*body, write(i, value)), "vector")

    def line(
        self, inliner: Inliner, lead, origin: Expr, first: Expr, count: Expr, write: Write
    ) -> list[Stmt]:
        """A line of the window: pixels and channels are one axis, of which the padding is masked off."""
        x = self.node.inputs[0]
        start = add(mul(origin, const(self.channels)), first)
        at = (*lead, const(0))
        plain = _copying(inliner, x, at, start, count, write)
        if self.node["pads"][-1] == (0, 0):
            return [plain]
        width = inliner.size(x.shape[-2])
        end = mul(width, const(self.channels))
        masked = _copying(inliner, x, at, start, count, write, lambda i: build.within(i, end), self.fill)
        last = add(origin, const(self.node["kernel"][-1] - 1))
        inside = logical_and(build.within(origin, width), build.within(last, width))
        return [If(inside, (plain,), (masked,))]


def are_lines_whole(node: Node) -> bool:
    """Whether a line of the window lies side by side in memory."""
    return node["groups"] == 1 and node["dilations"][-1] == 1


def is_pointwise(node: Node) -> bool:
    """Whether each pixel of a cpu.conv is made of the pixel in its place."""
    window = zip(node["kernel"], node["strides"], node["pads"], strict=True)
    return all(k == s == 1 and p == (0, 0) for k, s, p in window)


def lower_conv(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.conv: pixels are rows; the window and the channels are the summed index."""
    if any(n.op != "constant" for n in group.prologue):
        return Declined("operands of a convolution must be in memory")
    node = group.root
    x = node.inputs[0]
    groups, n, spatial = node["groups"], node["n"], node.output.shape[1:-1]
    values = _epilogue_values(group)

    def result_index(inliner, body, outer, row: Expr, column: Expr) -> tuple[Expr, ...]:
        image, group_at = outer
        return (
            image,
            *row_index(inliner, body, values, spatial, row),
            add(mul(group_at, const(n)), column),
        )

    if node.inputs[1].shape[-1] == 1:
        return lower_dots(group, target, "conv", _conv_lines(node))
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    source = Pixels(node, are_lines_whole(node), fill)
    work = Contraction(
        (x.shape[0], groups), product(spatial), n, source, lambda outer: outer[1], result_index
    )
    return lower_blocked(group, target, "conv", work)


def _conv_lines(node: Node) -> Lines:
    x, spec = node.inputs[0], (node[key] for key in ("kernel", "strides", "pads", "dilations", "groups"))

    def index(inliner, body, image: Expr, spatial, column: Expr) -> tuple[Expr, ...]:
        return (image, *spatial, column)

    return Lines(x, x.shape, *spec, node.output.shape[1:-1], index)


# Products of operands in memory ---------------------------------------------------------------------


def lower_matmul(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """matmul of two operands in memory: both are copied into blocks where that pays; else the right one is
    read row by row."""
    if group.prologue:
        return Declined("operands of a product must be in memory")
    a, b = group.root.inputs
    if a.dtype == bool_:
        return Declined("products of bool")
    if is_large(group.root, target):
        return lower_gathered(group, target)
    result = group.root.output.shape
    rows, depth, columns = result[-2], a.shape[-1], result[-1]
    shape = Shape(*target.choices.choose("tile", group.root, _tiles(rows, columns, target), constants=()))
    inliner = Inliner(group)
    left, right = inliner.buffer(a), inliner.buffer(b)
    row_tiles, column_tiles = ceildiv(rows, shape.rows), ceildiv(columns, shape.columns)
    grid = product(result[:-2]) * column_tiles * row_tiles
    item = inliner.loop("g")
    body: list[Stmt] = []

    def let(e: Expr, hint: str) -> Var:
        body.append(Let(Var(inliner.fresh(hint)), e))
        return body[-1].var

    *outer, panel, tile = unravel(inliner, item, (*result[:-2], column_tiles, row_tiles), body)
    first_row, first = mul(tile, const(shape.rows)), let(mul(panel, const(shape.columns)), "column")
    last = inliner.size(rows - 1)
    at = [let(minimum(add(first_row, const(r)), last), "row") for r in range(shape.rows)]
    start = let(batch_start(a.shape, result, inliner, outer), "start")
    base = [let(add(start, mul(row, inliner.size(depth))), "base") for row in at]
    deep = let(add(batch_start(b.shape, result, inliner, outer), first), "deep")
    edge, step = inliner.size(columns), inliner.size(columns)
    exact = isinstance(columns, int) and columns % shape.columns == 0
    total = Buffer(inliner.fresh("acc"), accumulator(a.dtype), shape.rows * shape.columns, "register", True)
    zero = inliner.loop("z")
    body += [
        Alloc(total),
        For(zero, const(total.size), (Store(total, zero, const(0, total.dtype)),), "vector"),
    ]
    body += multiply_rows(
        inliner,
        shape,
        total,
        inliner.size(depth),
        lambda r, k: Load(left, add(base[r], k)),
        lambda k, n: Load(
            right, add(add(deep, mul(k, step)), n), 1, None if exact else less(add(first, n), edge)
        ),
    )
    for r, row in enumerate(at):
        body.append(_write_row(inliner, group, total, shape, r, (*outer, row), first))
    flops = product((*result, depth)) * 2 + count_flops(group)
    each = 2 * shape.rows * shape.columns * (bounds(depth)[1] or 256)
    loop = For(item, inliner.size(grid), tuple(body), "grid")
    return [inliner.call("matmul", [loop], grid, max(1, PARALLEL_FLOPS // max(1, each)), flops)]


def _tiles(rows: Dim, columns: Dim, target: Target) -> list[Candidate]:
    """Rows and columns of the register tile; two vectors wide is best as a rule."""
    each = lanes(target)
    if isinstance(columns, int) and columns <= each:
        return [Candidate((tile_heights(rows, each, target)[0], each), 1.0)]
    widths = [2 * each]
    if is_roomy(target) and isinstance(columns, int):
        widths += [v * each for v in (3, 4) if columns >= v * each]
    shapes = [(height, width) for width in widths for height in tile_heights(rows, width, target)[:2]]
    return [Candidate(shape, 1 + number * WORSE) for number, shape in enumerate(shapes)]


def _write_row(
    inliner: Inliner, group: Group, total: Buffer, shape: Shape, r: int, lead: Sequence[Expr], first: Expr
) -> For:
    """Row r of the sums through the epilogue into a row of the results, from column `first` on."""
    n, root = inliner.loop("n"), group.root.output
    columns = root.shape[-1]
    place, column = add(n, const(r * shape.columns)), add(first, n)
    body: list[Stmt] = []
    scope = inliner.scope(body, {root: lambda _: build.cast(Load(total, place), root.dtype)})
    for value in group.outputs:
        index = (*lead, column)
        scope.store(value, value.shape, index, scope.read(value, index))
    if not isinstance(columns, int) or columns % shape.columns:
        body = [If(less(column, inliner.size(columns)), tuple(body))]
    return For(n, const(shape.columns), tuple(body), "vector")
