"""Every scalar function of every dtype that kernels compute with means what numpy means."""

import ml_dtypes
import numpy as np
import pytest
from cpu_support import BACKEND, HOST, Native, element_wise

from tallow.dtype import DTYPES, bool_, f32, f64, i64
from tallow.errors import CompileError
from tallow.kernel.build import const
from tallow.kernel.expand import unable
from tallow.kernel.grammar import Call, Const
from tallow.kernel.math import APPROXIMATIONS
from tallow.scalar import SCALAR, apply

COMPUTED = (
    "f64",
    "f32",
    "f16",
    "bf16",
    "i64",
    "i32",
    "i16",
    "i8",
    "i4",
    "u64",
    "u32",
    "u16",
    "u8",
    "u4",
    "bool",
)
F64_ULPS = 24  # of functions that have an f64 form
BASES = ("x86-64", "x86-64-v2", "x86-64-v3")
SPECIAL = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    0.49999997,
    1e-40,
    8388609.0,
    -4194304.5,
    3e9,
    np.inf,
    -np.inf,
    np.nan,
)


def samples(dtype, seed: int, count: int = 331) -> np.ndarray:
    random = np.random.default_rng(seed)
    if dtype.kind == "bool":
        return random.random(count) < 0.5
    if dtype.is_float:
        values = random.standard_normal(count) * 10.0 ** random.integers(-3, 4, count)
        values[: len(SPECIAL)] = SPECIAL
        with np.errstate(over="ignore"):
            return random.permutation(values).astype(dtype.numpy)
    info = ml_dtypes.iinfo(dtype.numpy)
    values = random.integers(max(int(info.min), -40), min(int(info.max), 40), count, endpoint=True)
    values[:30] = random.choice(
        [0, 1, int(info.max) if info.max < 2**63 else 7, max(int(info.min), -(2**62))], 30
    )
    values[30:33] = [0, 1, 2]
    result = values.astype(dtype.numpy)
    result[33:40] = [dtype.numpy.type(int(info.min)), *[dtype.numpy.type(int(info.max))] * 6]
    return result


def kernel(row, dtype, kind="vector"):
    operands = [bool_, dtype, dtype] if row.name == "select" else [dtype] * row.arity
    result = row.result_dtype(dtype)
    return element_wise(f"{row.name}_{dtype}", lambda *x: Call(row.name, x, result), operands, result, kind)


def operands(row, dtype) -> list[np.ndarray]:
    found = [samples(dtype, seed) for seed in range(row.arity)]
    if row.name == "select":
        found[0] = samples(bool_, 9)
    if row.name.startswith("shift"):
        found[1] = np.abs(
            np.random.default_rng(3).integers(0, 8 if dtype.bits < 8 else dtype.bits + 9, len(found[0]))
        ).astype(dtype.numpy)
    if row.arity > 1 and row.name in ("eq", "le", "ge", "max", "min"):
        found[1][::3] = found[0][::3]
    return found


def same(got: np.ndarray, expected: np.ndarray, ulps: float = 0) -> None:
    assert got.dtype == expected.dtype
    if got.dtype.kind in "iub" or not ulps and got.dtype.name.startswith(("int", "uint")):
        np.testing.assert_array_equal(got, expected)
        return
    wide, want = got.astype(np.float64), expected.astype(np.float64)
    unit = np.maximum(np.abs(want), float(ml_dtypes.finfo(got.dtype).smallest_normal)) * float(
        ml_dtypes.finfo(got.dtype).eps
    )
    with np.errstate(invalid="ignore"):
        close = (wide == want) | (np.isnan(wide) & np.isnan(want)) | (np.abs(wide - want) <= ulps * unit)
    assert close.all(), list(zip(wide[~close][:5], want[~close][:5], strict=True))


def is_exact(name: str) -> bool:
    return name not in APPROXIMATIONS and name != "pow"


def reference(row, dtype, arrays) -> np.ndarray:
    """The numpy meaning; narrow types compute in f32 (8 bits for 4-bit integers) and are rounded once."""
    result = row.result_dtype(dtype)
    if dtype.bits < 8:
        wider = np.dtype(np.int8 if dtype.kind == "int" else np.uint8)
        arrays = [a if a.dtype == bool else a.astype(wider) for a in arrays]
        if row.result == "bool":
            return apply(row.name, *arrays)
        got = apply(row.name, *arrays).astype(wider).view(np.uint8) & 15
        return (
            got.view(wider).astype(dtype.numpy)
            if dtype.kind == "uint"
            else (got.astype(np.int8) << 4 >> 4).astype(dtype.numpy)
        )
    if dtype.is_float and dtype.bits < 32 and row.name != "select":
        arrays = [a.astype(np.float32) for a in arrays]
        got = apply(row.name, *arrays)
        with np.errstate(over="ignore"):
            return got if result == bool_ else got.astype(dtype.numpy)
    return apply(row.name, *arrays)


