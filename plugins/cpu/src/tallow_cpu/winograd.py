"""Winograd's short convolutions: the matrices of F(m, 3), and linear maps as straight code.

m outputs of a 3-tap convolution from m + 2 inputs with m + 2 multiplications: y = A [(G g) * (B d)]
(Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015; construction by Cook and Toom).
With stride 2, inputs of even number meet the outer taps, a convolution of 2 taps and stride 1; those of odd
number meet the middle one: 2 m + 1 inputs and as many multiplications.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tallow.dtype import DType
from tallow.kernel import build
from tallow.kernel.grammar import Expr
from tallow.kernel.straight import Maths

TAPS = 3
AT_ONCE = 64  # channels of weights that are transformed at a time, so that a cache holds them in f64
# outputs, taps -> points of evaluation beside infinity. Pairs of opposite points share arithmetic; these keep
# the entries near one: F(4, 3) is off by 1.5e-6 of the largest value (direct sums by 0.2e-6), where the
# customary points 0, 1, 2 lose 6e-6.
POINTS = {
    (2, 3): (Fraction(0), Fraction(1), Fraction(-1)),
    (4, 3): (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
    (2, 2): (Fraction(0), Fraction(-1)),
    (4, 2): (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2)),
}
TILES = (2, 4)  # outputs of a tile on each axis


@dataclass(frozen=True, slots=True, eq=False)
class Matrices:
    """output: [m, size]; weights: [size, 3]; data: [size, size]; f64."""

    output: np.ndarray
    weights: np.ndarray
    data: np.ndarray


def tile_size(m: int, stride: int) -> int:
    """Inputs for m outputs."""
    return (m - 1) * stride + TAPS


@functools.cache
def matrices(m: int, stride: int = 1) -> Matrices:
    """The matrices for m outputs of 3 taps and a stride of 1 or 2."""
    if stride == 1:
        return _cook_toom(m, TAPS)
    even, size = _cook_toom(m, 2), tile_size(m, stride)
    output, weights, data = np.zeros((m, size)), np.zeros((size, TAPS)), np.zeros((size, size))
    output[:, : m + 1], output[:, m + 1 :] = even.output, np.eye(m)
    weights[: m + 1, ::2], weights[m + 1 :, 1] = even.weights, 1
    data[: m + 1, ::2], data[m + 1 :, 1::2] = even.data, np.eye(m)
    return Matrices(output, weights, data)


def _cook_toom(m: int, taps: int) -> Matrices:
    """The matrices of F(m, taps), their rows balanced by powers of two."""
    points = POINTS[m, taps]
    output = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    weights, data = [], []
    for point in points:
        others = [q for q in points if q != point]
        scale = math.prod((point - q for q in others), start=Fraction(1))
        weights.append([point**i / scale for i in range(taps)])
        data.append([*_polynomial(others), Fraction(0)])
    weights.append([Fraction(0)] * (taps - 1) + [Fraction(1)])
    data.append(_polynomial(points))
    a, g, b = (np.array(rows, dtype=np.float64) for rows in (output, weights, data))
    balance = 2.0 ** np.round(np.log2(np.linalg.norm(g, axis=1) / np.linalg.norm(b, axis=1)) / 2)
    return Matrices(a, g / balance[:, None], b * balance[:, None])


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, from the constant up, of the monic polynomial with these roots."""
    result = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *result]
        result = [s - root * c for s, c in zip(shifted, [*result, Fraction(0)], strict=True)]
    return result


# Straight code --------------------------------------------------------------------------------------


def apply(maths: Maths, matrix: np.ndarray, values: Sequence[Expr]) -> list[Expr]:
    """matrix . values. Neighbouring columns, or rows, that differ only in signs share their arithmetic."""
    values = list(values)
    columns = _pairs(matrix.T)
    if columns:
        return _by_columns(maths, matrix, values, columns)
    result: list[Expr | None] = [None] * len(matrix)
    for i, j in _pairs(matrix):
        same = matrix[i] == matrix[j]
        even = _combination(maths, np.where(same, matrix[i], 0), values)
        odd = _combination(maths, np.where(same, 0, matrix[i]), values)
        result[i], result[j] = maths.do("add", even, odd), maths.do("sub", even, odd)
    return [r or _combination(maths, matrix[i], values) for i, r in enumerate(result)]


