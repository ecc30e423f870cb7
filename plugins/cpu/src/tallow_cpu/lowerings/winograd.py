"""Winograd convolutions with channels last: transform, many small products, transform back; one kernel.

A grid iteration takes a block of picture tiles through all three, so that nothing but pictures and
weights is ever in shared memory: the transformed data of the block stay in the second cache. Of a dilated
convolution a tile has every d-th pixel; d tiles lie between one another.
"""

from __future__ import annotations

from collections.abc import Sequence

from tallow.backend import Target
from tallow.choices import Candidate
from tallow.dim import bounds, ceildiv, product
from tallow.dtype import bool_, f32
from tallow.kernel import build
from tallow.kernel.build import add, const, less, logical_and, minimum, mul, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Load, Stmt, Store
from tallow.kernel.straight import Maths
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops, unravel
from tallow_cpu.lowerings.blocking import ITEMS, WORSE
from tallow_cpu.lowerings.tile import PARALLEL_FLOPS, choose_shape, multiply_rows, over_sums
from tallow_cpu.winograd import apply, kinds, matrices, tile_size


def lower_winograd(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """cpu.winograd: rows of the products are picture tiles."""
    if group.prologue:
        return Declined("operands of a convolution must be in memory")
    return _Winograd(group, target).call()


class _Winograd:
    """One kernel while it is written."""

    def __init__(self, group: Group, target: Target):
        self.group, self.node = group, group.root
        self.inliner = inliner = Inliner(group)
        self.x, packed = self.node.inputs
        self.panels, _, self.depth, self.width = packed.shape
        self.m, self.stride, self.dilations = (self.node[key] for key in ("tile", "stride", "dilations"))
        self.size = tile_size(self.m, self.stride)
        self.positions = self.size**2
        self.matrices = matrices(self.m, self.stride)
        _, *spatial, _ = self.node.output.shape
        self.spatial = spatial
        tiles = (ceildiv(d, self.m * step) * step for d, step in zip(spatial, self.dilations, strict=True))
        self.grid = (self.x.shape[0], *tiles)
        self.rows = product(self.grid)
        self.shape = choose_shape(self.rows, self.width, target)
        self.pitch = self.depth + 16  # rows of a tile must not share the sets of a cache
        self.tiles, self.across = target.choices.choose("block", self.node, self.blocks(target))
        tile = self.shape.rows * self.width
        self.picture, self.weights = inliner.buffer(self.x), inliner.buffer(packed)
        length = self.tiles * self.positions * self.shape.rows * self.pitch
        self.data = Buffer(inliner.fresh("data"), f32, length, "local", True)
        self.sums = Buffer(inliner.fresh("sums"), f32, self.tiles * self.positions * tile, "local", True)
        self.total = Buffer(inliner.fresh("acc"), f32, tile, "register", True)

    def blocks(self, target: Target) -> list[Candidate]:
        """Row tiles and panels of a grid iteration: half the second cache of data, enough iterations."""
        each = self.positions * self.shape.rows * self.pitch * 4
        room, count = target.limits.get("l2", 1 << 19), bounds(ceildiv(self.rows, self.shape.rows))[1] or 64
        tiles = max(1, min(room // 2 // each, count // ITEMS))
        across = self.panels
        while (
            across > 1
            and -(-count // tiles) * -(-self.panels // across) < ITEMS
            and across * self.width > 128
        ):
            across = -(-across // 2)
        kept = each + self.positions * self.shape.rows * self.width * 4
        others = [(t, across) for t in (tiles * 2, -(-tiles // 2)) if t <= count and t * kept <= room]
        others += [(tiles, a) for a in (-(-across // 2), across * 2) if a <= self.panels]
        found = dict.fromkeys([(tiles, across), *others])
        return [Candidate(block, 1 + number * WORSE) for number, block in enumerate(found)]

    def call(self) -> Sequence[KernelCall]:
        inliner, shape = self.inliner, self.shape
        row_blocks = ceildiv(ceildiv(self.rows, shape.rows), self.tiles)
        column_blocks = -(-self.panels // self.across)
        grid = column_blocks * row_blocks
        item = inliner.loop("g")
        body: list[Stmt] = []
        beside, down = unravel(inliner, item, (column_blocks, row_blocks), body)
        body += [Alloc(self.data), Alloc(self.sums)]
        first_tile = self.inliner.let(body, mul(down, const(self.tiles)), "tile")
        left = sub(inliner.size(ceildiv(self.rows, shape.rows)), first_tile)
        tiles = self.inliner.let(body, minimum(left, const(self.tiles)), "tiles")
        first_panel = self.inliner.let(body, mul(beside, const(self.across)), "panel")
        panels = self.inliner.let(
            body, minimum(sub(const(self.panels), first_panel), const(self.across)), "panels"
        )
        body += [self.transform(first_tile, tiles), self.multiply(first_tile, tiles, first_panel, panels)]
        flops = self.rows * (2 * self.positions * self.depth * self.node["n"]) + count_flops(self.group)
        each = 2 * self.tiles * shape.rows * self.across * self.width * self.depth * self.positions
        loop = For(item, inliner.size(grid), tuple(body), "grid")
        return [inliner.call("winograd", [loop], grid, max(1, PARALLEL_FLOPS // each), flops)]

    def locate(self, body: list[Stmt], tile: Expr, r: Expr) -> tuple[Expr, list[Expr]]:
        """Image and first output coordinates of row r of a tile; rows beyond the last are the last."""
        row = minimum(add(mul(tile, const(self.shape.rows)), r), self.inliner.size(self.rows - 1))
        image, *place = unravel(self.inliner, self.inliner.let(body, row, "row"), self.grid, body)
        starts = (self.start(at, step) for at, step in zip(place, self.dilations, strict=True))
        return image, [self.inliner.let(body, start, "at") for start in starts]

    def start(self, tile: Expr, dilation: int) -> Expr:
        """First output coordinate of a tile's number on an axis."""
        whole = mul(build.floordiv(tile, const(dilation)), const(self.m * dilation))
        return add(whole, build.mod(tile, const(dilation)))

    # Data into the transformed domain ---------------------------------------------------------------

    def transform(self, first_tile: Expr, tiles: Expr) -> Stmt:
        t, r = self.inliner.loop("t"), self.inliner.loop("r")
        body: list[Stmt] = []
        image, place = self.locate(body, add(first_tile, t), r)
        pads = [low for low, _ in self.node["pads"]]
        origin = [
            self.inliner.let(body, sub(mul(at, const(self.stride)), const(p)), "origin")
            for at, p in zip(place, pads, strict=True)
        ]
        line = mul(mul(t, const(self.positions)), const(self.shape.rows))
        line = self.inliner.let(body, mul(add(line, r), const(self.pitch)), "line")
        height, width = (self.inliner.size(d) for d in self.x.shape[1:3])
        inside: Expr = const(True, bool_)
        for at, extent, step in zip(origin, (height, width), self.dilations, strict=True):
            inside = logical_and(inside, build.call("ge", at, const(0)))
            last = add(at, const((self.size - 1) * step + 1))
            inside = logical_and(inside, build.call("le", last, extent))
        inside = self.inliner.let(body, inside, "inside")
        c = self.inliner.loop("c")
        half = Buffer(self.inliner.fresh("half"), f32, self.positions, "local", True)
        plain = self.gather(half, image, origin, c, None)
        masked = self.gather(half, image, origin, c, (height, width))
        both = (Alloc(half), If(inside, (plain,), (masked,)), self.scatter(half, line, c))
        body.append(For(c, const(self.depth), both, "vector"))
        return For(t, tiles, (For(r, const(self.shape.rows), tuple(body)),))

    def gather(self, half: Buffer, image: Expr, origin: Sequence[Expr], c: Expr, limits) -> For:
        """half = d B^T of a picture tile, line by line; outside the limits of the picture d is zero."""
        i = self.inliner.loop("i")
        body: list[Stmt] = []
        maths = Maths(body, self.inliner.fresh)
        down = self.inliner.let(body, add(origin[0], mul(i, const(self.dilations[0]))), "down")
        values = []
        for j in range(self.size):
            across = add(origin[1], const(j * self.dilations[1]))
            mask = None
            if limits is not None:
                mask = logical_and(build.within(down, limits[0]), build.within(across, limits[1]))
            place = self.inliner.linear(self.x.shape, (image, down, across, c))
            values.append(maths.let(Load(self.picture, place, 1, mask), "d"))
        for j, value in enumerate(apply(maths, self.matrices.data, values)):
            body.append(Store(half, add(mul(i, const(self.size)), const(j)), value))
        return For(i, const(self.size), tuple(body))

    def scatter(self, half: Buffer, line: Expr, c: Expr) -> For:
        """data = B half, column by column."""
        j = self.inliner.loop("j")
        body: list[Stmt] = []
        maths = Maths(body, self.inliner.fresh)
        values = [maths.let(Load(half, add(j, const(i * self.size))), "h") for i in range(self.size)]
        step = self.shape.rows * self.pitch
        base = self.inliner.let(body, add(add(line, c), mul(j, const(step))), "base")
        for i, value in enumerate(apply(maths, self.matrices.data, values)):
            body.append(Store(self.data, add(base, const(i * self.size * step)), value))
        return For(j, const(self.size), tuple(body))

    # Products ---------------------------------------------------------------------------------------

    def multiply(self, first_tile: Expr, tiles: Expr, first_panel: Expr, panels: Expr) -> Stmt:
        """Each panel against all tiles of the block: position by position, so that weights are read once."""
        inliner, shape = self.inliner, self.shape
        p, t, at, back = (inliner.loop(name) for name in ("p", "t", "position", "t"))
        body: list[Stmt] = []
        panel = self.inliner.let(body, add(first_panel, p), "panel")
        outer: list[Stmt] = []
        deep = add(mul(panel, const(kinds(self.m) ** 2)), self.kind(at))
        deep = self.inliner.let(outer, mul(deep, const(self.depth * self.width)), "deep")
        inner: list[Stmt] = []
        number = self.inliner.let(inner, add(mul(t, const(self.positions)), at), "number")
        base = self.inliner.let(inner, mul(number, const(shape.rows * self.pitch)), "base")
        place = self.inliner.let(inner, mul(number, const(self.total.size)), "place")
        inner += [Alloc(self.total), over_sums(inliner, shape, lambda i: Store(self.total, i, const(0, f32)))]
        inner += multiply_rows(
            inliner,
            shape,
            self.total,
            const(self.depth),
            lambda r, k: Load(self.data, add(add(base, k), const(r * self.pitch))),
            lambda k, n: Load(self.weights, add(add(deep, mul(k, const(self.width))), n)),
        )
        inner.append(
            over_sums(inliner, shape, lambda i: Store(self.sums, add(place, i), Load(self.total, i)))
        )
        body.append(For(at, const(self.positions), (*outer, For(t, tiles, tuple(inner)))))
        body.append(For(back, tiles, (self.transform_back(add(first_tile, back), back, panel),)))
        return For(p, panels, tuple(body))

    def kind(self, position: Expr) -> Expr:
        """Which transformed weights a position has."""
        if self.stride == 1:
            return position
        last = const(self.m + 1)
        i, j = (part(position, const(self.size)) for part in (build.floordiv, build.mod))
        return add(mul(minimum(i, last), const(kinds(self.m))), minimum(j, last))

    # Sums back into pictures ------------------------------------------------------------------------

    def transform_back(self, tile: Expr, number: Expr, panel: Expr) -> Stmt:
        """A s A^T of each picture tile of row tile `number` of the block, and the epilogue at each pixel that
        there is."""
        r, n = self.inliner.loop("r"), self.inliner.loop("n")
        outer: list[Stmt] = []
        image, place = self.locate(outer, tile, r)
        first = self.inliner.let(outer, mul(panel, const(self.width)), "column")
        line = add(mul(number, const(self.positions * self.total.size)), mul(r, const(self.width)))
        line = self.inliner.let(outer, line, "line")
        half = Buffer(self.inliner.fresh("half"), f32, self.m * self.size, "local", True)
        body = (
            Alloc(half),
            self.columns_back(half, add(line, n)),
            self.lines_back(half, image, place, add(first, n)),
        )
        outer.append(For(n, const(self.width), body, "vector"))
        return For(r, const(self.shape.rows), tuple(outer))

    def columns_back(self, half: Buffer, at: Expr) -> For:
        """half = A s, column by column."""
        j = self.inliner.loop("j")
        body: list[Stmt] = []
        maths = Maths(body, self.inliner.fresh)
        base = self.inliner.let(body, add(at, mul(j, const(self.total.size))), "base")
        steps = [i * self.size * self.total.size for i in range(self.size)]
        values = [maths.let(Load(self.sums, add(base, const(s))), "s") for s in steps]
        for i, value in enumerate(apply(maths, self.matrices.output, values)):
            body.append(Store(half, add(j, const(i * self.size)), value))
        return For(j, const(self.size), tuple(body))

    def lines_back(self, half: Buffer, image: Expr, place: Sequence[Expr], column: Expr) -> For:
        """half A^T line by line, through the epilogue into the results."""
        i = self.inliner.loop("i")
        body: list[Stmt] = []
        maths = Maths(body, self.inliner.fresh)
        start = mul(i, const(self.size))
        values = [maths.let(Load(half, add(start, const(j))), "h") for j in range(self.size)]
        down = self.inliner.let(body, add(place[0], mul(i, const(self.dilations[0]))), "down")
        edge = None if self.node["n"] % self.width == 0 else less(column, const(self.node["n"]))
        for j, value in enumerate(apply(maths, self.matrices.output, values)):
            at = (down, add(place[1], const(j * self.dilations[1])))
            body += self.write((image, *at, column), value, self.there(at), edge)
        return For(i, const(self.m), tuple(body))

    def there(self, at: Sequence[Expr]) -> Expr:
        """Whether a pixel of a tile lies inside the result."""
        result: Expr = const(True, bool_)
        for place, extent, step in zip(at, self.spatial, self.dilations, strict=True):
            if not isinstance(extent, int) or extent % (self.m * step):
                result = logical_and(result, less(place, self.inliner.size(extent)))
        return result

    def write(self, index, value: Expr, here: Expr, edge: Expr | None) -> list[Stmt]:
        """The stores of one pixel, `here` and before the `edge` of the columns."""
        if here == const(False, bool_):
            return []
        body: list[Stmt] = []
        scope = self.inliner.scope(body, {self.node.output: lambda _: value})
        for result in self.group.outputs:
            scope.store(result, result.shape, index, scope.read(result, index))
        for condition in (edge, here):
            if condition is not None and not isinstance(condition, build.Const):
                body = [If(condition, tuple(body))]
        return body