@pytest.mark.parametrize("name", COMPUTED)
def test_exact_functions(name):
    dtype = DTYPES[name]
    rows = [
        r
        for r in SCALAR.values()
        if dtype.kind in r.kinds and (is_exact(r.name) or not dtype.is_float) and r.name != "pow"
    ]
    native = Native([kernel(r, dtype) for r in rows])
    for row in rows:
        arrays = operands(row, dtype)
        ulps = 1 if row.name == "fma" and dtype.is_float and dtype != f32 else 0
        same(native.element_wise(f"{row.name}_{dtype}", *arrays), reference(row, dtype, arrays), ulps)


@pytest.mark.parametrize("arch", BASES)
@pytest.mark.parametrize("name", ["f32", "f64", "f16", "i32"])
def test_exact_functions_on_smaller_processors(arch, name):
    """Without rounding, half and fused instructions; fma is rounded twice there."""
    dtype = DTYPES[name]
    rows = [
        r
        for r in SCALAR.values()
        if dtype.kind in r.kinds and (is_exact(r.name) or not dtype.is_float) and r.name != "pow"
    ]
    native = Native([kernel(r, dtype) for r in rows], BACKEND.target(arch))
    for row in rows:
        arrays = operands(row, dtype)
        got, want = native.element_wise(f"{row.name}_{dtype}", *arrays), reference(row, dtype, arrays)
        if row.name == "fma" and dtype.is_float:
            with np.errstate(all="ignore"):
                twice = (arrays[0] * arrays[1]) + arrays[2]
            exact = np.asarray(got == want) | np.asarray(got == twice) | np.isnan(want)
            assert dtype.bits < 32 or exact.all()
            continue
        same(got, want)
        if dtype.is_float and row.name in ("floor", "ceil", "trunc", "round"):
            np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@pytest.mark.parametrize("name", ["f32", "f64", "f16"])
def test_approximated_functions(name):
    dtype = DTYPES[name]
    rows = [
        r
        for r in SCALAR.values()
        if not is_exact(r.name) and r.name in APPROXIMATIONS and unable(r.name, dtype) is None
    ]
    native = Native([kernel(r, dtype) for r in rows])
    for row in rows:
        arrays = operands(row, dtype)
        if row.name in ("fmod", "mod"):  # exact while the quotient has no more bits than an f64
            arrays[0] = np.clip(arrays[0], -60000, 60000)
            arrays[1] = np.where((np.abs(arrays[1]) < 1e-6) & (arrays[1] != 0), 3, arrays[1]).astype(
                dtype.numpy
            )
        wide = [
            a.astype(np.longdouble) if dtype == f64 and row.name != "erf" else a.astype(np.float64)
            for a in arrays
        ]
        with np.errstate(over="ignore"):
            want = apply(row.name, *wide).astype(dtype.numpy)
        ulps = 1 if dtype.bits < 32 else APPROXIMATIONS[row.name].ulp if dtype == f32 else F64_ULPS
        same(native.element_wise(f"{row.name}_{dtype}", *arrays), want, ulps)


@pytest.mark.parametrize("name", ["f32", "i32", "u64", "bool"])
def test_scalar_loops_agree_with_vector_loops(name):
    dtype = DTYPES[name]
    rows = [r for r in SCALAR.values() if dtype.kind in r.kinds and is_exact(r.name)]
    vectors, scalars = (Native([kernel(r, dtype, kind) for r in rows]) for kind in ("vector", "serial"))
    for row in rows:
        arrays = operands(row, dtype)
        label = f"{row.name}_{dtype}"
        assert (
            vectors.element_wise(label, *arrays).tobytes() == scalars.element_wise(label, *arrays).tobytes()
        )


def test_division_by_constants_and_by_zero_never_traps():
    least = np.array([np.iinfo(np.int64).min, -7, 7, 0, np.iinfo(np.int64).max], np.int64)
    divisors = (-1, 0, 1, 3, -3)
    kernels = [
        element_wise(f"{f}_{k}", lambda x, f=f, d=d: Call(f, (x, Const(d, i64)), i64), [i64], i64)
        for f in ("div", "mod", "fmod")
        for k, d in enumerate(divisors)
    ]
    native = Native(kernels)
    for function in ("div", "mod", "fmod"):
        for number, divisor in enumerate(divisors):
            want = apply(function, least, np.full(5, divisor, np.int64))
            np.testing.assert_array_equal(native.element_wise(f"{function}_{number}", least), want)


def test_constants_of_every_dtype():
    values = {
        "f16": 65520.0,
        "bf16": 3.0e38,
        "f8e4m3": 1.1,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f64": 0.1,
        "i4": -8,
        "bool": True,
    }
    kernels = [
        element_wise(n, lambda x, n=n, v=v: const(v, DTYPES[n]), [f32], DTYPES[n]) for n, v in values.items()
    ]
    native = Native(kernels)
    for name, value in values.items():
        with np.errstate(over="ignore"):
            want = np.full(5, np.asarray(value).astype(DTYPES[name].numpy))
        assert native.element_wise(name, np.zeros(5, np.float32)).tobytes() == want.tobytes()


def test_unknown_functions_are_refused():
    with pytest.raises(CompileError, match="pow"):
        BACKEND.compile([element_wise("k", lambda x: Call("pow", (x, x), i64), [i64], i64)], HOST)
