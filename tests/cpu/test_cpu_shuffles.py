"""Channel shuffles: moved down to the convolution that reads them, and read there without a copy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow.builder import Builder
from tallow_cpu.ops import CONV
from tallow_cpu.passes.channels_last import convert_windows
from tallow_cpu.passes.shuffles import emit_shuffle, shuffle_of, sink_shuffles
from tallow_cpu.shuffle import from_runs, shuffle, to_runs, unshuffle

TARGET = tallow.plugins.backend("cpu").target()
PLAIN = {"strides": (1, 1), "dilations": (1, 1), "pads": ((0, 0), (0, 0))}
ACROSS = {"strides": (2, 1), "dilations": (1, 1), "pads": ((1, 1), (1, 1))}


def unit(groups, count, each, n, kernel, rng, batch=2, keep=False, bias_last=True):
    """conv(f(shuffle(x))) as in ShuffleNet: f is a depthwise convolution between a bias and a maximum."""
    channels = groups * each
    b = Builder("g")
    x = b.input("x", "f32", (batch, channels, 9, 7))
    y = emit_shuffle(b, x, count)
    y = b.add(y, b.constant(rng.standard_normal((channels, 1, 1)).astype(np.float32)))
    taps = rng.standard_normal((channels, 1, 3, 3)).astype(np.float32)
    middle = b.conv(y, b.constant(taps), groups=channels, **ACROSS)
    y = b.max(middle, b.scalar(0.25, np.dtype("f4")))
    w = rng.standard_normal((groups * n, each, *kernel)).astype(np.float32)
    pads = tuple((k // 2, k // 2) for k in kernel)
    y = b.conv(y, b.constant(w), groups=groups, **{**PLAIN, "pads": pads})
    return b.finish({"y": y, "middle": middle} if keep else {"y": y})


def check(graph, shape, rng, threads=(1, 2, 4)):
    x = rng.standard_normal(shape).astype(np.float32)
    want = tallow.evaluate(graph, {"x": x})
    results = [tallow.compile(graph, threads=t).run({"x": x}) for t in threads]
    for name, value in want.items():
        scale = np.abs(value).max(initial=1e-3)
        assert np.abs(results[0][name] - value).max(initial=0) <= 2e-5 * scale
        assert len({r[name].tobytes() for r in results}) == 1


@pytest.mark.parametrize("groups, count, each", [(4, 4, 34), (4, 4, 68), (3, 2, 10), (2, 5, 5), (2, 8, 4)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_shuffled_channels_of_groups(groups, count, each, kernel):
    rng = np.random.default_rng(each)
    graph = unit(groups, count, each, 9, kernel, rng)
    check(graph, (2, groups * each, 9, 7), rng)
    sunk = convert_windows(sink_shuffles(graph, TARGET), TARGET)
    assert [n["shuffle"] for n in sunk.nodes if n.op == "cpu.conv"] == [count]
    x = rng.standard_normal((2, groups * each, 9, 7)).astype(np.float32)
    want, got = (tallow.evaluate(g, {"x": x})["y"] for g in (graph, sunk))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_no_step_is_left_for_the_shuffle():
    rng = np.random.default_rng(0)
    labels = [step.label for step in tallow.compile(unit(4, 4, 8, 8, (1, 1), rng)).compiled.program.steps]
    assert sum("depthwise" in label for label in labels) == sum("cpu.conv" in label for label in labels) == 1
    assert not any("reshape" in label for label in labels)


def test_batches_known_at_the_run():
    rng = np.random.default_rng(1)
    graph = unit(4, 4, 10, 20, (1, 1), rng, "batch")
    for batch in (0, 1, 3):
        check(graph, (batch, 40, 9, 7), rng, (2,))


def test_what_others_read_stays_in_its_order():
    rng = np.random.default_rng(2)
    graph = unit(4, 4, 6, 5, (1, 1), rng, keep=True)
    assert sink_shuffles(graph, TARGET) is graph
    check(graph, (2, 24, 9, 7), rng)


def test_a_shuffle_before_a_plain_convolution_stays_where_it_is():
    rng = np.random.default_rng(6)
    graph = unit(1, 4, 12, 5, (1, 1), rng)
    assert sink_shuffles(graph, TARGET) is graph
    check(graph, (2, 12, 9, 7), rng)


def test_nan_and_infinity_stay_in_their_group():
    """Runs are filled up with zeros, never with channels of another group."""
    rng = np.random.default_rng(3)
    groups, count, each, n = 4, 4, 34, 3
    b = Builder("g")
    x = b.input("x", "f32", (1, groups * each, 2, 3))
    w = rng.standard_normal((groups * n, each, 1, 1)).astype(np.float32)
    y = b.conv(emit_shuffle(b, x, count), b.constant(w), groups=groups, **PLAIN)
    graph = b.finish({"y": y})
    data = rng.standard_normal((1, groups * each, 2, 3)).astype(np.float32)
    data[0, 20, 1, 2], data[0, 100, 0, 0] = np.inf, np.nan
    want, got = tallow.evaluate(graph, {"x": data})["y"], tallow.compile(graph)(data)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    assert 0 < np.isfinite(want).sum() < want.size


def test_only_shuffles_are_taken_for_shuffles():
    b = Builder("g")
    x = b.input("x", "f32", (2, 12, 4, 5))
    assert shuffle_of(emit_shuffle(b, x, 3), made_by(b)) == (x, 3)
    others = [
        b.reshape(
            b.transpose(b.reshape(x, shape=(2, 3, 4, 4, 5)), permutation=(0, 2, 1, 4, 3)), shape=x.shape
        ),
        b.reshape(
            b.transpose(b.reshape(x, shape=(2, 12, 2, 2, 5)), permutation=(0, 2, 1, 3, 4)), shape=x.shape
        ),
        b.reshape(
            b.transpose(b.reshape(x, shape=(4, 3, 2, 4, 5)), permutation=(0, 2, 1, 3, 4)), shape=x.shape
        ),
    ]
    assert [shuffle_of(v, made_by(b)) for v in (x, *others)] == [None] * 4


def made_by(builder):
    return {v: n for n in builder.nodes for v in n.outputs}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.data())
def test_runs_hold_every_weight_once(groups, each, data):
    divisors = [d for d in range(1, groups * each + 1) if groups * each % d == 0]
    count = data.draw(st.sampled_from(divisors))
    rng = np.random.default_rng(each)
    w = rng.integers(1, 1000, (groups, 3, each, 2))
    runs = to_runs(w, count)
    np.testing.assert_array_equal(from_runs(runs, each, count), w)
    assert np.count_nonzero(runs) == w.size
    x = rng.standard_normal((2, groups * each))
    np.testing.assert_array_equal(unshuffle(shuffle(x, count, 1), count, 1), x)


def test_the_meaning_of_a_convolution_of_shuffled_channels():
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((1, 2, 3, 12)), rng.standard_normal((3, 2, 4, 1))
    packed = to_runs(w, 6)[:, None]
    attributes = {"kernel": (1, 1), "groups": 3, "n": 2, "shuffle": 6, **PLAIN}
    (got,) = CONV.evaluate([x, packed], attributes)
    mixed = shuffle(x, 6, -1).reshape(1, 2, 3, 3, 4)
    np.testing.assert_allclose(got.reshape(1, 2, 3, 3, 2), np.einsum("byxgc,gnc->byxgn", mixed, w[..., 0]))
