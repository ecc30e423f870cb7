"""Axes, sizes, scales and the like as data of the run: what constants give, data give too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_support import agree, compiled, feed, one_node, oracle, results

import tallow
from tallow.errors import ImportFailed, InputError
from tallow_importers.onnx.importer import load_model_proto

INTS = np.int64


@st.composite
def cuts(draw):
    """A shape, and a slice of some of its axes."""
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    axes = draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))]
    axes = [a - draw(st.sampled_from([0, len(shape)])) for a in axes]
    ends = st.one_of(st.integers(-7, 7), st.sampled_from([2**40, -(2**40)]))
    rows = [(draw(ends), draw(ends), draw(st.sampled_from([1, 2, -1, -3]))) for _ in axes]
    # Backwards from before the first element: ONNX starts at the first, numpy takes nothing.
    rows = [
        (max(s, -shape[a]) if step < 0 else s, e, step) for a, (s, e, step) in zip(axes, rows, strict=True)
    ]
    return shape, axes, rows


@settings(max_examples=20, deadline=None)
@given(cuts())
def test_slices(tmp_path_factory, case):
    shape, axes, rows = case
    starts, ends, steps = (np.array(c, INTS) for c in zip(*rows, strict=True))
    x = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    inputs = {"x": x, "starts": starts, "ends": ends, "axes": np.array(axes, INTS), "steps": steps}
    place = [slice(None)] * x.ndim
    for axis, (start, end, step) in zip(axes, rows, strict=True):
        place[axis] = slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)
    folder = tmp_path_factory.mktemp("slice")
    for constants in ((), ("axes",), ("starts", "ends", "axes", "steps")):
        (got,) = results(one_node("Slice", inputs, constants=constants), inputs, folder)
        np.testing.assert_array_equal(got, x[tuple(place)])


TABLE = np.arange(6, dtype="f4")
FROM_SIZES = """<ir_version: 10, opset_import: ["" : 20]> g (float[n, 2] x, float[6] table)
=> (float[a] y, float[b] z) {{
  size = Shape<start = 0, end = 1>(x)
  zero = Constant<value_ints = [0]>()
  step = Constant<value_ints = [{step}]>()
  end = Constant<value_ints = [{end}]>()
  factor = Constant<value_ints = [{factor}]>()
  more = Constant<value_ints = [{more}]>()
  scaled = Mul(size, factor)
  start = Add(scaled, more)
  y = Slice(table, start, end, zero, step)
  rest = Mod(more, size)
  z = Slice(table, zero, rest, zero)
}}"""


@settings(max_examples=8, deadline=None)
@given(st.integers(-2, 2), st.integers(-7, 7), st.sampled_from([-3, 4, 2**40]), st.sampled_from([1, 2, -1]))
def test_slices_from_sizes(tmp_path_factory, factor, more, end, step):
    """A position that is negative for some sizes and not for others is reckoned when sizes are bound."""
    proto = onnx.parser.parse_model(FROM_SIZES.format(factor=factor, more=more, end=end, step=step))
    run = compiled(proto, tmp_path_factory.mktemp("sizes"))
    assert all(node.place != "host" for node in run.plan.steps)
    for n in range(7):
        y, z = run(np.zeros((n, 2), "f4"), TABLE)
        start = factor * n + more
        start = max(start, -6) if step < 0 else start  # as in `cuts`
        np.testing.assert_array_equal(y, TABLE[start:end:step])
        np.testing.assert_array_equal(z, TABLE[: more % n if n else 0])


UNCOUNTED = """<ir_version: 10, opset_import: ["" : 20]> g (float[a, b] x, int64[2] starts, int64[2] ends, int64[1] count)
=> (float[c, d] y) {{
  zero = Constant<value_ints = [0]>()
  some_starts = Slice(starts, zero, count)
  some_ends = Slice(ends, zero, count)
  y = Slice(x, some_starts, some_ends{rest})
}}"""


@pytest.mark.parametrize("count", [0, 1, 2])
def test_slices_of_a_number_of_axes_that_the_run_tells(count, rng, tmp_path):
    run = compiled(onnx.parser.parse_model(UNCOUNTED.format(rest="")), tmp_path)
    x = rng.normal(size=(4, 6)).astype("f4")
    (y,) = run.run(
        {"x": x, "starts": np.array([1, -5]), "ends": np.array([3, 4]), "count": np.array([count])}
    ).values()
    np.testing.assert_array_equal(y, x[tuple([slice(1, 3), slice(-5, 4)][:count])])


def test_axes_for_such_slices_are_refused(tmp_path):
    with pytest.raises(ImportFailed, match="Slice node .* starts whose length is not known .*, with axes"):
        compiled(onnx.parser.parse_model(UNCOUNTED.format(rest=", some_starts")), tmp_path)


def test_a_slice_without_a_step_is_refused(tmp_path):
    inputs = {
        "x": np.ones(3, "f4"),
        **{n: np.array([v]) for n, v in (("s", 0), ("e", 2), ("a", 0), ("t", 0))},
    }
    with pytest.raises(InputError, match=r"size .* = -1 .*Slice node \"it\""):
        results(one_node("Slice", inputs), inputs, tmp_path)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_axes_of_one_element_come_and_go(tmp_path_factory, data):
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    rank = len(shape) + data.draw(st.integers(1, 2))
    axes = data.draw(st.permutations(range(rank)))[: rank - len(shape)]
    axes = np.array([a - data.draw(st.sampled_from([0, rank])) for a in axes], INTS)
    x = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    folder = tmp_path_factory.mktemp("axes")
    (wide,) = results(one_node("Unsqueeze", {"x": x, "a": axes}), {"x": x, "a": axes}, folder)
    np.testing.assert_array_equal(wide, np.expand_dims(x, tuple(axes.tolist())))
    inputs = {"x": wide, "a": axes}
    (back,) = results(one_node("Squeeze", inputs), inputs, folder)
    np.testing.assert_array_equal(back, x)


def test_an_axis_of_more_elements_stays(tmp_path):
    inputs = {"x": np.ones((1, 2), "f4"), "a": np.array([1])}
    with pytest.raises(InputError, match=r"= -1 .*Squeeze node \"it\""):
        results(one_node("Squeeze", inputs), inputs, tmp_path)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["constant", "edge", "reflect"]))
def test_pads(tmp_path_factory, data, mode):
    shape = data.draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    axes = data.draw(st.permutations(range(len(shape))))[: data.draw(st.integers(1, len(shape)))]
    amounts = [data.draw(st.integers(-1, 1)) for _ in range(2 * len(axes))]
    x = np.arange(np.prod(shape), dtype="f4").reshape(shape) + 1
    inputs = {"x": x, "p": np.array(amounts, INTS), "v": np.array(9, "f4"), "a": np.array(axes, INTS)}
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (amounts[i], amounts[i + len(axes)])
    cut = x[tuple(slice(max(-lo, 0), x.shape[a] - max(-hi, 0)) for a, (lo, hi) in enumerate(widths))]
    if min(cut.shape) < 2 and mode == "reflect":
        return
    if not cut.size:
        return
    extra = {"constant_values": 9} if mode == "constant" else {}
    want = np.pad(cut, [(max(lo, 0), max(hi, 0)) for lo, hi in widths], mode=mode, **extra)
    folder = tmp_path_factory.mktemp("pad")
    for constants in ((), ("a",), ("p", "a")):
        (got,) = results(one_node("Pad", inputs, constants=constants, mode=mode), inputs, folder)
        np.testing.assert_array_equal(got, want)


TRANSFORMS = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("antialias", [0, 1])
def test_resizing(mode, transform, antialias, rng, tmp_path):
    """Known while importing, of the run, and of symbolic sizes. Sizes as onnxruntime, which rounds lengths
    of fractional scales down for some transforms; scales as ONNX's reference."""
    if antialias and (mode == "nearest" or transform in ("align_corners", "half_pixel_symmetric")):
        pytest.skip("antialiasing is for linear and cubic of plain coordinates")
    x = rng.standard_normal((1, 2, 7, 5)).astype("f4")
    a = {"mode": mode, "coordinate_transformation_mode": transform, "antialias": antialias}
    scales, sizes = np.array([1, 1, 0.6, 2.5], "f4"), np.array([1, 2, 11, 4])
    for given_, reference in (({"s": scales}, True), ({"s": None, "z": sizes}, False)):
        inputs = {"x": x, "r": None, **given_}
        (want,) = oracle(one_node("Resize", inputs, **a), inputs, reference)
        for constants, free in ((("s", "z"), ()), (("s", "z"), ("x",)), ((), ("x",))):
            proto = one_node("Resize", inputs, constants=constants, free=free, **a)
            got = tallow.evaluate(load_model_proto(proto), feed(proto, inputs))["y0"]
            np.testing.assert_allclose(got, want, 1e-4, 1e-5)
        (got,) = compiled(proto, tmp_path).run(feed(proto, inputs)).values()
        np.testing.assert_allclose(got, want, 1e-4, 1e-5)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_resizing_that_keeps_the_ratio(policy, rng, tmp_path):
    x = rng.standard_normal((1, 1, 6, 9)).astype("f4")
    inputs = {"x": x, "r": None, "s": None, "z": np.array([8, 8])}
    a = {"axes": [2, 3], "keep_aspect_ratio_policy": policy, "mode": "linear"}
    for constants in ((), ("z",)):
        agree(one_node("Resize", inputs, constants=constants, **a), inputs, tmp_path, reference=True)


