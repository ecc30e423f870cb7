"""How far a result may be from the numpy meaning: by dtype, function and length of sums."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tallow.dtype import DType, dtype
from tallow.graph import Graph

# Units in the last place, for f32 and f64: the full profile of the OpenCL C specification (3.0, section 7.4),
# and two more for the numpy meaning itself. Narrower floats are computed in f32 and rounded once.
ULPS = {
    "div": 2.5, "reciprocal": 2.5, "sqrt": 3, "rsqrt": 4, "exp": 5, "exp2": 5, "expm1": 5, "log": 5, "log2": 5,
    "log1p": 4, "pow": 18, "sin": 6, "cos": 6, "tan": 7, "asin": 6, "acos": 6, "atan": 7, "sinh": 6, "cosh": 6,
    "tanh": 7, "asinh": 6, "acosh": 6, "atanh": 7, "erf": 18, "atan2": 8, "sigmoid": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Accuracy:
    """ulps: of the result, or of `floor` where the result is smaller. terms: what sums add up, each allowed
    one rounding of the largest sum of magnitudes."""

    ulps: float = 0.0
    terms: int = 0
    floor: float = 0.0


EXACT = Accuracy()


def of_scalar(function: str) -> Accuracy:
    return Accuracy(ULPS.get(function, 0.0))


def sum_of(terms: int, ulps: float = 1.0) -> Accuracy:
    """A sum of so many products, added in any order."""
    return Accuracy(ulps, terms + 2)


def epsilon(kind: DType) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(kind.numpy).eps)


def magnitudes(graph: Graph) -> Graph:
    """The graph with the magnitudes of its constants: of magnitudes it gives the sums of magnitudes."""
    nodes = [
        replace(n, attributes={"value": np.abs(n["value"])})
        if n.op == "constant" and n.output.dtype.is_float
        else n
        for n in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


def difference(
    got: np.ndarray, want: np.ndarray, accuracy: Accuracy, sums: np.ndarray | None = None
) -> str | None:
    """What is wrong with a result, or None. `sums` are the sums of magnitudes of its terms."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"expected {want.dtype}{list(want.shape)}, got {got.dtype}{list(got.shape)}"
    kind = dtype(want.dtype)
    if not kind.is_float:
        wrong = got != want
    else:
        a, b = got.astype(np.float64), want.astype(np.float64)
        with np.errstate(all="ignore"):
            allowed = _allowed(b, kind, accuracy, sums)
            near = np.abs(a - b) <= allowed
        wrong = ~(near | (a == b) | (np.isnan(a) & np.isnan(b)))
    if not np.any(wrong):
        return None
    place = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(wrong)))
    at = place if want.ndim else ()
    return f"{int(np.sum(wrong))} of {want.size} elements are wrong, the first at {list(at)}: expected {want[at]}, got {got[at]}"


def _allowed(want: np.ndarray, kind: DType, accuracy: Accuracy, sums: np.ndarray | None) -> np.ndarray:
    import ml_dtypes

    information = ml_dtypes.finfo(kind.numpy)
    narrow = kind.bits < 32
    ulps = min(accuracy.ulps, 1.0) if narrow and not accuracy.floor else accuracy.ulps
    least = float(information.smallest_normal) if accuracy.ulps else 0.0
    scale = np.maximum(np.abs(want), max(least, accuracy.floor))
    allowed = ulps * epsilon(kind) * np.where(np.isfinite(scale), scale, 0.0)
    if accuracy.terms:
        whole = np.abs(want) if sums is None else sums.astype(np.float64)
        unit = float(np.finfo(np.float32).eps) if narrow else epsilon(kind)
        allowed = allowed + accuracy.terms * unit * np.where(np.isfinite(whole), whole, 0.0)
    return allowed
