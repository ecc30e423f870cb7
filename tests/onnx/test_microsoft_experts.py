"""Mixtures of experts of com.microsoft against onnxruntime, or, where its CPU provider has none, numpy."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from onnx_support import agree, compiled, one_node, results

from tallow.errors import ImportFailed

MS = "com.microsoft"
EXPERTS, WIDTH, INNER = 5, 32, 64


def real(rng, *shape):
    return rng.standard_normal(shape).astype("f4")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights(rng, fused=1, third=False, biases=True):
    """Operands after the tokens and the scores of their experts."""
    names = ("1", "2", "3") if third else ("1", "2")
    given = {}
    for name in names:
        rows, columns = (WIDTH, INNER) if name == "2" else (INNER * (fused if name == "1" else 1), WIDTH)
        given["w" + name] = real(rng, EXPERTS, rows, columns) / 8
        given["b" + name] = real(rng, EXPERTS, rows) if biases else None
    return given


def routed(x, router, experts, k, normalised=False, mixing=None):
    """The definition, one token after the other."""
    rows = x.reshape(-1, x.shape[-1]).astype("f8")
    shares = np.exp(router - router.max(1, keepdims=True))
    shares = shares / shares.sum(1, keepdims=True)
    result = np.zeros_like(rows)
    for token, row in enumerate(rows):
        chosen = np.argsort(-shares[token], kind="stable")[:k]
        factors = (shares if mixing is None else mixing)[token][chosen]
        factors = factors / factors.sum() if normalised else factors
        for expert, factor in zip(chosen, factors, strict=True):
            result[token] += factor * experts(expert, row)
    return result.reshape(x.shape)


@pytest.mark.parametrize("activation", ("relu", "gelu", "silu", "identity", "swiglu"))
@pytest.mark.parametrize("k,normalised", [(1, 0), (2, 1), (5, 0)])
@pytest.mark.parametrize("shape", [(6, WIDTH), (2, 3, WIDTH)])
def test_experts(tmp_path, rng, activation, k, normalised, shape):
    gated = activation == "swiglu"
    inputs = {"x": real(rng, *shape), "r": 2 * real(rng, 6, EXPERTS)} | weights(rng, 1 + gated, biases=k != 1)
    attributes = {"k": k, "activation_type": activation, "normalize_routing_weights": normalised}
    if gated:
        attributes |= {
            "swiglu_fusion": 1,
            "activation_alpha": 1.7,
            "activation_beta": 1.0,
            "swiglu_limit": 0.7,
        }
    constants = [n for n in inputs if n not in "xr"]
    proto = one_node("MoE", inputs, domain=MS, constants=constants, **attributes)
    agree(proto, inputs, tmp_path, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", (0, 1, 7))
@pytest.mark.parametrize("constant", (True, False))
def test_any_number_of_tokens(tmp_path, rng, tokens, constant):
    """Sizes are symbols; most experts see no token where there are few."""
    inputs = {"x": real(rng, tokens, WIDTH), "r": real(rng, tokens, EXPERTS)} | weights(rng)
    constants = [n for n in inputs if n not in "xr"] if constant else ()
    free = {"x": ["n", WIDTH], "r": ["n", EXPERTS]}
    proto = one_node("MoE", inputs, domain=MS, constants=constants, k=2)
    for port in proto.graph.input:
        for axis, size in enumerate(free.get(port.name, ())):
            if isinstance(size, str):
                port.type.tensor_type.shape.dim[axis].dim_param = size
    (y,) = results(proto, inputs, tmp_path)
    want = routed(
        inputs["x"], inputs["r"], lambda e, row: by_hand(inputs, e, row, lambda u, _: np.maximum(u, 0)), 2
    )
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


def by_hand(given, expert, row, activation):
    def layer(name, row):
        bias = given.get("b" + name)
        return given["w" + name][expert].astype("f8") @ row + (0 if bias is None else bias[expert])

    up = layer("3", row) if "w3" in given else None
    return layer("2", activation(layer("1", row), up))


def fast_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMS = {
    "chunks": (2, False, {"activation_type": "swiglu", "swiglu_fusion": 2}, lambda u, _: silu(u[:INNER]) * u[INNER:]),
    "apart": (1, True, {"activation_type": "swiglu"}, lambda u, up: silu(u) * up),
    "silu, third": (1, True, {"activation_type": "silu"}, lambda u, up: silu(u) * up),
    "squares": (1, False, {"activation_type": "relu2"}, lambda u, _: np.maximum(u, 0) ** 2),
    "geglu": (2, False, {"activation_type": "geglu", "swiglu_fusion": 1}, lambda u, _: fast_gelu(u[::2]) * u[1::2]),
}  # fmt: skip


def silu(x):
    return x * sigmoid(x)


@pytest.mark.parametrize("form", FORMS)
def test_layers_that_only_other_devices_have(tmp_path, rng, form):
    fused, third, attributes, activation = FORMS[form]
    inputs = {"x": real(rng, 6, WIDTH), "r": real(rng, 6, EXPERTS)} | weights(rng, fused, third)
    constants = [n for n in inputs if n not in "xr"]
    (y,) = results(
        one_node("MoE", inputs, domain=MS, constants=constants, k=2, **attributes), inputs, tmp_path
    )
    want = routed(inputs["x"], inputs["r"], lambda e, row: by_hand(inputs, e, row, activation), 2)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


def mixed_sparsely(scores):
    """Shares and numbers of two experts, as the model of Phi-3.5-MoE writes it."""
    shares, numbers, left = [], [], scores.astype("f8")
    for _ in range(2):
        number = int(left.argmax())
        near = (left[number] - scores) / np.maximum(np.abs(scores), left[number]) <= 0.02
        powers = np.where(near, np.exp(left - left[number]), 0)
        shares.append(powers[number] / powers.sum())
        numbers.append(number)
        left = np.where(np.arange(len(left)) == number, -np.inf, left)
    return shares, numbers


@pytest.mark.parametrize("close", (False, True))
def test_sparse_mixer(tmp_path, rng, close):
    """Not in onnxruntime's CPU provider, which ignores the attribute; scores that are close share."""
    inputs = {"x": real(rng, 6, WIDTH), "r": 1 + real(rng, 6, EXPERTS) * (0.01 if close else 1)} | weights(
        rng
    )
    inputs["r"] = inputs["r"].astype("f4")
    constants = [n for n in inputs if n not in "xr"]
    proto = one_node("MoE", inputs, domain=MS, constants=constants, k=2, use_sparse_mixer=1)
    (y,) = results(proto, inputs, tmp_path)
    for token, row in enumerate(inputs["x"].astype("f8")):
        want = 0
        for share, number in zip(*mixed_sparsely(inputs["r"][token]), strict=True):
            want = want + share * by_hand(inputs, number, row, lambda u, _: np.maximum(u, 0))
        np.testing.assert_allclose(y[token], want, rtol=1e-4, atol=1e-4)


