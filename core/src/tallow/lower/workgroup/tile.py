"""The tile of a contraction: what one work-group computes, and how large it is for a target.

A device with vectors (`Target.vector_bytes`) has groups of one thread, which keeps rows of vectors in
registers and reads operands where they lie. Any other is taken for a device with shared memory: a group
stages pieces of both operands there, and each thread keeps a small block of sums in registers. Where the target has
matrix units for the operands, each sub-group keeps a block of fragments instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tallow.dim import Dim, bounds
from tallow.dtype import DType, f32
from tallow.target import Target

THREADS = 256  # of a group, where the target allows as many
UNITS = 64  # groups that keep a device busy, where it does not say
UNKNOWN = 1024  # a size that only the run can tell
CHUNK = 4  # neighbouring rows or columns of a thread
UNIT = 16  # rows and columns of a fragment
FEWEST = 8  # rows, columns and summed elements that are worth matrix units
REGISTERS = 64  # of a thread, for sums and what waits
STAGING = 32  # multiplications of a matrix unit in the time that an element takes to be staged
# Fragments of a sub-group, rows x columns, and sub-groups, down x across.
BLOCKS = (
    (4, 2, 2, 4),
    (4, 2, 2, 2),
    (2, 4, 2, 2),
    (2, 2, 2, 2),
    (1, 2, 2, 2),
    (1, 2, 1, 4),
    (1, 1, 2, 2),
    (1, 1, 1, 4),
    (1, 1, 4, 1),
    (1, 1, 1, 1),
)


@dataclass(frozen=True, slots=True)
class Tile:
    """`down` x `across` threads with `rows` x `columns` sums each; `depth` summed elements are staged at a
    time (0: none)."""

    rows: int
    columns: int
    down: int = 1
    across: int = 1
    depth: int = 0

    @property
    def height(self) -> int:
        return self.rows * self.down

    @property
    def width(self) -> int:
        return self.columns * self.across

    @property
    def threads(self) -> int:
        return self.down * self.across


@dataclass(frozen=True, slots=True)
class Block:
    """`down` x `across` sub-groups of `neighbours` threads with `rows` x `columns` fragments of sums each; `depth`
    summed elements are staged at a time, of which a fragment has `unit`."""

    rows: int
    columns: int
    down: int
    across: int
    depth: int
    unit: int
    neighbours: int

    @property
    def height(self) -> int:
        return UNIT * self.rows * self.down

    @property
    def width(self) -> int:
        return UNIT * self.columns * self.across

    @property
    def threads(self) -> int:
        return self.down * self.across * self.neighbours


def lanes(target: Target, itemsize: int = 4) -> int:
    """Elements of a vector."""
    return max(min(target.vector_bytes // itemsize, 16), 1)


def threads(target: Target) -> int:
    """Threads of a group, a power of two; 1 for a device with vectors."""
    if target.vector_bytes:
        return 1
    return _floor_power(max(1, min(THREADS, target.limits.get("group", THREADS))))


def panel_width(columns: Dim, itemsize: int, target: Target) -> int:
    """Columns of a tile of vectors, and of a panel of weights packed for it: one vector or two."""
    width, most = lanes(target, itemsize), bounds(columns)[1]
    return width if most is not None and most <= width else 2 * width


def choose_tile(outer: Dim, rows: Dim, columns: Dim, itemsize: int, target: Target) -> Tile:
    """The tile of a contraction of sums of `itemsize` bytes."""
    if target.vector_bytes:
        wide = panel_width(columns, itemsize, target)
        return Tile(choose_rows(rows, wide // lanes(target, itemsize), target), wide)
    return _staged(outer, rows, columns, itemsize, target)


def has_units(dtype: DType, target: Target) -> bool:
    """Whether the target has matrix units for a dtype: `features` names what they multiply."""
    name = "tf32" if dtype == f32 else dtype.name
    known = name in ("f16", "bf16", "tf32") and name in target.features
    return known and target.limits.get("subgroup", 1) > 1


def unit_depth(dtype: DType) -> int:
    """Summed elements of a fragment."""
    return 8 if dtype == f32 else 16


def choose_block(
    outer: Dim, rows: Dim, columns: Dim, each: Dim, dtype: DType, target: Target
) -> Block | None:
    """The block of a contraction of runs of `each` elements on matrix units; None without units, or where they
    would have little to do."""
    high, wide, run = (_size(d) for d in (rows, columns, each))
    if not has_units(dtype, target) or min(high, wide, run) < FEWEST:
        return None
    unit = unit_depth(dtype)
    depth = min(max(_ceil_power(run), unit), 64 // dtype.itemsize)
    neighbours, most = target.limits["subgroup"], threads(target)
    blocks = [Block(*shape, depth, unit, neighbours) for shape in BLOCKS]
    memory = target.limits.get("shared", 32 << 10)
    fitting = [b for b in blocks if b.threads <= most and staged_bytes(b, dtype) <= memory]
    items, units = _size(outer) if outer != 1 else 1, target.limits.get("units", UNITS)

    def tiles(block: Block) -> int:
        return items * -(-high // block.height) * -(-wide // block.width)

    def time(block: Block) -> int:
        each_tile = block.height * block.width + STAGING * (block.height + block.width)
        return -(-tiles(block) // units) * each_tile

    best = min(fitting, key=time, default=None)
    return best if best is None or tiles(best) > 2 * units else _deepened(best, run, dtype, memory)


def _deepened(block: Block, run: int, dtype: DType, memory: int) -> Block:
    """The block with deeper pieces, for when few groups run at once and nothing else hides how long memory takes: as
    deep as registers and shared memory allow, and as long as no more is read past the end of a run."""
    lines, sums = block.height + block.width, block.rows * block.columns * UNIT * UNIT // block.neighbours
    while True:
        deeper = replace(block, depth=2 * block.depth)
        waiting = lines * deeper.depth * dtype.itemsize // (4 * block.threads)
        padded = (-(-run // b.depth) * b.depth for b in (block, deeper))
        if sums + waiting > REGISTERS or staged_bytes(deeper, dtype) > memory or len(set(padded)) > 1:
            return block
        block = deeper


def padding(dtype: DType) -> int:
    """Elements between lines in shared memory, so that those of neighbours are in different banks."""
    return 16 // dtype.itemsize


def staged_bytes(block: Block, dtype: DType) -> int:
    """Shared memory that a block needs at most: pieces of both operands, or a row of each sub-group's fragments."""
    gap = padding(dtype)
    lines, depth = block.height + block.width, block.depth
    pieces = max((lines * (depth + gap)), (lines + 2 * gap) * depth) * dtype.itemsize
    return max(pieces, block.down * block.across * UNIT * patch_pitch(block) * f32.itemsize)