def _pairs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Numbers of neighbouring rows that are equal but for signs, both signs among them."""
    found = []
    for i in range(len(rows) - 1):
        a, b = rows[i], rows[i + 1]
        differ = (a != b).any() and (a[a != 0] == b[a != 0]).any()
        if differ and (np.abs(a) == np.abs(b)).all() and not any(i in pair for pair in found):
            found.append((i, i + 1))
    return found


def _by_columns(maths: Maths, matrix: np.ndarray, values: list[Expr], columns) -> list[Expr]:
    sums = {pair: maths.do("add", values[pair[0]], values[pair[1]]) for pair in columns}
    differences = {pair: maths.do("sub", values[pair[0]], values[pair[1]]) for pair in columns}
    single = [k for k in range(len(values)) if not any(k in pair for pair in columns)]
    result = []
    for row in matrix:
        terms = [(row[k], values[k]) for k in single]
        terms += [(row[i], (sums if row[i] == row[j] else differences)[i, j]) for i, j in columns]
        result.append(_sum(maths, terms))
    return result


def _combination(maths: Maths, row: np.ndarray, values: Sequence[Expr]) -> Expr:
    return _sum(maths, zip(row, values, strict=True))


def _sum(maths: Maths, terms) -> Expr:
    """The sum of factor * value, the factors of one first."""
    total: Expr | None = None
    for factor, value in sorted(((f, v) for f, v in terms if f), key=lambda t: t[0] != 1):
        factor = float(factor)
        if total is None:
            total = value if factor == 1 else maths.do("mul", value, _constant(factor, value.dtype))
        elif abs(factor) == 1:
            total = maths.do("add" if factor == 1 else "sub", total, value)
        else:
            total = maths.do("fma", value, _constant(factor, value.dtype), total)
    return total


def _constant(number: float, dtype: DType) -> Expr:
    return build.const(number, dtype)


# Meaning --------------------------------------------------------------------------------------------


def kinds(m: int) -> int:
    """How many rows of G differ: with stride 2, all positions from m + 1 on have the middle tap for weight."""
    return m + 2


def transform_weights(w: np.ndarray, m: int, stride: int, width: int) -> np.ndarray:
    """G w G^T of [n, C, 3, 3], computed in f64, as [panels, kinds^2, C, width] with zeros after the last n."""
    n, channels = w.shape[:2]
    maps = matrices(m, stride).weights[: kinds(m)]
    both = np.kron(maps, maps)
    result = np.zeros((-(-n // width), len(both), channels, width), w.dtype)
    for panel, start in zip(result, range(0, n, width), strict=True):
        some = w[start : start + width]
        lines = np.ascontiguousarray(some.reshape(len(some), -1).T).reshape(channels, TAPS * TAPS, len(some))
        for first in range(0, channels, AT_ONCE):
            taps = lines[first : first + AT_ONCE].transpose(1, 0, 2).astype(np.float64)
            products = both @ taps.reshape(TAPS * TAPS, -1)
            panel[:, first : first + AT_ONCE, : len(some)] = products.reshape(len(both), -1, len(some))
    return result


def convolve_dilated(x: np.ndarray, weights: np.ndarray, m: int, pads, dilations, n: int) -> np.ndarray:
    """convolve with stride 1: every d-th pixel makes a picture of its own."""
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    sizes = (d - (TAPS - 1) * step for d, step in zip(padded.shape[1:3], dilations, strict=True))
    result = np.zeros((len(x), *sizes, n), x.dtype)
    for phase in np.ndindex(*dilations):
        every = (slice(None), *(slice(p, None, d) for p, d in zip(phase, dilations, strict=True)))
        if result[every].size:
            result[every] = convolve(padded[every], weights, m, 1, ((0, 0), (0, 0)), n)
    return result


def convolve(x: np.ndarray, weights: np.ndarray, m: int, stride: int, pads, n: int) -> np.ndarray:
    """x [B, H, W, C] * transformed weights [panels, kinds^2, C, width] -> [B, H', W', n]."""
    maps, size, step = matrices(m, stride), tile_size(m, stride), m * stride
    height, width = ((d + sum(p) - TAPS) // stride + 1 for d, p in zip(x.shape[1:3], pads, strict=True))
    down, across = max(1, -(-height // m)), max(1, -(-width // m))
    needs = ((count - 1) * step + size for count in (down, across))
    fill = [
        (low, max(0, need - d - low)) for d, (low, _), need in zip(x.shape[1:3], pads, needs, strict=True)
    ]
    padded = np.pad(x.astype(np.float64), ((0, 0), *fill, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    windows = windows[:, : (down - 1) * step + 1 : step, : (across - 1) * step + 1 : step]
    data = np.einsum("ia,jb,ztuxab->ijztux", maps.data, maps.data, windows)
    panels = weights.astype(np.float64).transpose(1, 2, 0, 3).reshape(*(kinds(m),) * 2, x.shape[-1], -1)
    kind = np.minimum(np.arange(size), m + 1)
    panels = panels[kind[:, None], kind, ..., :n]
    sums = np.einsum("ijztux,ijxn->ijztun", data, panels)
    tiles = np.einsum("ia,jb,abztun->ztiujn", maps.output, maps.output, sums)
    return tiles.reshape(len(x), down * m, across * m, n)[:, :height, :width].astype(x.dtype)