# Coded weights -------------------------------------------------------------------------------------


def packed(codes, bits):
    """Numbers of a few bits as bytes, the lowest bits first; rows begin at a byte."""
    spread = (codes[..., None] >> np.arange(bits)) & 1
    flat = spread.reshape(*codes.shape[:-1], -1).astype("u1")
    return np.packbits(flat, axis=-1, bitorder="little")


def coded_layer(rng, rows, columns, bits, block, zeros):
    """Bytes, scales and zero points of all experts' weights."""
    blocks = columns // block if block else 1
    codes = rng.integers(0, 1 << bits, (EXPERTS, rows, columns))
    scales = rng.uniform(0.01, 0.03, (EXPERTS, rows, blocks)).astype("f4") * 2 ** (4 - bits)
    zero = rng.integers(0, 1 << bits, (EXPERTS, rows, blocks)) if zeros else None
    real_ = codes.reshape(EXPERTS, rows, blocks, -1) - (1 << (bits - 1) if zero is None else zero[..., None])
    stored = None if zero is None else packed(zero if block else zero[..., 0], bits)
    values = (real_ * scales[..., None]).reshape(codes.shape)
    return packed(codes, bits), scales if block else scales[..., 0], stored, values


def coded(rng, bits, block, zeros, fused=1):
    first = coded_layer(rng, fused * INNER, WIDTH, bits, block, zeros)
    second = coded_layer(rng, WIDTH, INNER, bits, block, zeros)
    given = {
        "w1": first[0], "s1": first[1], "b1": real(rng, EXPERTS, fused * INNER),
        "w2": second[0], "s2": second[1], "b2": real(rng, EXPERTS, WIDTH),
        "w3": None, "s3": None, "b3": None, "z1": first[2], "z2": second[2],
    }  # fmt: skip
    return given, {"w1": first[3], "w2": second[3], "b1": given["b1"], "b2": given["b2"]}


