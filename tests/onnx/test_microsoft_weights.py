"""Products with weights of 4 bits, whose codes mean floats or lie in blobs, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_support import agree, compiled, one_node, results

from tallow.errors import ImportFailed

MS = "com.microsoft"


def floats_of_four_bits(rng, n, k, block):
    return {
        "a": rng.standard_normal((2, 3, k)).astype("f4"),
        "b": rng.integers(0, 256, (n * k + 1) // 2).astype("u1"),
        "m": rng.uniform(0.1, 2, -(-n * k // block)).astype("f4"),
    }


@pytest.mark.parametrize("kind", (0, 1))
@pytest.mark.parametrize("n,k,block", [(5, 32, 16), (4, 48, 32), (16, 64, 128)])
@pytest.mark.parametrize("constants", (("b", "m"), ()))
def test_matmul_bnb4(tmp_path, rng, kind, n, k, block, constants):
    inputs = floats_of_four_bits(rng, n, k, block)
    attributes = {"N": n, "K": k, "block_size": block, "quant_type": kind}
    agree(
        one_node("MatMulBnb4", inputs, domain=MS, constants=constants, **attributes),
        inputs,
        tmp_path,
        rtol=1e-4,
        atol=1e-4,
    )


@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 7), k=st.integers(1, 40), kind=st.integers(0, 1), turned=st.booleans())
def test_matmul_bnb4_of_any_size(tmp_path_factory, n, k, kind, turned):
    """Blocks run on over rows, the last may be short; in f16, which onnxruntime has on no CPU, too."""
    rng = np.random.default_rng(n * 100 + k)
    given_ = floats_of_four_bits(rng, n, k, 16)
    attributes = {"N": n, "K": k, "block_size": 16, "quant_type": kind, "transB": int(turned)}
    table = np.eye(16)  # what each code means, by the operator itself: one row of codes against a unit matrix
    probe = {"a": np.eye(16, dtype="f4"), "b": np.arange(16).reshape(8, 2) @ [16, 1], "m": np.ones(1, "f4")}
    probe["b"] = probe["b"].astype("u1")
    folder = tmp_path_factory.mktemp("bnb4")
    proto = one_node("MatMulBnb4", probe, domain=MS, N=1, K=16, block_size=16, quant_type=kind)
    (table,) = agree(proto, probe, folder)
    codes = np.stack([given_["b"] >> 4, given_["b"] & 15], 1).reshape(-1)[: n * k]
    w = (table[codes, 0] * given_["m"].repeat(16)[: n * k]).reshape(n, k).astype("f8")
    for dtype, close in (("f4", 1e-4), ("f2", 2e-2)):
        a = rng.standard_normal((2, k if turned else n)).astype(dtype)
        inputs = given_ | {"a": a, "m": given_["m"].astype(dtype)}
        (y,) = results(one_node("MatMulBnb4", inputs, domain=MS, free=("a",), **attributes), inputs, folder)
        want = a.astype("f8") @ (w.T if turned else w)
        assert y.dtype == a.dtype
        np.testing.assert_allclose(y, want, rtol=close, atol=close * max(1, np.abs(want).max()))


def blobs(rng, n, k, block, zeros):
    """Rows of blobs: a scale, a zero point if there are any, and codes."""
    count = n * -(-k // block)
    parts = [rng.uniform(0.01, 0.1, count).astype("<f4").view("u1").reshape(count, 4)]
    parts += [rng.integers(0, 16, (count, 1)).astype("u1")] if zeros else []
    parts += [rng.integers(0, 256, (count, block // 2)).astype("u1")]
    return np.concatenate(parts, 1).reshape(-1)


@pytest.mark.parametrize("kind", (0, 1, 2))
@pytest.mark.parametrize("n,k", [(5, 128), (8, 72)])
def test_matmul_fp_q4(tmp_path, rng, kind, n, k):
    inputs = {
        "a": rng.standard_normal((2, 3, k)).astype("f4"),
        "b": blobs(rng, n, k, 32, kind != 0),
        "s": np.array([k, n]),
    }
    proto = one_node("MatMulFpQ4", inputs, domain=MS, constants=("b", "s"), blk_quant_type=kind)
    agree(proto, inputs, tmp_path, rtol=1e-4, atol=1e-4)


def test_what_is_refused(tmp_path, rng):
    def refused(op, inputs, said, constants=(), **attributes):
        with pytest.raises(ImportFailed, match=f'{op} node "it".*{said}'):
            compiled(one_node(op, inputs, domain=MS, constants=constants, **attributes), tmp_path)

    inputs = floats_of_four_bits(rng, 4, 16, 16)
    refused("MatMulBnb4", inputs, "quant_type 2", N=4, K=16, block_size=16, quant_type=2)
    refused("MatMulBnb4", inputs, "block_size 24", N=4, K=16, block_size=24, quant_type=0)
    inputs = {"a": np.ones((1, 32), "f4"), "b": np.zeros(20, "u1"), "s": np.array([32, 1])}
    refused("MatMulFpQ4", inputs, "a shape of weights that is computed at run time", blk_quant_type=0)


# Rows in GGML's blocks: the kind, values and bytes of a block, and where its floats of 16 bits are.
KINDS = {
    "f32": (0, 1, 4, []), "f16": (1, 1, 2, [0]), "q4_0": (2, 32, 18, [0]), "q5_0": (6, 32, 22, [0]),
    "q8_0": (8, 32, 34, [0]), "q5_k": (13, 256, 176, [0, 2]), "q6_k": (14, 256, 210, [208]),
    "iq4_nl": (20, 32, 18, [0]), "bf16": (30, 1, 2, []),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype,number", [("f4", 1), ("f2", 10)])
def test_packed_rows(tmp_path, rng, kind, dtype, number):
    code, values, size, scales = KINDS[kind]
    blocks = 512 // values
    table = rng.integers(0, 256, (7, blocks, size)).astype("u1")
    for at in scales:
        table[..., at : at + 2] = rng.uniform(-2, 2, (7, blocks, 1)).astype("f2").view("u1")
    if kind == "f32":
        table = rng.standard_normal((7, 512)).astype("f4").view("u1")
    if kind == "bf16":
        table[..., 1] &= 0x3F
    inputs = {"t": table.reshape(7, -1), "i": np.array([[3, 0, -1], [6, 7, 2]], "i4")}
    attributes = {"packed_type": code, "K": 512, "output_dtype": number}
    proto = one_node("GatherPacked", inputs, domain=MS, constants=("t",), free=("i",), **attributes)
    (y,) = agree(proto, inputs, tmp_path, rtol=1e-3 if dtype == "f2" else 1e-6)
    assert y.dtype == dtype
    at_run_time = inputs | {"i": inputs["i"].astype("i8")}
    agree(one_node("GatherPacked", at_run_time, domain=MS, **attributes), at_run_time, tmp_path, rtol=1e-3)


def test_packed_rows_that_are_refused(tmp_path):
    def refused(said, **attributes):
        inputs = {"t": np.zeros((4, 18), "u1"), "i": np.zeros(2, "i8")}
        with pytest.raises(ImportFailed, match=f'GatherPacked node "it".*{said}'):
            compiled(one_node("GatherPacked", inputs, domain=MS, **attributes), tmp_path)

    refused("packed_type 16: 0, 1", packed_type=16, K=32)
    refused("K=33 in blocks of 32", packed_type=2, K=33)
    refused("18 bytes of rows for K=64", packed_type=2, K=64)
