"""What is known of a value before it exists: element type and symbolic shape."""

from __future__ import annotations

from dataclasses import dataclass

from tallow.dim import Dim, Expr, Symbol, product, symbols
from tallow.dtype import DType
from tallow.errors import GraphError

MOST_AXES = 64  # as many as numpy's arrays have
VARIES = Expr((((Symbol("_"),), 1),))  # a size that may differ from one element of a sequence to the next


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense array: its dtype and one Dim per axis. The rank is always known."""

    dtype: DType
    shape: tuple[Dim, ...]

    def __post_init__(self):
        if any(isinstance(dim, int) and dim < 0 for dim in self.shape):
            raise GraphError(f"{self.dtype}{list(self.shape)} has a negative size")
        if len(self.shape) > MOST_AXES:
            raise GraphError(f"expected tensors of at most {MOST_AXES} axes, got {len(self.shape)}")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(dim, int) for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class UnrankedType:
    """An array of which only the dtype is known: an element of a sequence whose elements differ in rank."""

    dtype: DType

    def __str__(self) -> str:
        return f"unranked({self.dtype})"


@dataclass(frozen=True, slots=True)
class NothingType:
    """The type that no value has: the element of a sequence made empty, which tensors of `dtype` may join."""

    dtype: DType

    def __str__(self) -> str:
        return f"nothing({self.dtype})"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A list of values of one type; a Dim that differs between elements is VARIES."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value or nothing."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True, slots=True)
class MapType:
    """A dictionary from keys of one dtype to values of one type."""

    key: DType
    element: Type

    def __str__(self) -> str:
        return f"map({self.key}, {self.element})"


Type = TensorType | UnrankedType | NothingType | SequenceType | OptionalType | MapType
Container = SequenceType | OptionalType | MapType


def type_symbols(of: Type) -> dict[str, Symbol]:
    """Every size symbol that a type mentions, by name; VARIES names no size."""
    if isinstance(of, Container):
        return type_symbols(of.element)
    found: dict[str, Symbol] = {}
    for dim in getattr(of, "shape", ()):
        found |= symbols(dim)
    found.pop(str(VARIES), None)
    return found


def cover(a: Type, b: Type) -> Type:
    """The type of elements that may be of either type; GraphError if they cannot stand in one sequence."""
    if a == b or (isinstance(b, NothingType) and _accepts(b, a)):
        return a
    if isinstance(a, NothingType) and _accepts(a, b):
        return b
    match a, b:
        case (TensorType() | UnrankedType(), TensorType() | UnrankedType()) if a.dtype == b.dtype:
            if isinstance(a, UnrankedType) or isinstance(b, UnrankedType) or a.rank != b.rank:
                return UnrankedType(a.dtype)
            pairs = zip(a.shape, b.shape, strict=True)
            return TensorType(a.dtype, tuple(x if x == y else VARIES for x, y in pairs))
        case (SequenceType(), SequenceType()) | (OptionalType(), OptionalType()):
            return type(a)(cover(a.element, b.element))
        case (MapType(), MapType()) if a.key == b.key:
            return MapType(a.key, cover(a.element, b.element))
        case (OptionalType(), other) | (other, OptionalType()):
            optional = a if isinstance(a, OptionalType) else b
            return OptionalType(cover(optional.element, other))
    raise GraphError(f"{a} and {b}: expected values of one kind and dtype")


def _accepts(nothing: NothingType, other: Type) -> bool:
    return getattr(other, "dtype", nothing.dtype) == nothing.dtype


def replace_sizes(of: Type, change) -> Type:
    """The type with `change(dim)` in place of every size."""
    match of:
        case TensorType():
            return TensorType(of.dtype, tuple(map(change, of.shape)))
        case SequenceType() | OptionalType():
            return type(of)(replace_sizes(of.element, change))
        case MapType():
            return MapType(of.key, replace_sizes(of.element, change))
    return of
