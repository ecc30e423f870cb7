"""Convolutions and products of the CPU backend against their numpy meaning, on shapes that leave remainders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tallow
import tallow_cpu.passes.channels_last as channels_last
from tallow.builder import Builder
from tallow_cpu.passes.algorithms import DIRECT, choose_tile
from tallow_cpu.passes.channels_last import convert_windows
from tallow_cpu.winograd import TILES, matrices, tile_size

GUARD = 1 << 12  # elements beside a result that nothing may write
HOST = "cpu"
TARGET = tallow.plugins.backend("cpu").target()
ARCHES = ["cpu", "cpu:x86-64-v3", "cpu:x86-64"]


def run_guarded(graph, arrays, device=HOST, threads=1):
    """The only result of a graph, written into the middle of a larger array that must stay as it was."""
    exe = tallow.compile(graph, device, threads=threads)
    want = tallow.evaluate(graph, arrays)["y"]
    memory = np.full(want.size + 2 * GUARD, 7, want.dtype)
    out = memory[GUARD : GUARD + want.size].reshape(want.shape)
    exe.run(arrays, out={"y": out})
    assert (memory[:GUARD] == 7).all() and (memory[GUARD + want.size :] == 7).all()
    return out, want


def conv_graph(x, w, dims=None, constant=True, **attributes):
    """A convolution between transposes, so that its kernel writes the result itself; bias and relu after it.
    `dims`: the shape of x, where some sizes are known only at the run. Weights are an input w or `constant`."""
    b = Builder("g")
    rank = x.ndim
    first, last = (0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)
    given = b.input("x", str(tallow.dtype.dtype(x.dtype)), x.shape if dims is None else dims)
    weights = b.constant(w) if constant else b.input("w", str(tallow.dtype.dtype(w.dtype)), w.shape)
    y = b.conv(b.transpose(given, permutation=first), weights, **attributes)
    bias = b.constant(np.linspace(-1, 1, len(w)).astype(x.dtype).reshape(-1, *(1,) * (rank - 2)))
    return b.finish({"y": b.transpose(b.max(b.add(y, bias), b.scalar(0, x.dtype)), permutation=last)})


def close(got, want, tolerance):
    scale = max(np.abs(want).max(initial=0), 1e-3)
    assert np.abs(got.astype("f8") - want).max(initial=0) <= tolerance * scale


def rounding(depth: int) -> float:
    """What f32 sums of `depth` products in two orders may differ by, relative to the largest result."""
    return 2 * float(np.finfo(np.float32).eps) * max(depth, 16) ** 0.5


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, n = groups * draw(st.integers(1, 20)), groups * draw(st.integers(1, 40))
    kernel = [draw(st.integers(1, 4)) for _ in range(axes)]
    strides = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilations = [draw(st.integers(1, 2)) for _ in range(axes)]
    pads = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(axes)]
    sizes = [
        max(1, (k - 1) * d + 1 - sum(p)) + draw(st.integers(0, 9))
        for k, d, p in zip(kernel, dilations, pads, strict=True)
    ]
    shape = (draw(st.integers(0, 3)), *sizes, channels)
    spec = {"strides": strides, "dilations": dilations, "pads": pads}
    spec = {key: tuple(value) for key, value in spec.items()}
    return shape, (n, channels // groups, *kernel), {**spec, "groups": groups}


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.booleans(), st.integers(0, 1 << 30))
def test_any_convolution(case, constant, seed):
    shape, weights, attributes = case
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (shape, weights))
    graph = conv_graph(x, w, constant=constant, **attributes)
    inputs = {"x": x} if constant else {"x": x, "w": w}
    close(*run_guarded(graph, inputs), rounding(int(np.prod(weights[1:]))))


def test_weights_that_are_computed_are_packed_at_each_run():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 9, 9, 5), np.float32), rng.standard_normal((7, 5, 3, 3), np.float32)
    graph = conv_graph(
        x, w, constant=False, strides=(1, 1), dilations=(1, 1), pads=((1, 1), (1, 1)), groups=1
    )
    run = tallow.compile(graph)
    assert not [step.label for step in run.plan.steps if step.place == "host"]
    for scale in (1, -2):
        inputs = {"x": x, "w": w * np.float32(scale)}
        close(run.run(inputs)["y"], tallow.evaluate(graph, inputs)["y"], rounding(45))


@pytest.mark.parametrize("device", ARCHES)
@pytest.mark.parametrize("n", [3, 20, 34, 68, 112])
def test_pointwise_convolutions_of_groups(device, n):
    """Widths of panels, whole and with a narrower last vector; rows read where they lie, and too few of them."""
    rng = np.random.default_rng(n)
    for groups, each, spatial in ((1, 24, (9, 7)), (3, 34, (5, 11)), (4, 6, (1, 3)), (2, 512, (4, 4))):
        x = rng.standard_normal((2, *spatial, groups * each)).astype(np.float32)
        w = rng.standard_normal((groups * n, each, 1, 1)).astype(np.float32)
        graph = conv_graph(x, w, strides=(1, 1), dilations=(1, 1), pads=((0, 0), (0, 0)), groups=groups)
        results = [run_guarded(graph, {"x": x}, device, threads) for threads in (1, 2, 4)]
        close(*results[0], rounding(each))
        assert len({got.tobytes() for got, _ in results}) == 1


@pytest.mark.parametrize("device", ARCHES)
@pytest.mark.parametrize("dtype, tolerance", [("f4", 1e-5), ("f8", 1e-13), ("f2", 2e-3), ("i4", 0)])
def test_long_sums(device, dtype, tolerance):
    """Sums cut into pieces: of taps, and of a tap's channels; with a piece left over."""
    rng = np.random.default_rng(0)
    for shape, weights in [((1, 7, 6, 300), (40, 300, 3, 3)), ((2, 5, 4, 1300), (33, 1300, 2, 1))]:
        x, w = (rng.integers(-4, 5, s).astype(dtype) / (1 if dtype == "i4" else 8) for s in (shape, weights))
        x, w = x.astype(dtype), w.astype(dtype)
        graph = conv_graph(x, w, strides=(1, 1), dilations=(1, 2), pads=((1, 0), (2, 1)), groups=1)
        close(*run_guarded(graph, {"x": x}, device), tolerance)


