"""Large products of operands in memory: both are copied block by block; right for any shape and dtype."""

import numpy as np
import pytest
from cpu_support import BACKEND, HOST
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow.builder import Builder
from tallow.graph import Graph
from tallow_cpu.lowerings import gathered
from tallow_cpu.lowerings.gathered import is_large


def product(left, right, dtype: str = "f32", bias: bool = False) -> Graph:
    b = Builder("product")
    y = b.matmul(b.input("x", dtype, left), b.input("w", dtype, right))
    return b.finish({"y": b.relu(b.add(y, b.input("c", dtype, (right[-1],)))) if bias else y})


def numbers(shape, dtype: str = "f32", seed: int = 0) -> np.ndarray:
    like = product((1, 1), (1, 1), dtype).inputs[0].dtype.numpy
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(like)


@pytest.fixture
def always(monkeypatch):
    """Every product of known depth and columns counts as large."""
    monkeypatch.setattr(
        "tallow_cpu.lowerings.contraction.is_large",
        lambda node, target: all(isinstance(d, int) and d for d in node.inputs[1].shape[-2:]),
    )


def check(run: tallow.Executable, *arrays: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    x, w, *c = (a.astype(np.float64) for a in arrays)
    want = x @ w if not c else np.maximum(x @ w + c[0], 0)
    got = run(*arrays)
    assert set(run.compiled.code.entries) == {"product_0"}
    scale = np.sqrt(x.shape[-1]) * max(1.0, np.abs(want).max(initial=0))
    assert np.abs(got.astype(np.float64) - want).max(initial=0) <= tolerance * scale
    return got


@pytest.mark.parametrize(
    "left, right",
    [
        ((384, 384), (384, 384)),
        ((49, 700), (700, 333)),
        ((1000, 513), (513, 300)),
        ((3, 60, 1000), (3, 1000, 300)),
        ((2, 1, 60, 1000), (3, 1000, 300)),
        ((60, 1000), (2, 1000, 300)),
    ],
)
def test_shapes(left, right):
    assert is_large(product(left, right).nodes[0], HOST)
    arrays = numbers(left), numbers(right, seed=1)
    one, two = (check(tallow.compile(product(left, right), threads=t), *arrays) for t in (1, 2))
    np.testing.assert_array_equal(one, two)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 130), st.integers(1, 60), st.integers(1, 90), st.booleans())
def test_any_shape(rows, depth, columns, bias):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tallow_cpu.lowerings.contraction.is_large", lambda node, target: rows > 1)
        graph = product((rows, depth), (depth, columns), bias=bias)
        arrays = [numbers((rows, depth)), numbers((depth, columns)), numbers((columns,))][: 2 + bias]
        run = tallow.compile(graph)
        if rows > 1:
            check(run, *arrays)


@pytest.mark.parametrize("dtype, tolerance", [("f64", 1e-15), ("f16", 1e-3), ("bf16", 8e-3), ("i32", 0)])
def test_dtypes(always, dtype, tolerance):
    arrays = [numbers((70, 500), dtype) for _ in range(1)] + [numbers((500, 90), dtype, 1)]
    check(tallow.compile(product((70, 500), (500, 90), dtype)), *arrays, tolerance=tolerance)


@pytest.mark.parametrize("arch", ["x86-64", "x86-64-v3"])
def test_other_instruction_sets(always, arch):
    if BACKEND.target(arch).vector_bytes > HOST.vector_bytes:
        pytest.skip("this processor lacks the instructions")
    run = tallow.compile(product((70, 900), (900, 203), bias=True), f"cpu:{arch}")
    check(run, numbers((70, 900)), numbers((900, 203), seed=1), numbers((203,), seed=2))


def test_rows_known_at_the_run():
    run = tallow.compile(product(["n", 600], (600, 500)))
    for n in (0, 1, 13, 48, 200):
        check(run, numbers((n, 600)), numbers((600, 500), seed=1))


def test_what_is_not_finite_stays_in_its_row(always):
    x, w = numbers((40, 64)), numbers((64, 70), seed=1)
    x[3, 5], x[20, 0] = np.nan, np.inf
    got = tallow.compile(product(x.shape, w.shape))(x, w)
    assert np.isnan(got[3]).all() and not np.isfinite(got[20]).any()
    assert np.isfinite(np.delete(got, [3, 20], axis=0)).all()


def test_small_products_are_not_copied():
    for left, right in (((128, 64), (64, 128)), ((4, 2048), (2048, 2048)), ((128, "k"), ("k", 4096))):
        assert not is_large(product(left, right).nodes[0], HOST)
    assert gathered.LEAST_ROWS > 8
