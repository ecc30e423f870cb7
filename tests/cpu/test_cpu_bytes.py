"""Integer products and convolutions of 8-bit codes: which become products of bytes, and that all are exact."""

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.dtype import i32
from tallow.evaluate import evaluate

TARGETS = ("cpu", "cpu:x86-64-v4", "cpu:x86-64-v3", "cpu:x86-64")
RANGES = {"signed": (-128, 128), "unsigned": (0, 256), "lopsided": (-3, 253), "wide": (-200, 200)}
ZEROS = (None, 3, -5, 300)


def codes(rng, dtype, shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def build(x, weights, zero, conv=None):
    """(x - zero) times the weights, in 32 bits."""
    b = Builder("bytes")
    given = b.input("x", "u8" if x.dtype == np.uint8 else "i8", list(x.shape))
    wide = b.cast(given, dtype=i32)
    wide = wide if zero is None else b.sub(wide, b.scalar(zero, i32))
    w = b.constant(weights)
    return b.finish({"y": b.matmul(wide, w) if conv is None else b.conv(wide, w, **conv)})


def check(x, weights, zero, conv=None, target="cpu", threads=1):
    """The roots of the program's steps, once its results are found exact."""
    graph = build(x, weights, zero, conv)
    executable = tallow.compile(graph, target, threads=threads)
    np.testing.assert_array_equal(executable(x), evaluate(graph, {"x": x})["y"])
    return {name for step in executable.plan.steps for name in step.label.split("+")}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (16, 64, 32), (33, 130, 50), (1, 513, 33)], ids=str)
def test_products(shape, target, rng):
    rows, depth, columns = shape
    for dtype in (np.uint8, np.int8):
        for kind, span in RANGES.items():
            x = codes(rng, dtype, (rows, depth))
            weights = rng.integers(*span, (depth, columns)).astype(np.int32)
            labels = check(x, weights, rng.choice(ZEROS), target=target)
            fits = (weights.max(0) - weights.min(0) <= 255).all()
            assert ("cpu.matmul_bytes" in labels) == fits, kind


def test_extremes_do_not_saturate():
    """Sums of two products of the largest codes exceed 16 bits."""
    x, weights = np.full((4, 64), 255, np.uint8), np.full((64, 16), 127, np.int32)
    weights[:, 1::2] = -128
    for target in TARGETS:
        assert "cpu.matmul_bytes" in check(x, weights, None, target=target)


CONVOLUTIONS = {  # channels, results, kernel, groups, stride, dilation, pad
    "three channels": (3, 8, (3, 3), 1, 1, 1, 1),
    "strided": (16, 24, (3, 3), 1, 2, 1, 1),
    "dilated": (16, 24, (3, 3), 1, 1, 2, 2),
    "grouped": (6, 9, (2, 3), 3, 1, 1, 1),
    "pixels": (5, 7, (1, 1), 1, 1, 1, 0),
    "deep": (300, 16, (3, 3), 2, 1, 1, 1),
    "depthwise": (33, 33, (3, 3), 33, 2, 1, 1),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, target, rng):
    """Around the picture lies the zero point, which is no number of the sums."""
    channels, results, kernel, groups, stride, dilation, pad = CONVOLUTIONS[name]
    spec = {
        "strides": (stride,) * 2,
        "dilations": (dilation,) * 2,
        "pads": ((pad, pad),) * 2,
        "groups": groups,
    }
    expected = {"pixels": "cpu.matmul_bytes", "depthwise": "cpu.depthwise_bytes"}.get(name, "cpu.conv_bytes")
    for dtype, kind, zero in ((np.uint8, "signed", 7), (np.int8, "signed", -5), (np.int8, "signed", None)):
        x = codes(rng, dtype, (2, channels, 11, 9))
        weights = rng.integers(*RANGES[kind], (results, channels // groups, *kernel)).astype(np.int32)
        assert expected in check(x, weights, zero, spec, target)


@pytest.mark.parametrize("zero", [-5, 300])
def test_zero_points_that_are_no_codes_stay_in_32_bits(zero, rng):
    x = codes(rng, np.uint8, (1, 8, 5, 5))
    weights = rng.integers(-128, 128, (4, 8, 3, 3)).astype(np.int32)
    spec = {"strides": (1, 1), "dilations": (1, 1), "pads": ((1, 1),) * 2, "groups": 1}
    assert "cpu.conv_bytes" not in check(x, weights, zero, spec)


def test_unsigned_weights_of_a_convolution(rng):
    x = codes(rng, np.uint8, (2, 8, 7, 6))
    weights = rng.integers(0, 256, (5, 8, 3, 3)).astype(np.int32)
    spec = {"strides": (1, 2), "dilations": (1, 1), "pads": ((1, 0), (0, 1)), "groups": 1}
    assert "cpu.conv_bytes" in check(x, weights, 9, spec)


def test_symbolic_rows_and_threads(rng):
    b = Builder("rows")
    x = b.input("x", "u8", ["rows", 70])
    weights = b.constant(rng.integers(-128, 128, (70, 40)).astype(np.int32))
    graph = b.finish({"y": b.matmul(b.sub(b.cast(x, dtype=i32), b.scalar(3, i32)), weights)})
    executables = [tallow.compile(graph, threads=threads) for threads in (1, 2, 4)]
    for rows in (0, 1, 7, 300):
        given = codes(rng, np.uint8, (rows, 70))
        want = evaluate(graph, {"x": given})["y"]
        for executable in executables:
            np.testing.assert_array_equal(executable(given), want)
