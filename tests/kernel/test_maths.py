"""Vector mathematics: every function over the whole range of its dtype, against numpy in more precision."""

from __future__ import annotations

import numpy as np
import pytest

from tallow.dtype import DType, f16, f32, f64
from tallow.errors import CompileError
from tallow.interpret import interpret
from tallow.kernel.build import call
from tallow.kernel.expand import expand, unable
from tallow.kernel.grammar import Buffer, Const, For, Kernel, Load, Store, Var
from tallow.kernel.math import APPROXIMATIONS
from tallow.scalar import SCALAR, apply

BASIC = frozenset(SCALAR) - frozenset(APPROXIMATIONS)
F64_ULPS = {"exp": 2, "log": 2, "log2": 3, "tanh": 4, "sigmoid": 4, "cosh": 4}
SPECIAL = (0.0, np.inf, np.nan, 1.0, 0.5, 2.0, 3.0, 1e-45, 1e-38, 3.4e38, 1e-8, 88.72, 88.73, 103.9, 104.1)
SPECIAL += (126.0, 128.0, 149.0, 150.0, 1e30, 16777216.0, 0.99999994, 1.0000001)


def computed(function: str, dtype: DType, *operands: np.ndarray) -> np.ndarray:
    """The expanded function of whole arrays: one statement on vectors as long as they are."""
    size = operands[0].size
    inputs = tuple(Buffer(f"x{k}", dtype) for k in range(len(operands)))
    out = Buffer("y", dtype, writable=True)
    value = call(function, *(Load(b, Const(0), size) for b in inputs))
    grid = For(Var("g"), Const(1), (Store(out, Const(0), value),), "grid")
    y = np.empty(size, dtype.numpy)
    kernel = expand(Kernel("k", (*inputs, out), (), (grid,)), BASIC)
    interpret(kernel, {"y": y} | {b.name: x for b, x in zip(inputs, operands, strict=True)}, {})
    return y


def samples(rng, count: int = 20000) -> np.ndarray:
    return np.concatenate(
        [
            np.array([*SPECIAL, *(-s for s in SPECIAL)], "f4"),
            rng.integers(0, 2**32, count, dtype="u4").view("f4"),
            *(rng.uniform(-edge, edge, count).astype("f4") for edge in (1, 10, 110)),
            (10 ** rng.uniform(-8, 2, count)).astype("f4"),
        ]
    )


def operands_of(function: str, rng) -> list[np.ndarray]:
    """Samples; of a function of two, with each pair of special values first."""
    x = samples(rng)
    if SCALAR[function].arity == 1:
        return [x]
    special = x[: 2 * len(SPECIAL)]
    left, right = (side.ravel() for side in np.meshgrid(special, special))
    return [np.concatenate([left, x]), np.concatenate([right, rng.permutation(x)])]


def assert_near(got: np.ndarray, want: np.ndarray, ulp: float, operands) -> None:
    """Equal with signs of zero, both NaN, or within `ulp` last places of the rounded true value."""
    with np.errstate(all="ignore"):
        near = want.astype(got.dtype)
        last = np.spacing(np.minimum(np.abs(near), np.finfo(got.dtype).max)).astype(want.dtype)
        error = np.abs(got.astype(want.dtype) - want) / last
    equal = (got == near) & (np.signbit(got) == np.signbit(near))
    close = (error <= ulp) & (np.signbit(got) == np.signbit(near))
    wrong = ~(equal | close | (np.isnan(got) & np.isnan(near)))
    assert not wrong.any(), [(*(x[i] for x in operands), got[i], near[i]) for i in np.flatnonzero(wrong)[:5]]


@pytest.mark.parametrize("function", APPROXIMATIONS)
def test_f32(function, rng):
    operands = operands_of(function, rng)
    exact = function in ("mod", "fmod")  # of f32: numpy's own is exact, and rounds a sum as f32 does
    with np.errstate(invalid="ignore"):
        want = apply(function, *(x if exact else x.astype("f8") for x in operands)).astype("f8")
    assert_near(computed(function, f32, *operands), want, APPROXIMATIONS[function].ulp, operands)


@pytest.mark.parametrize("function", F64_ULPS)
def test_f64(function, rng):
    x = np.concatenate(
        [samples(rng).astype("f8"), rng.uniform(-740, 720, 20000), 1 + rng.normal(0, 1e-3, 9999)]
    )
    want = apply(function, x.astype(np.longdouble))
    assert_near(computed(function, f64, x), want, F64_ULPS[function], [x])


def test_every_f64_function_is_tested_or_refused():
    offered = {name for name in APPROXIMATIONS if unable(name, f64) is None}
    assert offered == {*F64_ULPS, "rsqrt", "reciprocal"}


def test_a_refused_function_says_so():
    with pytest.raises(CompileError, match="no sin of f64 in kernels"):
        computed("sin", f64, np.zeros(3))


@pytest.mark.parametrize("function", ["exp", "tanh", "add", "mul"])
def test_narrow_floats_compute_in_f32(function, rng):
    operands = [rng.standard_normal(500).astype(np.float16) for _ in range(SCALAR[function].arity)]
    want = apply(function, *(x.astype("f8") for x in operands))
    assert_near(computed(function, f16, *operands), want, 0.51, operands)