def patch_pitch(block: Block) -> int:
    """Elements from one row of a sub-group's fragments to the next, where they are written to memory."""
    return UNIT * block.columns + 4


def choose_rows(rows: Dim, vectors: int, target: Target) -> int:
    """The tallest tile of some vectors of width that fits the registers and wastes few rows."""
    sums = 24 if target.limits.get("registers", 16) >= 32 else 12
    most = max(1, sums // vectors)
    if not isinstance(rows, int):
        high = bounds(rows)[1]
        return most if high is None else max(1, min(most, high))
    if rows <= most:
        return max(rows, 1)
    return min(range(max(most // 2, 1), most + 1), key=lambda r: (-(-rows // r) * r + 2 * -(-rows // r), -r))


def _staged(outer: Dim, rows: Dim, columns: Dim, itemsize: int, target: Target) -> Tile:
    count = threads(target)
    high, wide = (_size(d) for d in (rows, columns))
    items = _size(outer) if outer != 1 else 1
    down, across = _spread(count, high, wide)
    each = 1
    for size in (2, 4, 8):
        small = size * down > max(2 * high, down) or size * across > max(2 * wide, across)
        tiles = items * -(-high // (size * down)) * -(-wide // (size * across))
        if (
            not small
            and (size <= 4 or tiles >= 2 * target.limits.get("units", UNITS))
            and size * itemsize <= 32
        ):
            each = size
    tall, broad = (max(1, min(each, _ceil_power(-(-s // n)))) for s, n in ((high, down), (wide, across)))
    depth = 16 if count >= 64 else 4
    memory = target.limits.get("shared", 32 << 10)
    while depth > 1 and depth * (tall * down + broad * across + 2 * CHUNK) * itemsize > memory:
        depth //= 2
    return Tile(tall, broad, down, across, depth)


def _spread(count: int, high: int, wide: int) -> tuple[int, int]:
    """Threads along rows and columns: a square, unless there are few rows or few columns."""
    down = 1
    while down * down * 4 <= count:
        down *= 2
    across = count // down
    while down > 1 and down > _ceil_power(high):
        down, across = down // 2, across * 2
    while across > 1 and across > _ceil_power(wide) and down < _ceil_power(high):
        down, across = down * 2, across // 2
    return down, across


def _size(dim: Dim) -> int:
    high = bounds(dim)[1]
    return max(1, UNKNOWN if high is None else high)


def _floor_power(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def _ceil_power(n: int) -> int:
    return 1 << (max(n, 1) - 1).bit_length()
