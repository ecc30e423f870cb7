"""Casts between all dtypes: floats round to nearest even, to integers they saturate, integers wrap."""

import ml_dtypes
import numpy as np
import pytest
from cpu_support import BACKEND, HOST, Native, casting, element_wise

import tallow
from tallow.builder import Builder
from tallow.dtype import DTYPES, f16, f32, f64, i32
from tallow.kernel.grammar import Bitcast
from tallow_cpu.backend import COMPUTED

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NaN in numpy's casts

NUMBERS = tuple(d for d in DTYPES.values() if d.kind in ("float", "int", "uint", "bool"))
FLOATS = tuple(d for d in NUMBERS if d.is_float)
NARROW = tuple(d for d in FLOATS if d.bits < 32)


def values(dtype) -> np.ndarray:
    """Numbers that every kind of conversion finds hard, as far as the dtype has them."""
    if dtype.kind == "bool":
        return np.array([True, False, True, True, False])
    if dtype.is_float:
        numbers = [
            0.0,
            -0.0,
            0.5,
            -0.5,
            1.0,
            -1.0,
            1.5,
            2.5,
            -3.75,
            100.0,
            -129.0,
            200.0,
            300.7,
            4e4,
            7e4,
            3e9,
            -3e9,
            1e19,
            -1e19,
        ]
        with np.errstate(over="ignore"):
            return np.array([*numbers, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e-7, -2e-9], np.float32).astype(
                dtype.numpy
            )
    info = ml_dtypes.iinfo(dtype.numpy)
    numbers = [
        0,
        1,
        2,
        3,
        -1,
        -2,
        -8,
        7,
        15,
        100,
        -100,
        127,
        128,
        255,
        1000,
        40000,
        70001,
        -70001,
        2**31,
        2**53 + 1,
        2**62 + 12345,
    ]
    fitting = [n for n in [*numbers, int(info.min), int(info.max)] if info.min <= n <= info.max]
    return np.array(fitting, dtype.numpy)


def expected(source: np.ndarray, target) -> np.ndarray:
    if target.kind == "bool":
        return source.astype(np.float64) != 0
    if target.is_float:
        if target.bits < 32 and source.dtype.name != "float64":
            source = source.astype(np.float32)
        with np.errstate(over="ignore"):
            return source.astype(target.numpy)
    info = ml_dtypes.iinfo(target.numpy)
    low, high = int(info.min), int(info.max)
    if source.dtype.kind in "iub" or source.dtype.name.startswith(("int", "uint")):
        span = high - low + 1
        return np.array([(int(v) - low) % span + low for v in source.tolist()], object).astype(target.numpy)
    numbers = [float(v) for v in source.astype(np.float64)]
    clipped = [0 if v != v else low if v <= low else high if v >= high else int(v) for v in numbers]
    return np.array(clipped, object).astype(target.numpy)


def unspecified(source: np.ndarray, target) -> np.ndarray:
    """f4e2m1 has no NaN."""
    wide = source.astype(np.float64) if source.dtype != bool else source
    return np.isnan(wide) if target.name == "f4e2m1" else np.zeros(source.shape, bool)


def check(got: np.ndarray, want: np.ndarray, free: np.ndarray) -> None:
    if got.dtype.kind in "iub" or got.dtype.name.startswith(("int", "uint")):
        np.testing.assert_array_equal(got, want)
        return
    a, b = got.astype(np.float64), want.astype(np.float64)
    right = free | ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
    assert right.all(), list(zip(a[~right][:5], b[~right][:5], strict=True))


@pytest.mark.parametrize("source", NUMBERS, ids=str)
def test_all_pairs(source):
    targets = [d for d in NUMBERS if d != source]
    native = Native([casting(source, t) for t in targets])
    array = values(source)
    for target in targets:
        got = native.element_wise(f"{source}_to_{target}", array)
        check(got, expected(array, target), unspecified(array, target))


@pytest.mark.parametrize("arch", [HOST.arch, "x86-64"])
def test_every_code_of_narrow_floats_is_read_exactly(arch):
    native = Native([casting(d, f32) for d in NARROW], BACKEND.target(arch))
    for dtype in NARROW:
        codes = np.arange(1 << dtype.bits, dtype=f"u{dtype.itemsize}").view(dtype.numpy)
        got = native.element_wise(f"{dtype}_to_f32", codes)
        check(got, codes.astype(np.float32), np.zeros(codes.shape, bool))


@pytest.mark.parametrize("arch", [HOST.arch, "x86-64"])
def test_narrow_floats_round_to_nearest_even(arch):
    native = Native([casting(f32, d) for d in NARROW], BACKEND.target(arch))
    random = np.random.default_rng(1)
    near = (random.standard_normal(20000) * 2.0 ** random.integers(-30, 20, 20000)).astype(np.float32)
    wild = random.integers(0, 1 << 32, 20000, dtype=np.uint32).view(np.float32)
    for dtype in NARROW:
        codes = np.arange(1 << dtype.bits, dtype=f"u{dtype.itemsize}").view(dtype.numpy).astype(np.float32)
        halfway = ((codes[1:].astype(np.float64) + codes[:-1]) / 2).astype(np.float32)
        array = np.concatenate([near, wild, codes, halfway])
        free = unspecified(array, dtype)
        if dtype.name == "f8e8m0":  # ml_dtypes rounds below its least number in another way
            free |= np.abs(array) < 2.0**-126
        with np.errstate(over="ignore"):
            check(native.element_wise(f"f32_to_{dtype}", array), array.astype(dtype.numpy), free)


def test_f64_to_f16_rounds_once():
    """A number just above the middle of two f16, so little that f32 does not show it."""
    native = Native([casting(f64, f16)])
    array = np.array(
        [
            1 + 2.0**-11 + 2.0**-40,
            1 + 2.0**-11 - 2.0**-40,
            1 + 2.0**-11,
            65519.999999999,
            2.0**-25 * (1 + 2.0**-50),
            1e300,
        ]
    )
    array = np.concatenate([array, -array])
    with np.errstate(over="ignore"):
        want = array.astype(np.float16)
    np.testing.assert_array_equal(native.element_wise("f64_to_f16", array), want)


def test_bitcasts_keep_bits():
    native = Native([element_wise("k", lambda x: Bitcast(x, i32), [f32], i32)])
    array = np.array([1.0, -0.0, np.nan, np.inf, 1e-40], np.float32)
    np.testing.assert_array_equal(native.element_wise("k", array), array.view(np.int32))


@pytest.mark.parametrize("dtype", [d for d in NUMBERS if d.name in COMPUTED], ids=str)
@pytest.mark.parametrize("columns", [17, 33, 65, 18])
def test_the_last_elements_of_a_row_are_written_and_nothing_beyond(dtype, columns):
    """Rows whose length is known and leaves one lane: their stores are masked by a constant."""
    b = Builder()
    x, w = b.input("x", "f32", (3, columns)), b.input("w", "f32", (3, 1))
    run = tallow.compile(b.finish({"y": b.cast(b.mul(x, w), dtype=dtype)}), threads=1)
    size = 3 * columns * dtype.itemsize
    raw = np.full(size + 64, 0xA5, np.uint8)
    out = raw[:size].view(dtype.numpy).reshape(3, columns)
    ones = np.ones((3, columns), np.float32)
    run(ones, ones[:, :1].copy(), out=out)
    assert (raw[size:] == 0xA5).all()
    np.testing.assert_array_equal(out.astype(np.float32), ones)
