"""A case of the kit: one operator with the dtypes, sizes and values that it is tried on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tallow.builder import Builder
from tallow.dtype import DType
from tallow.graph import Graph, Value
from tallow.testing.accuracy import EXACT, Accuracy

Sizes = Mapping[str, int]
Write = Callable[[Builder, str], "Value | Sequence[Value]"]

FLOATS = ("f32", "f16", "f64", "bf16")
INTEGERS = ("i32", "u8", "i64", "i8", "i16", "u16", "u32", "u64")
ALL = (*FLOATS, *INTEGERS, "bool")
MOVED = ("f32", "f16", "i64", "u8", "bool")
# Sizes of odd remainders (a vector's first lane alone among them: 33, 33 * 33 and 7 * 11 * 5), of one, of none,
# and beyond what one iteration of a grid takes.
MATRIX = (
    {"n": 33, "m": 33},
    {"n": 1, "m": 1},
    {"n": 0, "m": 5},
    {"n": 4, "m": 0},
    {"n": 2, "m": 2083},
    {"n": 17, "m": 7},
)
LINE = ({"n": 5}, {"n": 1}, {"n": 0}, {"n": 131})


@dataclass(frozen=True)
class Case:
    """`write` makes inputs and results of a dtype. domain: (low, high) of inputs, or a function of an input's
    name and the sizes. special: whether NaN and infinities are tried too. fixed: whether a quick run tries
    the first sizes fixed, and those that are zero, too."""

    name: str
    write: Write
    dtypes: tuple[str, ...] = FLOATS
    quick: tuple[str, ...] = ("f32", "f16")
    sizes: tuple[Sizes, ...] = MATRIX
    accuracy: Accuracy = EXACT
    domain: tuple[float, float] | Callable[[str, Sizes], tuple[float, float]] = (-4, 4)
    special: bool = True
    fixed: bool = True

    def graph(self, dtype: str) -> Graph:
        b = Builder(self.name.replace(" ", "_").replace(",", ""))
        results = self.write(b, dtype)
        values = [results] if isinstance(results, Value) else list(results)
        return b.finish({f"y{number}": value for number, value in enumerate(values)})

    def inputs(self, graph: Graph, sizes: Sizes, seed: int, special: bool) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        domain = self.domain if callable(self.domain) else lambda name, sizes: self.domain
        return {
            v.name: values(rng, v.dtype, extents(v, sizes), domain(v.name, sizes), special and self.special)
            for v in graph.inputs
        }


def extents(value: Value, sizes: Sizes) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else sizes[str(d)] for d in value.shape)


def values(rng, kind: DType, shape: Sequence[int], domain: tuple[float, float], special: bool) -> np.ndarray:
    """Seeded noise of a dtype; with `special`, some of a float's values are no ordinary numbers."""
    low, high = domain
    if kind.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.is_integer:
        limits = np.iinfo(kind.numpy)
        return rng.integers(
            max(int(low), limits.min), min(int(high), limits.max), shape, endpoint=True
        ).astype(kind.numpy)
    found = rng.uniform(low, high, shape)
    if special and found.size:
        flat = found.reshape(-1)
        flat[rng.integers(0, flat.size, 5)] = [math.nan, math.inf, -math.inf, 0.0, -0.0]
    return found.astype(kind.numpy)


def strided(array: np.ndarray) -> np.ndarray:
    """The same elements, every other of a larger array from the end on: neither contiguous nor in order."""
    if not array.ndim:
        return array
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    view = wide[..., ::-2] if array.shape[-1] else wide
    view[...] = array
    return view
