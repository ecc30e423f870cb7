"""The kernel language: loops, loads, vector arithmetic and stores; its whole grammar is this page.

A kernel is written with scalar loops that say how they may run (`kind`). `vectorise` turns the
`vector` loops into explicit vectors; printers take either form. `interpret` defines the meaning.
All index arithmetic is i64. Out-of-bounds access is a fault unless masked off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tallow.dtype import DType, bool_, i64

Space = Literal["global", "local", "register", "shared"]
LoopKind = Literal["serial", "unroll", "vector", "grid", "group"]
Role = Literal["left", "right", "sum"]
UpdateOp = Literal["add", "mul", "max", "min", "or", "and"]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one dtype. Parameters are `global`; `Alloc` makes the others.

    `local` is a thread's own scratch memory, `register` is meant to live in registers (its indexes
    become constants once loops are unrolled), `shared` belongs to a work-group.
    """

    name: str
    dtype: DType
    size: int | None = None  # elements; None for a parameter of unknown size
    space: Space = "global"
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Fragment:
    """A matrix that `threads` neighbouring threads of a group hold together in registers, and that matrix units
    multiply; who holds which element is the device's affair.

    A product is left times right, added to a sum, which begins at zero wherever it is allocated. turned: whether
    the elements of a column rather than of a row lie beside each other in the memory that it is loaded from.
    """

    name: str
    dtype: DType
    role: Role
    rows: int
    columns: int
    threads: int
    turned: bool = False


@dataclass(frozen=True, slots=True)
class Var:
    """A loop variable, a size parameter or a name bound by `Let`."""

    name: str
    dtype: DType = i64
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Const:
    value: float | int | bool
    dtype: DType = i64
    lanes: int = 1  # the same value in each lane


@dataclass(frozen=True, slots=True)
class Ramp:
    """The i64 vector 0, 1, ..., lanes - 1."""

    lanes: int
    dtype: DType = i64


@dataclass(frozen=True, slots=True)
class Splat:
    value: Expr
    lanes: int

    @property
    def dtype(self) -> DType:
        return self.value.dtype


@dataclass(frozen=True, slots=True)
class Load:
    """`buffer[index]`; with `lanes` > 1 and a scalar index, `lanes` elements from there on;
    with a vector index, a gather. Where `mask` is false nothing is read and the lane is 0."""

    buffer: Buffer
    index: Expr
    lanes: int = 1
    mask: Expr | None = None

    @property
    def dtype(self) -> DType:
        return self.buffer.dtype


@dataclass(frozen=True, slots=True)
class Call:
    """A row of `scalar.SCALAR` applied lane by lane; `dtype` is the result's."""

    function: str
    arguments: tuple[Expr, ...]
    dtype: DType

    @property
    def lanes(self) -> int:
        return self.arguments[0].lanes


@dataclass(frozen=True, slots=True)
class Cast:
    """Conversion by value: float to int truncates (saturating, NaN to 0), int to int wraps."""

    value: Expr
    dtype: DType

    @property
    def lanes(self) -> int:
        return self.value.lanes


@dataclass(frozen=True, slots=True)
class Bitcast:
    """The same bits read as another dtype of the same width."""

    value: Expr
    dtype: DType

    @property
    def lanes(self) -> int:
        return self.value.lanes


@dataclass(frozen=True, slots=True)
class Reduce:
    """All lanes of a vector folded into a scalar, as a balanced tree over halves."""

    op: UpdateOp
    value: Expr
    lanes: int = 1

    @property
    def dtype(self) -> DType:
        return self.value.dtype


Expr = Var | Const | Ramp | Splat | Load | Call | Cast | Bitcast | Reduce


@dataclass(frozen=True, slots=True)
class Let:
    var: Var
    value: Expr


@dataclass(frozen=True, slots=True)
class Alloc:
    buffer: Buffer | Fragment


@dataclass(frozen=True, slots=True)
class Alias:
    """`buffer` is the memory of `of`, read and written as another dtype, lowest bits first."""

    buffer: Buffer
    of: Buffer