def tokens(rng):
    return {"x": real(rng, 6, WIDTH), "r": 2 * real(rng, 6, EXPERTS)}


@pytest.mark.parametrize("bits,block", [(4, 0), (8, 0), (4, 32), (4, 16), (2, 16)])
@pytest.mark.parametrize("zeros", (False, True))
@pytest.mark.parametrize("activation", ("silu", "swiglu"))
def test_coded_experts(tmp_path, rng, bits, block, zeros, activation):
    fused = 1 + (activation == "swiglu")
    given, _ = coded(rng, bits, block, zeros, fused)
    inputs = tokens(rng) | given
    attributes = {
        "k": 2,
        "activation_type": activation,
        "expert_weight_bits": bits,
        "normalize_routing_weights": 1,
    }
    attributes |= {"block_size": block} if block else {}
    attributes |= {"swiglu_fusion": 1, "activation_alpha": 1.7, "activation_beta": 1.0} if fused == 2 else {}
    constants = [n for n, v in inputs.items() if n not in "xr" and v is not None]
    agree(
        one_node("QMoE", inputs, domain=MS, constants=constants, **attributes),
        inputs,
        tmp_path,
        rtol=2e-3,
        atol=2e-3,
    )


@pytest.mark.parametrize("bits", ((3, 3), (3, 8), (8, 4)))
@pytest.mark.parametrize("zeros", (False, True))
def test_widths_of_each_layer(tmp_path, rng, bits, zeros):
    """Layers of 3 bits, and of different widths, in numpy."""
    first, second = (coded(rng, n, 32, zeros) for n in bits)
    given = first[0] | {n: second[0][n] for n in ("w2", "s2", "z2")}
    known = first[1] | {"w2": second[1]["w2"]}
    inputs = tokens(rng) | given
    attributes = {"k": 2, "block_size": 32, "expert_weight_bits": bits[0], "fc2_expert_weight_bits": bits[1]}
    constants = [n for n, v in inputs.items() if n not in "xr" and v is not None]
    (y,) = results(one_node("QMoE", inputs, domain=MS, constants=constants, **attributes), inputs, tmp_path)
    want = routed(
        inputs["x"], inputs["r"], lambda e, row: by_hand(known, e, row, lambda u, _: np.maximum(u, 0)), 2
    )
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalised", (0, 1))
def test_scores_that_choose_and_scores_that_mix(tmp_path, rng, normalised):
    given, _ = coded(rng, 4, 32, False)
    inputs = tokens(rng) | given | {"z3": None, "mixing": rng.uniform(0.1, 1, (6, EXPERTS)).astype("f4")}
    constants = [n for n, v in inputs.items() if n not in ("x", "r", "mixing") and v is not None]
    attributes = {
        "k": 2,
        "block_size": 32,
        "activation_type": "silu",
        "normalize_routing_weights": normalised,
    }
    agree(
        one_node("QMoE", inputs, domain=MS, constants=constants, **attributes),
        inputs,
        tmp_path,
        rtol=1e-3,
        atol=1e-3,
    )