@pytest.mark.parametrize("device", ARCHES)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "shape, n, pads",
    [
        ((1, 8, 8, 16), 16, ((1, 1), (1, 1))),
        ((2, 13, 9, 17), 33, ((0, 0), (0, 0))),
        ((3, 7, 5, 20), 40, ((2, 0), (1, 3))),
        ((1, 3, 3, 16), 16, ((0, 0), (0, 0))),
        ((1, 3, 17, 70), 65, ((0, 0), (1, 1))),
        ((0, 6, 6, 16), 16, ((1, 1), (1, 1))),
    ],
)
def test_winograd(device, tile, stride, shape, n, pads, monkeypatch):
    monkeypatch.setattr(channels_last, "choose_tile", lambda node, target: tile)
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    w = rng.standard_normal((n, shape[-1], 3, 3)).astype(np.float32)
    graph = conv_graph(x, w, strides=(stride, stride), dilations=(1, 1), pads=pads, groups=1)
    results = [run_guarded(graph, {"x": x}, device, threads) for threads in (1, 2, 4)]
    close(*results[0], 5e-6)
    assert len({got.tobytes() for got, _ in results}) == 1
    (converted,) = [n for n in convert_windows(graph, TARGET).nodes if n.op == "cpu.winograd"]
    assert (converted["tile"], converted["stride"]) == (tile, stride)
    close(tallow.evaluate(convert_windows(graph, TARGET), {"x": x})["y"], results[0][1], 1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(TILES),
    st.sampled_from(ARCHES),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.tuples(*(st.integers(0, 4) for _ in range(4))),
    st.tuples(st.integers(0, 2), st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 16, 33])),
    st.sampled_from([1, 16, 40]),
    st.booleans(),
)
def test_dilated_winograd(tile, device, dilations, pads, shape, n, known):
    """Tiles of every d-th pixel, of sizes known at compile time and only at the run."""
    pads = (pads[:2], pads[2:])
    batch, *sizes, channels = shape
    sizes = [max(size, 2 * d + 1 - sum(p)) for size, d, p in zip(sizes, dilations, pads, strict=True)]
    rng = np.random.default_rng(7)
    x = rng.standard_normal((batch, *sizes, channels)).astype(np.float32)
    w = rng.standard_normal((n, channels, 3, 3)).astype(np.float32)
    dims = x.shape if known else ("batch", "height", "width", channels)
    graph = conv_graph(x, w, dims, strides=(1, 1), dilations=dilations, pads=pads, groups=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channels_last, "choose_tile", lambda node, target: tile)
        got, want = run_guarded(graph, {"x": x}, device, 2)
        meant = tallow.evaluate(convert_windows(graph, TARGET), {"x": x})["y"]
    term = np.abs(x).max(initial=0) * np.abs(w).max()
    for result in (got, meant):
        assert np.abs(result.astype("f8") - want).max(initial=0) <= 2e-6 * max(9 * channels, 16) ** 0.5 * max(
            term, 1
        )


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("stride", [1, 2])
def test_winograd_of_sizes_known_at_the_run(tile, stride, monkeypatch):
    monkeypatch.setattr(channels_last, "choose_tile", lambda node, target: tile)
    rng = np.random.default_rng(2)
    w = rng.standard_normal((24, 16, 3, 3)).astype(np.float32)
    b = Builder("g")
    x = b.input("x", "f32", ["batch", 16, "height", "width"])
    spec = {"dilations": (1, 1), "pads": ((1, 1), (1, 1)), "groups": 1}
    y = b.conv(x, b.constant(w), strides=(stride, stride), **spec)
    graph = b.finish({"y": y})
    exe = tallow.compile(graph)
    for shape in [(1, 16, 5, 9), (3, 16, 8, 8), (2, 16, 1, 1)]:
        data = rng.standard_normal(shape).astype(np.float32)
        close(exe(data), tallow.evaluate(graph, {"x": data})["y"], 5e-6)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("stride", [1, 2])
