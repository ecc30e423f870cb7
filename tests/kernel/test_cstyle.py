"""The C printer: OpenCL text run on a device against the interpreter, and golden sources of both dialects."""

from __future__ import annotations

import numpy as np
import pytest

from tallow.cstyle.dialects import CUDA, OPENCL
from tallow.cstyle.printer import group_size, print_kernel
from tallow.dtype import DType, bf16, bool_, c64, f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64
from tallow.errors import CompileError
from tallow.interpret import interpret
from tallow.kernel import build
from tallow.kernel.build import const
from tallow.kernel.expand import expand, unable
from tallow.kernel.grammar import (
    Alloc,
    Barrier,
    Bitcast,
    Buffer,
    Cast,
    Const,
    For,
    If,
    Kernel,
    Let,
    Load,
    Store,
    Update,
    Var,
)
from tallow.kernel.math import APPROXIMATIONS
from tallow.kernel.vectorise import vectorise
from tallow.kernel.verify import verify
from tallow.scalar import SCALAR

DTYPES = (f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, bool_)
DIALECTS = {"opencl": OPENCL, "cuda": CUDA}
X, Y = Buffer("x", f32), Buffer("y", f32, writable=True)
G, AT, K, N = Var("g"), Var("i"), Var("k"), Var("n")
HERE = Load(X, G)


def grid(*body, parameters=(X, Y), stop=N) -> Kernel:
    return Kernel("k", parameters, (N,), (For(G, stop, tuple(body), "grid"),))


def softmax() -> Kernel:
    """Row g of n columns, with the maximum and the sum in registers."""
    top, total = Buffer("top", f32, 1, "register", True), Buffer("total", f32, 1, "register", True)
    at = build.add(build.mul(G, N), AT)
    zero, row = Const(0), Load(X, at)
    e = build.call("exp", build.call("sub", row, Load(top, zero)))
    return grid(
        Alloc(top),
        Alloc(total),
        Store(top, zero, const(-np.inf, f32)),
        Store(total, zero, const(0, f32)),
        For(AT, N, (Update(top, zero, "max", row),), "vector"),
        For(AT, N, (Update(total, zero, "add", e),), "vector"),
        For(AT, N, (Store(Y, at, build.call("div", e, Load(total, zero))),), "vector"),
    )


def reversed_by_group() -> Kernel:
    """Eight elements of each group, turned round through shared memory."""
    part, other = Buffer("part", f32, 8, "shared", True), build.sub(const(7), AT)
    base = build.mul(G, const(8))
    return grid(
        Alloc(part),
        For(AT, const(8), (Store(part, AT, Load(X, build.add(base, AT))),), "group"),
        Barrier(),
        For(AT, const(8), (Store(Y, build.add(base, AT), Load(part, other)),), "group"),
    )


def unrolled_branches() -> Kernel:
    size, j = Var("size", f32), Var("j")
    return grid(
        Let(size, build.call("abs", HERE)),
        Store(Y, G, const(0, f32)),
        For(
            j,
            const(3),
            (Let(Var("t", f32), build.cast(j, f32)), Update(Y, G, "add", Var("t", f32))),
            "unroll",
        ),
        If(
            build.call("gt", HERE, const(0, f32)),
            (Update(Y, G, "mul", size),),
            (Store(Y, G, Load(X, build.add(G, const(1)), 1, build.less(build.add(G, const(1)), N))),),
        ),
    )


KERNELS = {
    "axpy": grid(Store(Y, G, build.call("fma", HERE, const(2.5, f32), Load(Y, G)))),
    "softmax": softmax(),
    "groups": reversed_by_group(),
    "branches": unrolled_branches(),
    "narrow": grid(
        Store(
            Buffer("h", f16, writable=True),
            G,
            build.call("add", *[Load(Buffer("h", f16, writable=True), G)] * 2),
        ),
        Store(Buffer("b", bf16, writable=True), G, Cast(HERE, bf16)),
        parameters=(X, Buffer("h", f16, writable=True), Buffer("b", bf16, writable=True)),
    ),
    "bits": grid(Store(Y, G, Bitcast(build.call("bit_xor", Bitcast(HERE, i32), const(-(2**31), i32)), f32))),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", KERNELS)
def test_golden_sources(name, dialect, golden):
    verify(KERNELS[name])
    golden(f"{dialect}_{name}", print_kernel(KERNELS[name], DIALECTS[dialect]))


def compare(
    device, kernel: Kernel, arrays: dict[str, np.ndarray], size: int, count: int, equal=True, vector_bytes=0
) -> None:
    """The device writes what the interpreter writes: the same bits, or for sums nearly so."""
    verify(kernel)
    want = {name: a.copy() for name, a in arrays.items()}
    interpret(expand(kernel, frozenset(SCALAR) - frozenset(APPROXIMATIONS)), want, {"n": size}, stop=count)
    device.run(kernel, arrays, (size,), count, vector_bytes)
    for b in kernel.parameters:
        wide = "f8" if b.dtype.is_float else b.dtype.numpy
        got, expected = arrays[b.name].astype(wide), want[b.name].astype(wide)
        if equal:
            np.testing.assert_array_equal(got, expected, b.name)
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=b.name)


