"""Rates: how fast devices are, coarsely; placement weighs what it costs to move against what it costs to stay."""

from __future__ import annotations

from typing import NamedTuple

from tallow.backend import Backend, Target
from tallow.dim import Dim, evaluate, symbols
from tallow.errors import TallowError
from tallow.types import TensorType, Type

USUAL = 128  # what a size that is not known is taken for, inside its bounds


class Rates(NamedTuple):
    """What a device does in a second, and what it costs to reach its memory from the host's.

    flops, bytes: arithmetic, and traffic with its memory. link: bytes between its memory and the host's,
    where these are two. latency: seconds of one copy.
    """

    flops: float
    bytes: float
    link: float | None = None
    latency: float = 0.0

    def seconds(self, flops: int, moved: int) -> float:
        return max(flops / self.flops, moved / self.bytes)

    def copy(self, size: int) -> float:
        """Seconds that bytes need between this device and the host's memory."""
        return 0.0 if self.link is None else self.latency + size / self.link

    @property
    def is_host(self) -> bool:
        """Whether the device works on the host's memory."""
        return self.link is None


RATES = {  # by the kind of a device, which its backend tells
    "host": Rates(2e11, 2e10),
    "processor": Rates(2e11, 2e10, link=1e10, latency=20e-6),
    "graphics": Rates(1e13, 1e12, link=1e10, latency=20e-6),
}
UNKNOWN = "processor"  # of a backend that does not say


def rates_of(backend: Backend, target: Target) -> Rates:
    """The rates of a target, by the kind that its backend says it is."""
    return RATES[backend.kind(target) if hasattr(backend, "kind") else UNKNOWN]


def usual(dim: Dim) -> int:
    """What a size is taken for: the value of its expression where each unknown size is USUAL, at least 0."""
    sizes = {}
    for name, symbol in symbols(dim).items():
        size = max(USUAL, symbol.lower)
        sizes[name] = size if symbol.upper is None else min(size, symbol.upper)
    try:
        return max(0, evaluate(dim, sizes))
    except (TallowError, ArithmeticError):  # sizes that do not fit each other
        return USUAL


def usual_bytes(type_: Type) -> int:
    """Bytes of a value of usual sizes; of what is no tensor of numbers, none."""
    if not isinstance(type_, TensorType) or type_.dtype.kind == "string":
        return 0
    return usual(type_.size) * type_.dtype.itemsize