def test_short_convolution(tile, stride):
    """y = A [(G g) * (B d)] is the convolution, to rounding."""
    rng = np.random.default_rng(3)
    size = tile_size(tile, stride)
    maps, d, g = matrices(tile, stride), rng.standard_normal(size), rng.standard_normal(3)
    want = [d[i : i + 3] @ g for i in range(0, tile * stride, stride)]
    np.testing.assert_allclose(maps.output @ ((maps.weights @ g) * (maps.data @ d)), want, atol=1e-13)


def test_winograd_passes_nan_and_infinity_on():
    """An output whose window holds a NaN is NaN, though its tile may spread it further."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 12, 12, 64)).astype(np.float32)
    x[0, 5, 5, 3] = np.nan
    w = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
    graph = conv_graph(x, w, strides=(1, 1), dilations=(1, 1), pads=((1, 1), (1, 1)), groups=1)
    got, want = run_guarded(graph, {"x": x})
    assert np.isnan(got[np.isnan(want)]).all()


@pytest.mark.parametrize("m", [1, 2, 13, 15, 49, 200])
@pytest.mark.parametrize("depth, n", [(1, 1), (3, 17), (64, 100), (1025, 48), (2048, 130)])
def test_products(m, depth, n):
    rng = np.random.default_rng(m * depth)
    x = rng.standard_normal((m, depth)).astype(np.float32)
    w = rng.standard_normal((depth, n)).astype(np.float32)
    b = Builder("g")
    graph = b.finish({"y": b.matmul(b.input("x", "f32", x.shape), b.constant(w))})
    got, _ = run_guarded(graph, {"x": x})
    close(got, x.astype("f8") @ w.astype("f8"), 2e-6)


@pytest.mark.parametrize("depth", (8, 1100))
def test_products_whose_inner_size_is_known_at_the_run(depth):
    rng = np.random.default_rng(depth)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((5, depth), (depth, 7)))
    b = Builder("g")
    graph = b.finish({"y": b.matmul(b.input("x", "f32", ("m", "k")), b.constant(w))})
    got, _ = run_guarded(graph, {"x": x})
    close(got, x.astype("f8") @ w.astype("f8"), 2e-6)


def test_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1, 30, 31, 64)).astype(np.float32)
    for kernel in ((3, 3), (5, 5)):
        w = rng.standard_normal((96, 64, *kernel)).astype(np.float32)
        graph = conv_graph(x, w, strides=(1, 1), dilations=(1, 1), pads=((1, 1), (1, 1)), groups=1)
        results = [tallow.compile(graph, threads=t).run({"x": x})["y"] for t in (1, 2, 4)]
        assert all((r.view(np.int32) == results[0].view(np.int32)).all() for r in results)


def test_choice_of_algorithm():
    """Winograd for wide 3x3 convolutions; direct sums for few channels, unequal strides, groups, other dtypes."""
    target = tallow.plugins.backend("cpu").target()

    def chosen(channels, n, size, dtype="f32", **change):
        b = Builder("g")
        x = b.input("x", dtype, (1, channels, size, size))
        spec = {"strides": (1, 1), "dilations": (1, 1), "pads": ((1, 1), (1, 1)), "groups": 1, **change}
        w = np.zeros((n, channels // spec["groups"], 3, 3), tallow.dtype.dtype(dtype).numpy)
        return choose_tile(b.finish({"y": b.conv(x, b.constant(w), **spec)}).nodes[-1], target)

    assert chosen(64, 64, 56) == 4
    assert chosen(256, 256, 14) in TILES
    assert chosen(3, 64, 224) == DIRECT
    assert chosen(128, 128, 56, strides=(2, 2)) in TILES
    assert chosen(512, 512, 14, strides=(2, 2)) == DIRECT
    assert chosen(64, 64, 56, strides=(2, 1)) == DIRECT
    assert chosen(64, 64, 56, dilations=(2, 1)) == 4
    assert chosen(64, 64, 56, dilations=(20, 20)) == DIRECT
    assert chosen(64, 64, 56, dilations=(2, 2), strides=(2, 2)) == DIRECT
    assert chosen(64, 64, 56, groups=2) == DIRECT
    assert chosen(64, 64, 56, "f64") == DIRECT


# Windows of channels ---------------------------------------------------------------------------------


@st.composite
def windows(draw):
    axes = draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(axes))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    pads = tuple((draw(st.integers(0, k // 2)), draw(st.integers(0, k // 2))) for k in kernel)
    sizes = tuple(
        max(1, (k - 1) * d + 1 - sum(p)) + draw(st.integers(0, 40 if axis == axes - 1 else 5))
        for axis, (k, d, p) in enumerate(zip(kernel, dilations, pads, strict=True))
    )
    shape = (draw(st.integers(0, 2)), *sizes, draw(st.sampled_from([0, 1, 3, 16, 40, 150])))
    return shape, {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def window_graph(shape, dims, taps, spec, function):
    b = Builder("g")
    rank = len(shape)
    first, last = (0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)
    x = b.transpose(b.input("x", "f32", dims), permutation=first)
    if taps is None:
        y = b.pool(x, function=function, **spec)
    else:
        spec = {key: spec[key] for key in ("strides", "dilations", "pads")}
        y = b.conv(x, b.constant(taps), groups=shape[-1], **spec)
    return b.finish({"y": b.transpose(y, permutation=last)})


@settings(max_examples=80, deadline=None)
@given(windows(), st.sampled_from(["max", "add", "depthwise"]), st.booleans(), st.integers(0, 1 << 30))
def test_any_window(case, function, known, seed):
    """Pools and depthwise convolutions, of sizes known at compile time and only at the run."""
    shape, spec = case
    assume(shape[-1] or function != "depthwise")  # a convolution has as many groups as channels
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    taps = None
    if function == "depthwise":
        taps = rng.standard_normal((shape[-1], 1, *spec["kernel"])).astype(np.float32)
    names = ["batch", *(f"size{axis}" for axis in range(len(shape) - 2))]
    dims = shape if known else (*names, shape[-1])
    depth = int(np.prod(spec["kernel"]))
    got, want = run_guarded(window_graph(shape, dims, taps, spec, function), {"x": x})
    term = np.abs(x).max(initial=0) * (1 if taps is None else np.abs(taps).max(initial=0))
    bound = rounding(depth) * term * depth**0.5  # sums may cancel, their rounding errors do not
    assert np.abs(got.astype("f8") - want).max(initial=0) <= bound


@pytest.mark.parametrize("device", ARCHES)
@pytest.mark.parametrize("function", ["max", "add"])
@pytest.mark.parametrize("dtype", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
def test_pools_of_integers(device, function, dtype):
    """All values of the dtype; sums wrap as numpy's do. Channels of whole vectors, of a part, and of one."""
    rng = np.random.default_rng(0)
    spec = {"kernel": (3, 2), "strides": (2, 1), "dilations": (1, 2), "pads": ((1, 0), (1, 2))}
    numbers = tallow.dtype.dtype(dtype).numpy
    limits = np.iinfo(numbers)
    for channels in (1, 64, 77):
        shape = (2, 7, 19, channels)
        x = rng.integers(limits.min, limits.max, shape, numbers, endpoint=True)
        for dims in (shape, ("batch", "height", "width", channels)):
            b = Builder("g")
            last = b.transpose(b.input("x", dtype, dims), permutation=(0, 3, 1, 2))
            y = b.transpose(b.pool(last, function=function, **spec), permutation=(0, 2, 3, 1))
            graph = b.finish({"y": y})
            got, want = run_guarded(graph, {"x": x}, device, 2)
            np.testing.assert_array_equal(got, want)
            assert "host" not in str(tallow.compile(graph, device).plan)


def test_max_pool_of_nan_and_infinity():
    x = np.full((1, 6, 6, 20), -np.inf, np.float32)
    x[0, 2, 2, 5] = np.nan
    spec = {"kernel": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": ((1, 1), (1, 1))}
    got, want = run_guarded(window_graph(x.shape, x.shape, None, spec, "max"), {"x": x})
    np.testing.assert_array_equal(got, want)