def values(dtype: DType, rng, count: int = 64) -> np.ndarray:
    """Numbers of a dtype over its range, with the edges and special values first."""
    if dtype == bool_:
        return rng.integers(0, 2, count).astype(bool)
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        edges = [info.min, info.max, 0, 1, 2, max(info.min, -1)]
        return np.array([*edges, *rng.integers(info.min, info.max, count - 6, dtype.numpy)], dtype.numpy)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -2.5, 3e9, -3e9, 1e20, -1e20, 65519.0, 65520.0, 1e-7]
    with np.errstate(over="ignore"):
        return np.concatenate([special, rng.normal(0, 100, count - len(special))]).astype(dtype.numpy)


@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_casts_on_a_device(source, device, rng):
    targets = [d for d in DTYPES if d != source]
    x = Buffer("x", source)
    outs = [Buffer(f"y{d}", d, writable=True) for d in targets]
    kernel = grid(*(Store(o, G, Cast(Load(x, G), o.dtype)) for o in outs), parameters=(x, *outs))
    arrays = {"x": values(source, rng)} | {o.name: np.zeros(64, o.dtype.numpy) for o in outs}
    compare(device, kernel, arrays, 64, 64)


def functions_of(dtype: DType) -> list[str]:
    return [n for n, row in SCALAR.items() if dtype.kind in row.kinds and unable(n, dtype) is None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_on_a_device(dtype, device, rng):
    """Every scalar function of a dtype, each into a row of one result."""
    a, b = Buffer("a", dtype), Buffer("b", dtype)
    names = functions_of(dtype)
    outs, stores = [], []
    for name in names:
        operands = [Load(a, G), Load(b, G), Load(a, G)][: SCALAR[name].arity]
        if name == "select":
            operands = [build.call("lt", operands[0], operands[1]), *operands[1:]]
        value = build.call(name, *operands)
        outs.append(Buffer(f"y_{name}", value.dtype, writable=True))
        stores.append(Store(outs[-1], G, value))
    kernel = grid(*stores, parameters=(a, b, *outs))
    x = values(dtype, rng)
    arrays = {"a": x, "b": rng.permutation(x)} | {o.name: np.zeros(64, o.dtype.numpy) for o in outs}
    compare(device, kernel, arrays, 64, 64)


def test_whole_kernels_on_a_device(device, rng):
    x = rng.standard_normal(64).astype("f4")
    for name, count in {"axpy": 64, "softmax": 8, "groups": 8, "branches": 64, "bits": 64}.items():
        size = 8 if name in ("softmax", "groups") else 64
        compare(device, KERNELS[name], {"x": x.copy(), "y": np.ones(64, "f4")}, size, count, equal=False)


def test_threads_past_the_grid_do_nothing(device):
    arrays = {"x": np.ones(8, "f4"), "y": np.zeros(8, "f4")}
    device.run(KERNELS["axpy"], arrays, (5,), 8)
    assert arrays["y"].tolist() == [2.5] * 5 + [0] * 3


def test_gather_on_a_device(device, rng):
    p = Buffer("p", i64)
    kernel = grid(Store(Y, G, Load(X, Load(p, G))), parameters=(X, p, Y))
    arrays = {
        "x": rng.standard_normal(20).astype("f4"),
        "p": rng.integers(0, 20, 64),
        "y": np.zeros(64, "f4"),
    }
    compare(device, kernel, arrays, 64, 64)


def test_vectors_are_refused():
    loop = For(AT, N, (Store(Y, AT, Load(X, AT)),), "vector")
    with pytest.raises(CompileError, match="expected scalars, got 8 lanes"):
        print_kernel(vectorise(grid(loop), 32), OPENCL)


def test_a_dtype_that_the_dialect_lacks_is_named():
    with pytest.raises(CompileError, match="no c64 in opencl"):
        print_kernel(grid(parameters=(Buffer("z", c64),)), OPENCL)


def test_bits_of_narrow_floats_are_refused():
    h = Buffer("h", f16)
    body = Store(Buffer("y", i16, writable=True), G, Bitcast(Load(h, G), i16))
    with pytest.raises(CompileError, match="no bits of f16 as i16"):
        print_kernel(grid(body, parameters=(h, Buffer("y", i16, writable=True))), OPENCL)


def test_group_loops_share_one_constant_range():
    two = [For(AT, const(8), (), "group"), For(K, const(4), (), "group")]
    with pytest.raises(CompileError, match="expected group loops over one constant range from 0"):
        group_size(grid(*two))
