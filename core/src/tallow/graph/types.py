"""What is known of a value before it exists: element type and symbolic shape."""

from __future__ import annotations

from dataclasses import dataclass

from tallow.dim import Dim, Symbol, product, symbols
from tallow.dtype import DType
from tallow.errors import GraphError


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense array: its dtype and one Dim per axis. The rank is always known."""

    dtype: DType
    shape: tuple[Dim, ...]

    def __post_init__(self):
        if any(isinstance(dim, int) and dim < 0 for dim in self.shape):
            raise GraphError(f"{self.dtype}{list(self.shape)} has a negative size")

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
class SequenceType:
    """A list of values of one type; a Dim that differs between elements is a symbol of its own."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value or nothing."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


Type = TensorType | SequenceType | OptionalType


def type_symbols(of: Type) -> dict[str, Symbol]:
    """Every size symbol that a type mentions, by name."""
    if not isinstance(of, TensorType):
        return type_symbols(of.element)
    found: dict[str, Symbol] = {}
    for dim in of.shape:
        found |= symbols(dim)
    return found
