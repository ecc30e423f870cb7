"""Operators of com.microsoft in bf16, which onnxruntime takes from no numpy array: as in f32, to its 8 bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx_support import one_node, results

MS = "com.microsoft"
BF16 = ml_dtypes.bfloat16


def floats(rng, *shape):
    """Numbers that bf16 has."""
    return rng.standard_normal(shape).astype(BF16).astype("f4")


def experts(rng):
    return {
        "x": floats(rng, 6, 32), "r": floats(rng, 6, 4), "w1": floats(rng, 4, 64, 32) / 8, "b1": floats(rng, 4, 64),
        "w2": floats(rng, 4, 32, 64) / 8,
    }  # fmt: skip


def tokens(rng):
    return {
        "q": floats(rng, 5, 2, 8), "k": floats(rng, 5, 2, 8) / 4, "v": floats(rng, 5, 2, 6),
        "ends": np.array([0, 2, 5], "i4"), "decay": -np.abs(floats(rng, 5, 2)), "beta": floats(rng, 5, 2),
    }  # fmt: skip


# Operands, attributes, results, and operands that stay f32.
CASES = {
    "MoE": (experts, {"k": 2, "activation_type": "silu"}, 1, ()),
    "GatedDeltaNet": (tokens, {}, 2, ("decay", "beta")),
    "GatedRMSNorm": (lambda r: {"x": floats(r, 3, 24), "s": floats(r, 8), "g": floats(r, 3, 24)}, {}, 1, ()),
    "BranchwiseRMSNorm": (lambda r: {"x": floats(r, 3, 4, 6), "s": floats(r, 6)}, {}, 1, ("s",)),
    "HyperConnectionPreMix": (lambda r: {"x": floats(r, 3, 4, 6), "g": floats(r, 3, 4)}, {}, 1, ("g",)),
    "EngramGate": (
        lambda r: {
            "k": floats(r, 1, 3, 2, 8), "q": floats(r, 1, 3, 2, 8), "v": floats(r, 1, 3, 8), "ks": floats(r, 2, 8),
            "qs": floats(r, 2, 8),
        },
        {}, 1, (),
    ),
    "ScaledSiLU": (lambda r: {"x": floats(r, 3, 7)}, {"alpha": 0.5}, 1, ()),
    "GatedAdd": (lambda r: {"x": floats(r, 3, 7), "y": floats(r, 3, 7), "g": floats(r, 3, 4), "w": floats(r, 4, 1)}, {}, 1, ()),
    "LinearAttentionGate": (lambda r: {"a": floats(r, 1, 3, 4), "d": floats(r, 4), "s": floats(r, 4)}, {}, 1, ("d", "s")),
    "SwiGLU": (lambda r: {"x": floats(r, 3, 8)}, {"limit": 0.75}, 1, ()),
    "GemmFastGelu": (lambda r: {"x": floats(r, 3, 8), "w": floats(r, 8, 5)}, {}, 1, ()),
    "MoEGroupRouter": (lambda r: {"x": floats(r, 3, 8), "b": floats(r, 8)}, {"top_k": 2}, 1, ("b",)),
    "MatMulBnb4": (
        lambda r: {"a": floats(r, 3, 32), "b": r.integers(0, 256, 64).astype("u1"), "m": np.abs(floats(r, 8))},
        {"N": 4, "K": 32, "block_size": 16, "quant_type": 1}, 1, (),
    ),
    "CausalConvWithState": (lambda r: {"x": floats(r, 2, 3, 5), "w": floats(r, 3, 1, 4)}, {"activation": "silu"}, 2, ()),
    "VarlenCausalConvWithState": (
        lambda r: {
            "x": floats(r, 5, 3), "w": floats(r, 3, 1, 2), "e": np.array([0, 2, 5], "i4"), "b": floats(r, 3),
            "p": floats(r, 2, 3, 1),
        },
        {}, 2, (),
    ),
    "LinearAttention": (
        lambda r: {"q": floats(r, 1, 4, 8), "k": floats(r, 1, 4, 8) / 4, "v": floats(r, 1, 4, 6)},
        {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear"}, 2, (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", CASES)
def test_as_in_f32(tmp_path, rng, op):
    make, attributes, outputs, wide = CASES[op]
    single = make(rng)
    half = {n: a.astype(BF16) if a.dtype == np.float32 and n not in wide else a for n, a in single.items()}
    (first, second) = (
        results(one_node(op, inputs, outputs, domain=MS, **attributes), inputs, tmp_path)
        for inputs in (half, single)
    )
    for mine, other in zip(first, second, strict=True):
        assert mine.dtype == BF16 or (op == "GatedDeltaNet" and mine.dtype == np.float32)
        close = 2**-6 * max(1, np.abs(other).max())
        np.testing.assert_allclose(mine.astype("f4"), other, rtol=2**-6, atol=close)
