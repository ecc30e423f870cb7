"""Kernels in OpenCL's vector types: every function, conversion and access on a device against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from test_cstyle import DTYPES, KERNELS, X, compare, functions_of, values

from tallow.cstyle.dialects import CUDA, OPENCL
from tallow.cstyle.printer import print_kernel
from tallow.dtype import bool_, f16, f32, f64, i32, i64
from tallow.errors import CompileError
from tallow.kernel import build
from tallow.kernel.build import const
from tallow.kernel.grammar import Alloc, Buffer, Cast, For, If, Kernel, Let, Load, Store, Update, Var
from tallow.scalar import SCALAR

G, AT, N = Var("g"), Var("i"), Var("n")
COUNT = 61  # whole vectors and a masked tail
WIDTHS = (16, 64)


def looped(*body, parameters, before=(), after=()) -> Kernel:
    """One iteration of the grid, with a vector loop over n."""
    loop = For(AT, N, tuple(body), "vector")
    return Kernel("k", parameters, (N,), (For(G, const(1), (*before, loop, *after), "grid"),))


@pytest.mark.parametrize("name", ["softmax", "narrow"])
def test_golden_vector_sources(name, golden):
    golden(f"opencl_vectors_{name}", print_kernel(KERNELS[name], OPENCL, 32))


@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_casts_in_vectors(source, device, rng):
    targets = [d for d in DTYPES if d != source]
    x = Buffer("x", source)
    outs = [Buffer(f"y{d}", d, writable=True) for d in targets]
    kernel = looped(*(Store(o, AT, Cast(Load(x, AT), o.dtype)) for o in outs), parameters=(x, *outs))
    arrays = {"x": values(source, rng, COUNT)} | {o.name: np.zeros(COUNT, o.dtype.numpy) for o in outs}
    compare(device, kernel, arrays, COUNT, 1, vector_bytes=64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_in_vectors(dtype, device, rng):
    """Every scalar function of a dtype, each in a loop of its own, so that masks have its width."""
    a, b = Buffer("a", dtype), Buffer("b", dtype)
    outs, loops = [], []
    for name in functions_of(dtype):
        operands = [Load(a, AT), Load(b, AT), Load(a, AT)][: SCALAR[name].arity]
        if name == "select":
            operands = [build.call("lt", operands[0], operands[1]), *operands[1:]]
        value = build.call(name, *operands)
        outs.append(Buffer(f"y_{name}", value.dtype, writable=True))
        loops.append(For(AT, N, (Store(outs[-1], AT, value),), "vector"))
    kernel = Kernel("k", (a, b, *outs), (N,), (For(G, const(1), tuple(loops), "grid"),))
    x = values(dtype, rng, COUNT)
    arrays = {"a": x, "b": rng.permutation(x)} | {o.name: np.zeros(COUNT, o.dtype.numpy) for o in outs}
    compare(device, kernel, arrays, COUNT, 1, vector_bytes=32)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [f32, f64, f16, i32, bool_], ids=str)
def test_gathers_scatters_and_masks(dtype, width, device, rng):
    """Indexes that are data, steps other than one, and conditions that hide some lanes, all lanes or none."""
    x, p, c = Buffer("x", dtype), Buffer("p", i64), Buffer("c", bool_)
    y, z, w = (Buffer(name, dtype, writable=True) for name in "yzw")
    twice = build.mul(AT, const(2))
    kernel = looped(
        Store(y, Load(p, AT), Load(x, twice)),
        Store(z, AT, Load(x, Load(p, AT), 1, Load(c, AT))),
        If(Load(c, AT), (Store(w, AT, Load(x, AT)),), (Store(w, AT, Load(x, twice)),)),
        parameters=(x, p, c, y, z, w),
    )
    chosen = rng.integers(0, 2, COUNT).astype(bool)
    chosen[:16], chosen[16:32] = True, False
    arrays = {"x": values(dtype, rng, 2 * COUNT), "p": rng.permutation(COUNT), "c": chosen}
    arrays |= {name: np.zeros(COUNT, dtype.numpy) for name in "yzw"}
    compare(device, kernel, arrays, COUNT, 1, vector_bytes=width)


@pytest.mark.parametrize("width", WIDTHS)
def test_folds_of_vectors(width, device, rng):
    """Every update over a vector loop, of floats, integers and bools."""
    cases = [(f32, op) for op in ("add", "mul", "max", "min")]
    cases += [(i32, op) for op in ("add", "mul", "max", "min", "or", "and")]
    cases += [(bool_, op) for op in ("or", "and", "max", "min")]
    inputs = {d: Buffer(f"x{d}", d) for d in (f32, i32, bool_)}
    body, outs = [], []
    for dtype, op in cases:
        out = Buffer(f"y_{dtype}_{op}", dtype, writable=True)
        total = Buffer(f"total_{dtype}_{op}", dtype, 1, "register", True)
        first = Load(inputs[dtype], const(0))
        update = Update(total, const(0), op, Load(inputs[dtype], AT))
        body += [Alloc(total), Store(total, const(0), first), For(AT, N, (update,), "vector")]
        body.append(Store(out, const(0), Load(total, const(0))))
        outs.append(out)
    kernel = Kernel("k", (*inputs.values(), *outs), (N,), (For(G, const(1), tuple(body), "grid"),))
    arrays = {f"x{d}": values(d, rng, 300)[-150:] for d in inputs} | {
        o.name: np.zeros(1, o.dtype.numpy) for o in outs
    }
    arrays["xf32"] = rng.uniform(0.9, 1.1, 150).astype("f4")
    compare(device, kernel, arrays, 150, 1, equal=False, vector_bytes=width)


def test_register_tile_becomes_vector_variables(device, rng):
    """Sums in registers are variables, not memory; results are those of the loops."""
    total = Buffer("sums", f32, 64, "register", True)
    y, r = Buffer("y", f32, writable=True), Var("r")
    value = Var("v", f32)
    places = build.add(build.mul(r, const(16)), AT)
    body = (
        Alloc(total),
        For(AT, const(64), (Store(total, AT, const(0, f32)),), "vector"),
        For(
            Var("k"),
            N,
            (
                For(
                    r,
                    const(4),
                    (
                        Let(value, Load(X, build.add(Var("k"), r))),
                        For(
                            AT,
                            const(16),
                            (Update(total, places, "add", build.call("mul", value, Load(X, AT))),),
                            "vector",
                        ),
                    ),
                    "unroll",
                ),
            ),
        ),
        For(AT, const(64), (Store(y, AT, Load(total, AT)),), "vector"),
    )
    kernel = Kernel("k", (X, y), (N,), (For(G, const(1), body, "grid"),))
    text = print_kernel(kernel, OPENCL, 32)
    assert "float8 sums_v0, sums_v1" in text and "sums_[" not in text
    arrays = {"x": rng.standard_normal(32).astype("f4"), "y": np.zeros(64, "f4")}
    compare(device, kernel, arrays, 20, 1, equal=False, vector_bytes=32)


def test_dialects_without_vectors_say_so():
    with pytest.raises(CompileError, match="cuda has no vectors; print it without"):
        print_kernel(KERNELS["axpy"], CUDA, 32)


def test_vectors_of_odd_lengths_are_refused():
    kernel = looped(
        Store(Buffer("y", f32, writable=True), AT, const(1, f32)),
        parameters=(Buffer("y", f32, writable=True),),
    )
    with pytest.raises(CompileError, match="expected 2, 4, 8 or 16 lanes, got 5"):
        print_kernel(kernel, OPENCL, 20)