@pytest.mark.parametrize("known", [False, True])
def test_resizing_of_a_region(known, rng, tmp_path):
    x = rng.standard_normal((1, 1, 6, 6)).astype("f4")
    inputs = {
        "x": x,
        "r": np.array([0, 0, 0.2, -0.3, 1, 1, 0.7, 1.2], "f4"),
        "s": None,
        "z": np.array([1, 1, 5, 4]),
    }
    a = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    agree(one_node("Resize", inputs, constants=("r", "z") * known, **a), inputs, tmp_path)


@pytest.mark.parametrize("axis", [-2, 0, 1, 2])
@pytest.mark.parametrize("inverse,onesided", [(0, 0), (0, 1), (1, 0)])
def test_fourier_transforms_along_an_axis_of_the_run(axis, inverse, onesided, rng, tmp_path):
    x = rng.standard_normal((3, 4, 5, 1 if onesided else 2)).astype("f4")
    inputs = {"x": x, "n": None, "a": np.array(axis)}
    known = one_node("DFT", inputs, constants=("a",), inverse=inverse, onesided=onesided)
    (want,) = results(known, inputs, tmp_path)
    signal = x[..., 0] if onesided else x[..., 0] + 1j * x[..., 1]
    at = axis if axis >= 0 else axis + 4
    spectrum = (np.fft.rfft if onesided else np.fft.ifft if inverse else np.fft.fft)(signal, axis=at)
    np.testing.assert_allclose(want[..., 0] + 1j * want[..., 1], spectrum, rtol=1e-4, atol=1e-4)
    (got,) = results(one_node("DFT", inputs, inverse=inverse, onesided=onesided), inputs, tmp_path)
    np.testing.assert_array_equal(got, want)


def test_filter_banks_of_the_run(tmp_path):
    names = ("bins", "length", "rate", "low", "high")
    for numbers in ((8, 16, 8192, 0.0, 4096.0), (20, 512, 16000, 20.0, 8000.0), (3, 9, 100, 5.0, 40.0)):
        inputs = {
            n: np.array(v, "f4" if i > 2 else "i8")
            for i, (n, v) in enumerate(zip(names, numbers, strict=True))
        }
        for constants in ((), names):
            got = results(one_node("MelWeightMatrix", inputs, constants=constants), inputs, tmp_path)[0]
            (want,) = oracle(one_node("MelWeightMatrix", inputs), inputs, reference=True)
            np.testing.assert_allclose(got, want, atol=1e-6)
