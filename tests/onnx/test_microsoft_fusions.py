"""Gates, activations and normalisations of com.microsoft against onnxruntime, or, where its CPU provider has
none, against what their documentation says, in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_support import agree, compiled, one_node, results

from tallow.errors import ImportFailed

MS = "com.microsoft"
CLOSE = {"f4": 2e-5, "f2": 4e-3}


def real(rng, *shape, dtype="f4"):
    return rng.standard_normal(shape).astype(dtype)


def wide(array):
    return array.astype("f8")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def fast_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def means(tmp_path, op, inputs, meaning, outputs=1, free=(), constants=(), **attributes):
    """Our results are what `meaning` makes of the operands in f64, within what their dtype tells apart."""
    proto = one_node(op, inputs, outputs, domain=MS, free=free, constants=constants, **attributes)
    got = results(proto, inputs, tmp_path)
    want = meaning(*(None if a is None else wide(a) if a.dtype.kind == "f" else a for a in inputs.values()))
    want = want if isinstance(want, tuple) else (want,)
    first = next(a for a in inputs.values() if a is not None and a.dtype.kind == "f")
    for mine, other in zip(got, want, strict=True):
        assert mine.dtype == first.dtype and mine.shape == other.shape
        close = CLOSE[first.dtype.str[1:]]
        np.testing.assert_allclose(mine, other, rtol=close, atol=close * max(1, np.abs(other).max(initial=0)))


def refused(tmp_path, op, inputs, said, outputs=1, **attributes):
    with pytest.raises(ImportFailed, match=f'{op} node "it".*{said}'):
        compiled(one_node(op, inputs, outputs, domain=MS, **attributes), tmp_path)


# Activations and sums ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_sums_with_bias(tmp_path, rng, dtype):
    x, skip = (real(rng, 2, 5, 6, dtype=dtype) for _ in range(2))
    bias = real(rng, 6, dtype=dtype)
    means(tmp_path, "BiasAdd", {"x": x, "b": bias, "s": skip}, lambda x, b, s: x + b + s, free=("x", "s"))

    def split(x, b):
        left, right = np.split(x + b, 2, axis=-1)
        return left * gelu(right)

    means(tmp_path, "BiasSplitGelu", {"x": x, "b": bias}, split)
    w = real(rng, 6, 4, dtype=dtype)
    for shift in (None, real(rng, 4, dtype=dtype)):
        given_ = {"x": x, "w": w, "b": shift}
        means(tmp_path, "GemmFastGelu", given_, lambda x, w, b: fast_gelu(x @ w + (0 if b is None else b)))


@pytest.mark.parametrize("activation,parameters", [("Relu", {}), ("LeakyRelu", {"activation_alpha": 0.3})])
def test_product_with_activation(tmp_path, rng, activation, parameters):
    inputs = {"a": real(rng, 2, 4, 5), "b": real(rng, 2, 6, 5)}

    def meaning(a, b):
        y = 0.5 * a @ b.swapaxes(1, 2)
        return np.where(y < 0, y * parameters.get("activation_alpha", 0), y)

    attributes = {"activation": activation, "transB": 1, "alpha": 0.5}
    means(tmp_path, "FusedMatMulActivation", inputs, meaning, **attributes, **parameters)


@pytest.mark.parametrize("residual", (False, True))
def test_dropout_of_inference_drops_nothing(tmp_path, rng, residual):
    x, bias = real(rng, 2, 3, 4), real(rng, 4)
    inputs = {"x": x, "b": bias, "r": real(rng, 2, 3, 4) if residual else None, "ratio": np.float32(0.5)}
    proto = one_node("BiasDropout", inputs, 2, domain=MS)
    y, mask = results(proto, inputs, tmp_path)
    np.testing.assert_allclose(y, x + bias + (inputs["r"] if residual else 0), rtol=1e-6)
    assert mask.dtype == bool and mask.shape == x.shape and mask.all()
    training = inputs | {"t": np.array(True)}
    with pytest.raises(ImportFailed, match="the training mode of BiasDropout"):
        compiled(one_node("BiasDropout", training, 2, domain=MS, constants=("t",)), tmp_path)
    with pytest.raises(ImportFailed, match="a training mode that is computed at run time"):
        compiled(one_node("BiasDropout", training, 2, domain=MS), tmp_path)


@pytest.mark.parametrize("apart", (False, True))
@pytest.mark.parametrize("dtype", ("f4", "f2"))
@pytest.mark.parametrize("attributes", [{}, {"activation_alpha": 1.7, "activation_beta": 1.0, "limit": 0.7}])
def test_swiglu(tmp_path, rng, apart, dtype, attributes):
    x, up = real(rng, 3, 5, 8, dtype=dtype), real(rng, 3, 5, 8, dtype=dtype) if apart else None

    def meaning(x, up):
        gate, linear = (x, up) if up is not None else np.split(x, 2, axis=-1)
        limit = attributes.get("limit", np.inf)
        gate, linear = np.minimum(gate, limit), np.clip(linear, -limit, limit)
        swish = gate * sigmoid(attributes.get("activation_alpha", 1) * gate)
        return swish * (linear + attributes.get("activation_beta", 0))

    means(tmp_path, "SwiGLU", {"x": x, "up": up}, meaning, **attributes)


def test_activations_that_round_first(tmp_path, rng):
    """The activated gate rounds to f16 before the product does, which is seen in many last bits."""
    inputs = {"x": real(rng, 40, 8, dtype="f2"), "up": real(rng, 40, 8, dtype="f2")}
    x, up = (a.astype("f4") for a in inputs.values())
    first, once = (
        (swish.astype("f4") * up).astype("f2") for swish in ((x * sigmoid(x)).astype("f2"), x * sigmoid(x))
    )
    for flag, want, other in ((1, first, once), (0, once, first)):
        (y,) = results(one_node("SwiGLU", inputs, domain=MS, round_activation=flag), inputs, tmp_path)
        assert (y == want).mean() > 0.98 and (y == other).mean() < 0.9
        np.testing.assert_allclose(y, want, rtol=2e-3)


@pytest.mark.parametrize("dtype", ("f4", "f2"))
@pytest.mark.parametrize("attributes", [{}, {"activation_alpha": 1.7, "activation_beta": 1.0, "limit": 0.7}])
def test_router_and_shared_expert(tmp_path, rng, dtype, attributes):
    inputs = {"x": real(rng, 2, 3, 6, dtype=dtype), "w": real(rng, 6, 13, dtype=dtype)}

    def meaning(x, w):
        scores, gate, linear = np.split(x @ w, [3, 8], axis=-1)
        limit = attributes.get("limit", np.inf)
        gate, linear = np.minimum(gate, limit), np.clip(linear, -limit, limit)
        swish = gate * sigmoid(attributes.get("activation_alpha", 1) * gate)
        return scores, swish * (linear + attributes.get("activation_beta", 0))

    means(tmp_path, "RouterGateUpProj", inputs, meaning, 2, router_size=3, **attributes)


@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_gates_as_onnxruntime_has_them(tmp_path, rng, dtype):
    x, y, gate = (real(rng, 2, 5, n, dtype=dtype) for n in (6, 6, 1))
    close = {"rtol": CLOSE[dtype], "atol": CLOSE[dtype]}
    for factor in (None, np.array(0.7, "f4")):
        inputs = {"x": x, "s": factor}
        agree(one_node("ScaledSiLU", inputs, domain=MS, alpha=1.3), inputs, tmp_path, **close)
    inputs = {"x": x, "y": y, "g": gate}
    agree(one_node("GatedAdd", inputs, domain=MS, free=("x", "y", "g")), inputs, tmp_path, **close)
    inputs = {"a": 20 * x, "d": real(rng, 6), "s": real(rng, 6), "b": y}
    agree(one_node("LinearAttentionGate", inputs, 2, domain=MS, free=("a", "b")), inputs, tmp_path, **close)
    del inputs["b"]
    agree(one_node("LinearAttentionGate", inputs, domain=MS), inputs, tmp_path, **close)


def test_gated_sum_by_projection(tmp_path, rng):
    inputs = {"x": real(rng, 2, 5, 6), "y": real(rng, 2, 5, 6), "g": real(rng, 2, 5, 7), "w": real(rng, 7, 1)}
    means(tmp_path, "GatedAdd", inputs, lambda x, y, g, w: x + y * sigmoid(g @ w))


@pytest.mark.parametrize("dtype", ("i1", "u1"))
def test_integers(tmp_path, rng, dtype):
    info = np.iinfo(dtype)
    x, y = (rng.integers(info.min, info.max + 1, shape).astype(dtype) for shape in ((3, 4, 5), (4, 5)))
    for zero in (None, np.array(7, dtype)):
        inputs = {"x": x, "xz": zero, "y": y, "yz": zero}
        (got,) = results(one_node("MulInteger", inputs, domain=MS), inputs, tmp_path)
        centre = 0 if zero is None else 7
        np.testing.assert_array_equal(got, (x.astype("i4") - centre) * (y.astype("i4") - centre))
    for axes, keep in (([1, -1], 1), ([0], 0)):
        proto = one_node("ReduceSumInteger", {"x": x}, domain=MS, free=("x",), axes=axes, keepdims=keep)
        (got,) = results(proto, {"x": x}, tmp_path)
        assert got.dtype == (np.int32 if dtype == "i1" else np.uint32)
        np.testing.assert_array_equal(got, x.sum(axis=tuple(axes), keepdims=bool(keep), dtype=got.dtype))


@pytest.mark.parametrize("dtype", ("f4", "f2", "f8"))
@pytest.mark.parametrize("bad", (None, np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("only", (None, "isinf_only", "isnan_only"))
def test_is_all_finite(tmp_path, rng, dtype, bad, only):
    inputs = {
        "x": real(rng, 3, 4, dtype=dtype),
        "e": real(rng, 0, 2, dtype=dtype),
        "y": real(rng, 5, dtype=dtype),
    }
    if bad is not None:
        inputs["y"][2] = bad
    proto = one_node("IsAllFinite", inputs, domain=MS, free=("x",), **({only: 1} if only else {}))
    (got,) = results(proto, inputs, tmp_path)
    looked_for = {None: not np.isfinite(inputs["y"]).all(), "isinf_only": np.isinf(inputs["y"]).any()}
    assert got.shape == () and got == (not looked_for.get(only, np.isnan(inputs["y"]).any()))


# Normalisations ------------------------------------------------------------------------------------


def grouped(x, scale, shift, groups, last, activation, epsilon=1e-5):
    first = np.moveaxis(x, -1, 1) if last else x
    pieces = first.reshape(x.shape[0], groups, -1)
    centred = pieces - pieces.mean(2, keepdims=True)
    y = (centred / np.sqrt((centred**2).mean(2, keepdims=True) + epsilon)).reshape(first.shape)
    y = y * scale[:, None, None] + shift[:, None, None]
    y = y * sigmoid(y) if activation else y
    return np.moveaxis(y, 1, -1) if last else y


@pytest.mark.parametrize("last,activation", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("dtype,scales", [("f4", "f4"), ("f2", "f2"), ("f2", "f4")])
def test_group_norm(tmp_path, rng, last, activation, dtype, scales):
    shape = (2, 4, 3, 6) if last else (2, 6, 4, 3)
    inputs = {
        "x": 2 + real(rng, *shape, dtype=dtype),
        "g": real(rng, 6, dtype=scales),
        "b": real(rng, 6, dtype=scales),
    }
    attributes = {"groups": 3, "channels_last": last, "activation": activation}
    form = (3, last, activation)
    means(tmp_path, "GroupNorm", inputs, lambda x, g, b: grouped(x, g, b, *form), **attributes)
    means(
        tmp_path,
        "GroupNorm",
        inputs,
        lambda x, g, b: grouped(x, g, b, *form, epsilon=0.1),
        free=("x",),
        epsilon=0.1,
        **attributes,
    )


@pytest.mark.parametrize("skip", ("whole", "row", "flat"))
@pytest.mark.parametrize("last", (1, 0))
@pytest.mark.parametrize("bias", (True, False))
def test_skip_group_norm(tmp_path, rng, skip, last, bias):
    shape, row = ((2, 4, 3, 6), (2, 1, 1, 6)) if last else ((2, 6, 4, 3), (2, 6, 1, 1))
    inputs = {
        "x": real(rng, *shape), "g": real(rng, 6), "b": real(rng, 6),
        "s": real(rng, *{"whole": shape, "row": row, "flat": (2, 6)}[skip]), "bias": real(rng, 6) if bias else None,
    }  # fmt: skip

    def meaning(x, g, b, s, bias):
        total = x + s.reshape(row if skip == "flat" else s.shape)
        if bias is not None:
            total = total + (bias if last else bias[:, None, None])
        return grouped(total, g, b, 2, last, 1), total

    attributes = {"groups": 2, "channels_last": last, "activation": 1}
    means(tmp_path, "SkipGroupNorm", inputs, meaning, 2, **attributes)


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(0, 3), heads=st.integers(1, 3), size=st.integers(1, 9),
    activation=st.sampled_from(("silu", "swish", "sigmoid")),
)  # fmt: skip
def test_gated_rms_norm_of_any_size(tmp_path_factory, rows, heads, size, activation):
    rng = np.random.default_rng(rows + 4 * heads + 16 * size)
    inputs = {"x": real(rng, rows, heads * size), "s": real(rng, size), "g": real(rng, rows, heads * size)}
    folder = tmp_path_factory.mktemp("norm")
    agree(
        one_node("GatedRMSNorm", inputs, domain=MS, free=("x", "g"), activation=activation),
        inputs,
        folder,
        rtol=2e-5,
        atol=2e-5,
    )


@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_gated_rms_norm(tmp_path, rng, dtype):
    inputs = {n: real(rng, *s, dtype=dtype) for n, s in (("x", (2, 5, 24)), ("s", (8,)), ("g", (2, 5, 24)))}
    proto = one_node("GatedRMSNorm", inputs, domain=MS, epsilon=0.1)
    agree(proto, inputs, tmp_path, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", ("f4", "f2"))
@pytest.mark.parametrize("flat", (False, True))
def test_branches(tmp_path, rng, dtype, flat):
    """Streams of hyper-connections, four of 6 features, side by side or on an axis of their own."""
    lead, close = (2, 3), {"rtol": CLOSE[dtype], "atol": CLOSE[dtype]}
    x = real(rng, *lead, *((24,) if flat else (4, 6)), dtype=dtype)
    number = {"num_branches": 4} if flat else {}
    for scale in (None, (6,), (4, 6), (24,)):
        inputs = {"x": x, "s": None if scale is None else real(rng, *scale)}
        agree(
            one_node(
                "BranchwiseRMSNorm",
                inputs,
                domain=MS,
                free=() if flat or scale == (24,) else ("x",),
                **number,
            ),
            inputs,
            tmp_path,
            **close,
        )
    for gate in ((4,), (4, 1), (4, 6), *([(24,)] if flat else [])):
        inputs = {"x": x, "g": real(rng, *lead, *gate)}
        proto = one_node("HyperConnectionPreMix", inputs, domain=MS, reduction_scale=0.25, **number)
        agree(proto, inputs, tmp_path, **close)
    for gate in ((4,), (4, 1), (4, 6)):
        for mix in (None, real(rng, *lead, 4, 4)):
            inputs = {"x": x, "y": real(rng, *lead, 6, dtype=dtype), "g": real(rng, *lead, *gate), "m": mix}
            agree(one_node("HyperConnectionPostMix", inputs, domain=MS, **number), inputs, tmp_path, **close)


@pytest.mark.parametrize("dtype", ("f4", "f2"))
@pytest.mark.parametrize("normed", (True, False))
def test_engram_gate(tmp_path, rng, dtype, normed):
    shapes = {"k": (2, 3, 4, 8), "q": (2, 3, 4, 8), "v": (2, 3, 8), "ks": (4, 8), "qs": (4, 8)}
    inputs = {n: real(rng, *s, dtype=dtype) for n, s in shapes.items()}
    if normed:
        inputs["cs"] = real(rng, 4, 8, dtype=dtype)
    proto = one_node("EngramGate", inputs, 1 + normed, domain=MS, epsilon=1e-3)
    agree(proto, inputs, tmp_path, rtol=2 * CLOSE[dtype], atol=2 * CLOSE[dtype])


def test_what_is_refused(tmp_path, rng):
    x, line, norm = real(rng, 2, 4, 3, 6), real(rng, 6), {"groups": 4, "activation": 0}
    refused(tmp_path, "BiasSplitGelu", {"x": real(rng, 2, 5), "b": real(rng, 5)}, "a last axis of 5")
    refused(tmp_path, "GroupNorm", {"x": x, "g": line, "b": line}, "4 groups of 6 channels", **norm)
    refused(tmp_path, "GroupNorm", {"x": x, "g": line, "b": line}, "activation 2", groups=2, activation=2)
    skip = {"x": x, "g": line, "b": line, "s": real(rng, 4, 3, 6)}
    refused(tmp_path, "SkipGroupNorm", skip, r"a skip connection f32\[4, 3, 6\]", groups=2, activation=0)
    refused(tmp_path, "GatedRMSNorm", {"x": x, "s": line, "g": x}, "activation 'relu'", activation="relu")
    refused(tmp_path, "LinearAttentionGate", {"a": x, "d": line, "s": line}, "beta without the operand b", 2)
    both = {"isinf_only": 1, "isnan_only": 1}
    refused(tmp_path, "IsAllFinite", {"x": x}, "isinf_only and isnan_only", **both)
    product = {"x": real(rng, 2, 3), "w": real(rng, 3, 8)}
    refused(tmp_path, "RouterGateUpProj", product, "activation 'relu'", 2, router_size=2, activation="relu")
    refused(tmp_path, "RouterGateUpProj", product, "a last axis of 5", 2, router_size=3)
    engram = {
        n: real(rng, *s)
        for n, s in (("k", (1, 1, 2, 4)), ("q", (1, 1, 2, 4)), ("v", (1, 1, 4)), ("a", (2, 4)), ("b", (2, 4)))
    }
    refused(tmp_path, "EngramGate", engram, "gated_value_normed without", 2)
