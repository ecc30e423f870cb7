"""How an ONNX file is read where there is a choice: names of sizes, defaults of inputs, values of initializers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tallow.dtype import DType, dtype
from tallow.errors import ImportFailed


@dataclass(frozen=True, slots=True)
class Reading:
    """`untied`: names of sizes that are not believed, None for all: every axis of an input that has such a name has
    a size of its own. `fed`: inputs that the file gives a default, and that are to be given all the same.
    `replaced`: initializers of the main graph that have these values, of the file's dtype and shape."""

    untied: frozenset[str] | None = frozenset()
    fed: frozenset[str] = frozenset()
    replaced: Mapping[str, np.ndarray] = field(default_factory=dict)

    def ties(self, size: str) -> bool:
        """Whether axes whose size has this name are equal, as ONNX says."""
        return self.untied is not None and size not in self.untied

    def check(self, source: str, inputs: Collection[str]) -> None:
        """ImportFailed for inputs to be given that are none."""
        unknown = self.fed.difference(inputs)
        if unknown:
            raise ImportFailed(f"{source}: no inputs {', '.join(sorted(unknown))} to be given")

    def value(self, source: str, name: str, wanted: DType, shape: Sequence[int]) -> np.ndarray | None:
        """What an initializer is replaced with, if it is; ImportFailed where that is of another dtype or shape."""
        array = self.replaced.get(name)
        if array is None:
            return None
        if dtype(array.dtype) != wanted or array.shape != tuple(shape):
            expected, got = f"{wanted}{list(shape)}", f"{dtype(array.dtype)}{list(array.shape)}"
            raise ImportFailed(f'{source}: the initializer "{name}": expected a value {expected}, got {got}')
        return array

    def words(self) -> tuple[str, ...]:
        """What tells one way of reading from another."""
        untied = ("untied",) if self.untied is None else tuple(f"untied {n!r}" for n in sorted(self.untied))
        fed = (f"fed {name!r}" for name in sorted(self.fed))
        return (*untied, *fed, *(_digest(name, array) for name, array in sorted(self.replaced.items())))


def _digest(name: str, array: np.ndarray) -> str:
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return f"{name!r} {dtype(array.dtype)}{list(array.shape)} {content}"


PLAIN = Reading()