def floats(rng, kind, rows, columns):
    """Codes, scales and what they mean."""
    if kind == "fp4":
        codes = rng.integers(0, 16, (EXPERTS, rows, columns))
        exponents = rng.integers(-6, -2, (EXPERTS, rows, columns // 32))
        scales = (2.0**exponents).astype(ml_dtypes.float8_e8m0fnu)
        table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        values = np.concatenate([table, -table])[codes] * (2.0**exponents).repeat(32, 2)
        return packed(codes, 4), scales, values
    codes = real(rng, EXPERTS, rows, columns).astype(ml_dtypes.float8_e4m3fn)
    if kind == "fp8":
        return codes, None, codes.astype("f8")
    scales = rng.uniform(0.1, 0.3, (EXPERTS, -(-rows // 48), -(-columns // 48))).astype("f4")
    spread = scales.repeat(48, 1).repeat(48, 2)[:, :rows, :columns]
    return codes, scales, codes.astype("f8") * spread


@pytest.mark.parametrize("kind", ("fp4", "fp8", "blocks"))
def test_weights_that_are_small_floats(tmp_path, rng, kind):
    """Not in onnxruntime's CPU provider."""
    first, second = floats(rng, kind, INNER, WIDTH), floats(rng, kind, WIDTH, INNER)
    overall = None if kind == "blocks" else rng.uniform(0.1, 0.2, (2, EXPERTS)).astype("f4")
    inputs = tokens(rng) | {
        "w1": first[0], "s1": first[1], "b1": None, "w2": second[0], "s2": second[1], "b2": None,
        "w3": None, "s3": None, "b3": None, "z1": None, "z2": None, "z3": None, "mixing": None,
        "g1": None if overall is None else overall[0], "g2": None if overall is None else overall[1],
    }  # fmt: skip
    known = {"w1": first[2], "w2": second[2]}
    if overall is not None:
        known = {n: w * g[:, None, None] for (n, w), g in zip(known.items(), overall, strict=True)}
    constants = [n for n, v in inputs.items() if n not in "xr" and v is not None]
    attributes = {"k": 2, "quant_type": "fp4" if kind == "fp4" else "fp8", "activation_type": "silu"}
    attributes |= {"block_size": 48} if kind == "blocks" else {}
    (y,) = results(one_node("QMoE", inputs, domain=MS, constants=constants, **attributes), inputs, tmp_path)
    want = routed(inputs["x"], inputs["r"], lambda e, row: by_hand(known, e, row, lambda u, _: silu(u)), 2)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_what_is_refused(tmp_path, rng):
    inputs = tokens(rng) | weights(rng)

    def refused(said, op="MoE", inputs=inputs, **attributes):
        with pytest.raises(ImportFailed, match=f'{op} node "it".*{said}'):
            compiled(one_node(op, inputs, domain=MS, **attributes), tmp_path)

    refused("activation_type 'tanh'", activation_type="tanh")
    refused("swiglu_fusion 0 of swiglu without a third layer", activation_type="swiglu")
    refused("use_sparse_mixer with k=1", use_sparse_mixer=1, k=1)
    refused(
        "swiglu_limit_after_activation", inputs=tokens(rng) | weights(rng, 2), activation_type="swiglu",
        swiglu_fusion=1, swiglu_limit_after_activation=1,
    )  # fmt: skip
    given = tokens(rng) | coded(rng, 4, 32, False)[0]
    refused("quant_type 'fp9'", "QMoE", given, quant_type="fp9")
    refused("weights_prepacked=1", "QMoE", given, weights_prepacked=1)
    refused("weights of 5 bits", "QMoE", given, expert_weight_bits=5)
    refused("coded weights without scales", "QMoE", given | {"s1": None})
