"""The kernel language: vectorised and expanded kernels mean what the scalar ones mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallow.dtype import f32, i64
from tallow.errors import VerifyError
from tallow.interpret import interpret
from tallow.kernel import build
from tallow.kernel.expand import expand
from tallow.kernel.grammar import Alloc, Buffer, Const, For, If, Kernel, Load, Prefetch, Store, Update, Var
from tallow.kernel.text import print_kernel
from tallow.kernel.unroll import unroll
from tallow.kernel.vectorise import vectorise
from tallow.scalar import apply
from tallow_cpu.llvm.functions import NATIVE

X, Y, P = Buffer("x", f32), Buffer("y", f32, writable=True), Buffer("p", i64)
G, AT, N = Var("g"), Var("i"), Var("n")


def kernel(body, kind="vector", parameters=(X, Y), before=(), after=()):
    loop = For(AT, N, tuple(body), kind)
    return Kernel("k", parameters, (N,), (For(G, Const(1), (*before, loop, *after), "grid"),))


def results(k: Kernel, x: np.ndarray, size: int, **more) -> np.ndarray:
    y = np.full(max(size, 1) * 2, -7, "f4")
    interpret(k, {"x": x, "y": y, **more}, {"n": size})
    return y


ELEMENT = Load(X, AT)
OWN = Buffer("own", f32, 1, "register", True)
BODIES = {
    "copy": [Store(Y, AT, ELEMENT)],
    "shifted": [Store(Y, AT, Load(X, build.add(AT, build.const(1))))],
    "strided": [Store(Y, build.mul(AT, build.const(2)), ELEMENT)],
    "reversed": [Store(Y, AT, Load(X, build.sub(build.sub(N, build.const(1)), AT)))],
    "masked": [
        If(
            build.call("gt", ELEMENT, build.const(0, f32)),
            (Store(Y, AT, ELEMENT),),
            (Store(Y, AT, build.const(1, f32)),),
        )
    ],
    "kept in a branch": [
        Alloc(OWN),
        Store(OWN, Const(0), build.const(5, f32)),
        If(build.call("gt", ELEMENT, build.const(0, f32)), (Store(OWN, Const(0), ELEMENT),)),
        Store(Y, AT, Load(OWN, Const(0))),
    ],
    "guarded": [Store(Y, AT, Load(X, AT, 1, build.less(AT, build.const(3))))],
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8, 31])
def test_vectorised_loops_mean_the_same(name, size, rng):
    x = rng.standard_normal(64).astype("f4")
    plain = kernel(BODIES[name])
    wide = unroll(vectorise(plain, 16))
    np.testing.assert_array_equal(results(wide, x, size), results(plain, x, size))


@pytest.mark.parametrize("op", ["add", "max", "min", "mul"])
@pytest.mark.parametrize("size", [0, 1, 7, 16, 67])
def test_reductions_fold_everything_once(op, size, rng):
    x = rng.uniform(0.5, 1.5, 80).astype("f4")
    total = Buffer("t", f32, 1, "register", True)
    start = {"add": 0.0, "mul": 1.0, "max": -np.inf, "min": np.inf}[op]
    before = (Alloc(total), Store(total, Const(0), build.const(start, f32)))
    plain = kernel(
        [Update(total, Const(0), op, ELEMENT)],
        before=before,
        after=(Store(Y, Const(0), Load(total, Const(0))),),
    )
    got = results(vectorise(plain, 16), x, size)[0]
    fold = {"add": np.sum, "mul": np.prod, "max": np.max, "min": np.min}[op]
    want = fold(x[:size].astype("f8"), initial=start)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_gathers(rng):
    x, p = rng.standard_normal(20).astype("f4"), rng.integers(0, 20, 13)
    plain = kernel([Store(Y, AT, Load(X, Load(P, AT)))], parameters=(X, P, Y))
    got = results(vectorise(plain, 32), x, 13, p=p)
    np.testing.assert_array_equal(got[:13], x[p])


ULPS = {
    "exp": 2,
    "tanh": 3,
    "sigmoid": 3,
    "erf": 3,
    "log": 1,
    "sin": 1,
    "cos": 1,
    "expm1": 1,
    "log1p": 1,
    "atan": 1,
    "sinh": 1,
}


@pytest.mark.parametrize("function", ULPS)
def test_expanded_functions_keep_their_stated_error(function):
    """Against numpy in f64; the bound is the table's, in units of the f32 result's last place."""
    line = np.concatenate(
        [np.linspace(-9, 9, 4001), [0.0, -0.0, 1e-30, 88.0, -104.0, np.inf, -np.inf, np.nan]]
    )
    x = line.astype("f4")
    plain = kernel([Store(Y, AT, build.call(function, ELEMENT))])
    got = results(vectorise(expand(plain, NATIVE), 4096), x, x.size)[: x.size]
    want = apply(function, x.astype("f8"))
    with np.errstate(all="ignore"):
        near = want.astype("f4")
        error = np.abs(got.astype("f8") - want) / np.spacing(np.abs(near)).astype("f8")
    wrong = ~((got == near) | (np.isnan(got) & np.isnan(near)) | (error <= ULPS[function]))
    assert not wrong.any(), (x[wrong][:5], got[wrong][:5], near[wrong][:5])


def test_out_of_bounds_is_a_fault():
    with pytest.raises(VerifyError, match=r"x\[3\] is outside its 3 elements"):
        results(kernel(BODIES["copy"], "serial"), np.zeros(3, "f4"), 4)


def test_unrolling_wants_constant_bounds():
    with pytest.raises(VerifyError, match="expected constant bounds"):
        unroll(kernel(BODIES["copy"], "unroll"))


def test_the_printed_form():
    assert print_kernel(kernel(BODIES["copy"])) == (
        "kernel k(x: f32, out y: f32, n: size)\n  grid g in 0..1\n    vector i in 0..n\n      y[i] = x[i]"
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 8, 9, 10, 12, 20, 31])
@pytest.mark.parametrize("name", [*BODIES, "sum"])
def test_rests_of_constant_loops_in_narrower_vectors(name, count, rng):
    body = [Update(Y, Const(1), "add", ELEMENT)] if name == "sum" else BODIES[name]
    plain = build.substitute((kernel(body).grid,), {N: build.const(count)})
    plain = Kernel("k", (X, Y), (N,), plain)
    x = rng.integers(-9, 9, 64).astype("f4")
    wide = unroll(vectorise(plain, 32))
    np.testing.assert_array_equal(results(wide, x, count), results(plain, x, count))
    if name == "copy" and count in (2, 4, 10, 12, 20):
        assert not [s for s in build.walk_stmts(wide.body) if isinstance(s, Store) and s.mask is not None]


def test_prefetches_are_hints(rng):
    hint = Prefetch(X, build.mul(AT, build.const(1 << 40)), True)
    plain = kernel([hint, *BODIES["copy"]], "serial")
    x = rng.standard_normal(64).astype("f4")
    np.testing.assert_array_equal(results(plain, x, 9), results(kernel(BODIES["copy"]), x, 9))
    assert "prefetch x[(i * 1099511627776)] for writing" in print_kernel(plain)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.sampled_from([8, 16, 32, 64]), st.sampled_from(sorted(BODIES)))
def test_any_width_and_size(size, width, name):
    x = np.random.default_rng(size).standard_normal(64).astype("f4")
    plain = kernel(BODIES[name])
    np.testing.assert_array_equal(results(unroll(vectorise(plain, width)), x, size), results(plain, x, size))


@pytest.mark.parametrize("op, fold", [("or", np.bitwise_or), ("and", np.bitwise_and)])
def test_bitwise_reductions_keep_all_bits(op, fold, rng):
    words, out = Buffer("w", i64), Buffer("o", i64, writable=True)
    values, plain = rng.integers(0, 2**60, 67), kernel([Update(out, Const(0), op, Load(words, AT))])
    plain = replace(plain, parameters=(words, out))
    got = np.array([0 if op == "or" else -1])
    interpret(vectorise(plain, 32), {"w": values, "o": got}, {"n": 67})
    assert got[0] == fold.reduce(values)