@dataclass(frozen=True, slots=True)
class Store:
    """`buffer[index] = value`; a vector value goes to consecutive elements, or is scattered by a
    vector index (distinct where not masked)."""

    buffer: Buffer
    index: Expr
    value: Expr
    mask: Expr | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """`buffer[index] = op(buffer[index], value)`: a reduction. In a `vector` loop that the index
    does not depend on, the order of the partial results is the vectoriser's, fixed per target."""

    buffer: Buffer
    index: Expr
    op: UpdateOp
    value: Expr


@dataclass(frozen=True, slots=True)
class Copy:
    """`count` elements from `source[start]` on to where `buffer[index]` and those after it are; zeros where `mask`
    is false. `count` is a power of two, and both places are multiples of it."""

    buffer: Buffer
    index: Expr
    source: Buffer
    start: Expr
    count: int
    mask: Expr | None = None


@dataclass(frozen=True, slots=True)
class For:
    """`var` runs over start, start + step, ... while below stop.

    serial: in order. unroll: in order, no loop left (constant bounds). vector: iterations are
    independent but for `Update`s. grid: independent, outermost, split over threads or a device's
    grid; a kernel has exactly one. group: the threads of one work-group, run together: each has what is
    allocated inside, and all meet at a Barrier there, which no thread may miss; nor may any miss an Exchange
    or what is done with a Fragment.
    """

    var: Var
    stop: Expr
    body: tuple[Stmt, ...]
    kind: LoopKind = "serial"
    start: Expr = Const(0)
    step: int = 1


@dataclass(frozen=True, slots=True)
class If:
    condition: Expr
    then: tuple[Stmt, ...]
    otherwise: tuple[Stmt, ...] = ()


@dataclass(frozen=True, slots=True)
class Barrier:
    """All threads of a work-group meet here. What they wrote to shared memory is visible after it to all, or,
    where `threads` is not 0, to those of as many neighbours."""

    threads: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """`var` is `value` as it is in the thread whose number differs in the bit `distance`, a power of two."""

    var: Var
    value: Expr
    distance: int


@dataclass(frozen=True, slots=True)
class LoadMatrix:
    """Element (r, c) of a left or right fragment is `buffer[index + r * pitch + c]` of shared memory, with r and c
    swapped if it is turned. Every thread that holds the fragment has the same index."""

    fragment: Fragment
    buffer: Buffer
    index: Expr
    pitch: int


@dataclass(frozen=True, slots=True)
class Multiply:
    """`total += left @ right`. Products of narrow floats are exact and summed in f32, in an order and with a
    rounding of the device's own; operands of f32 are rounded to 11 bits, nearest and ties away from zero, before."""

    total: Fragment
    left: Fragment
    right: Fragment


@dataclass(frozen=True, slots=True)
class StoreMatrix:
    """Element (r, c) of a sum goes to `buffer[index + r * pitch + c]` of shared memory."""

    buffer: Buffer
    index: Expr
    pitch: int
    fragment: Fragment


@dataclass(frozen=True, slots=True)
class Prefetch:
    """A hint without meaning: `buffer[index]` will soon be read, or written if `write`. Any index will do."""

    buffer: Buffer
    index: Expr
    write: bool = False


Matrix = LoadMatrix | Multiply | StoreMatrix
Stmt = Let | Alloc | Alias | Store | Update | Copy | For | If | Barrier | Exchange | Matrix | Prefetch


@dataclass(frozen=True, slots=True)
class Kernel:
    """A compiled unit: `body` is any number of `Let`s of sizes and then one `grid` loop.

    `parameters` are global buffers, `sizes` are i64 variables known when the kernel is called. `native`,
    where it is not empty, is what the backend that wrote it runs in place of the body, such as a call of a
    library: it tells what in words of its own, and the body is still what it means.
    """

    name: str
    parameters: tuple[Buffer, ...]
    sizes: tuple[Var, ...]
    body: tuple[Stmt, ...]
    native: str = ""

    @property
    def grid(self) -> For:
        return next(s for s in self.body if isinstance(s, For) and s.kind == "grid")


@dataclass(frozen=True, slots=True)
class SourceKernel:
    """A kernel in the language of a backend: `text` is what iteration `item` of the grid does.

    In it parameters and sizes have their names; the first size is `grid`, the number of iterations.
    """

    name: str
    parameters: tuple[Buffer, ...]
    sizes: tuple[Var, ...]
    text: str


TRUE = Const(True, bool_)
