"""Products of dequantised values become integer products, with the same meaning."""

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.dtype import dtype, f32, i32
from tallow.passes.recognise.codes import DEEPEST, recognise_codes
from tallow.verify import verify

WINDOW = {"strides": (1, 1), "pads": ((1, 1), (0, 2)), "dilations": (1, 1), "groups": 1}


def dequantize(b, codes, scale, zero):
    """As the importer writes it."""
    if zero is None:
        return b.mul(b.cast(codes, dtype=f32), scale)
    less = b.sub(b.cast(codes, dtype=i32), b.cast(zero, dtype=i32))
    return b.mul(b.cast(less, dtype=f32), scale)


def product(rng, kind, x_type="u8", w_type="i8", zeros=True, per_column=True, depth=6):
    """x times w of codes: the graph, and inputs for it."""
    shapes = {
        "matmul": ((3, depth), (depth, 5), (1, 5)),
        "conv": ((2, depth, 5, 4), (5, depth, 3, 3), (5, 1, 1, 1)),
    }
    given, weights, columns = shapes[kind]
    b = Builder("codes")
    x = b.input("x", x_type, list(given))
    info = np.iinfo(dtype(w_type).numpy)
    w = b.constant(rng.integers(info.min, info.max + 1, weights).astype(dtype(w_type).numpy))
    scales = rng.uniform(0.01, 0.1, columns if per_column else ()).astype("f4")
    zero_x = b.constant(np.asarray(7, dtype(x_type).numpy))
    zero_w = b.constant(np.asarray(-3 if info.min else 120, dtype(w_type).numpy))
    left = dequantize(b, x, b.scalar(0.02, f32), zero_x if zeros else None)
    right = dequantize(b, w, b.constant(scales), zero_w if zeros else None)
    y = b.matmul(left, right) if kind == "matmul" else b.conv(left, right, **WINDOW)
    span = np.iinfo(dtype(x_type).numpy)
    return b.finish({"y": y}), {"x": rng.integers(span.min, span.max + 1, given).astype(dtype(x_type).numpy)}


@pytest.mark.parametrize("kind", ["matmul", "conv"])
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("per_column", [True, False])
@pytest.mark.parametrize("types", [("u8", "i8"), ("i8", "i8"), ("u8", "u8")], ids=str)
def test_becomes_an_integer_product(kind, zeros, per_column, types, rng):
    graph, inputs = product(rng, kind, *types, zeros=zeros, per_column=per_column)
    after = verify(recognise_codes(graph))
    assert [n.output.dtype for n in after.nodes if n.op == kind] == [i32]
    want, got = (tallow.evaluate(g, inputs)["y"] for g in (graph, after))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    np.testing.assert_allclose(
        tallow.compile(graph)(inputs["x"]), want, rtol=1e-5, atol=1e-5 * np.abs(want).max()
    )


@pytest.mark.parametrize("case", [{"x_type": "i16"}, {"depth": DEEPEST + 1}], ids=str)
def test_stays_where_sums_may_not_fit(case, rng):
    graph, _ = product(rng, "matmul", **case)
    assert recognise_codes(graph) is graph


def test_stays_where_scales_run_along_what_is_summed(rng):
    b = Builder("rows")
    x = b.input("x", "u8", [3, 6])
    w = b.constant(rng.integers(-128, 128, (6, 5)).astype("i1"))
    right = dequantize(b, w, b.constant(rng.uniform(0.1, 1, (6, 1)).astype("f4")), None)
    graph = b.finish({"y": b.matmul(dequantize(b, x, b.scalar(0.5, f32), None), right)})
    assert recognise_codes(graph) is graph
