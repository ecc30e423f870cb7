"""What is written for operators of com.microsoft, evaluated by numpy, which takes no place outside an axis, and with
operands that the importer knows, which it follows: both as the kernels have it."""

from __future__ import annotations

import numpy as np
import pytest
import test_microsoft_experts as experts
import test_microsoft_recurrences as recurrences
import test_microsoft_windows as windows
from onnx_support import compiled, feed, one_node

import tallow
from tallow_importers.onnx.importer import load_model_proto

MS = "com.microsoft"


def ragged_tokens(rng):
    given = windows.ngrams(rng, "i8", batch=3, steps=4)
    ends = np.array([0, 1, 6, 12], "i4")
    return {n: given[n].reshape(-1) if n == "ids" else given[n] for n in ("ids", "factors", "sizes")} | {
        "ends": ends,
        "past": given["past"],
        "offsets": None,
        "end": given["end"],
        "segments": np.sort(rng.integers(0, 4, 12)).astype("i4"),
    }


def ragged_rows(rng):
    return {
        "x": recurrences.real(rng, 11, 6),
        "w": recurrences.real(rng, 6, 1, 4),
        "ends": np.array([0, 3, 4, 11], "i4"),
        "b": None,
        "past": recurrences.real(rng, 3, 6, 3),
        "count": np.array([2, 5, 0], "i4"),
    }


def packed(rng):
    return recurrences.packed_tokens(rng, [3, 1, 5]) | {"count": np.array([2, 4, 4], "i4")}


NGRAMS = {"max_ngram_size": 3, "n_head_per_ngram": 2, "pad_id": 1, "reset_on_eos": 1}
HEADS = {"num_heads": 4, "kv_num_heads": 2, "sparse_block_size": 16}
TOKENS = {
    "s": np.array([3, 1, 2, 3, 1]),
    "c": np.array([0, 3, 1]),
    "p": np.array(3),
    "g": np.array([3, 1, 2]),
}
CASES = {
    "MoE": (lambda r: experts.tokens(r) | experts.weights(r), {"k": 2}, 1),
    "GatedDeltaNet": (packed, {"state_update_capacity": 4}, 3),
    "VarlenCausalConvWithState": (ragged_rows, {"state_update_capacity": 3}, 3),
    "VarlenNGramHashMapping": (ragged_tokens, NGRAMS, 3),
    "SparseAttention": (lambda r: recurrences.sparse(r, 33, 33, [33, 20]), HEADS, 3),
    "DynamicTimeWarping": (lambda r: {"x": recurrences.real(r, 4, 6)}, {}, 1),
    "BifurcationDetector": (lambda r: dict(TOKENS), {}, 2),
    "RemovePadding": (lambda r: {"x": recurrences.real(r, 2, 5, 3), "n": np.array([5, 2], "i4")}, {}, 4),
    "RestorePadding": (
        lambda r: {"x": recurrences.real(r, 2, 3), "o": np.array([[0, 3], [1, 2]], "i4")},
        {},
        1,
    ),
}


@pytest.mark.parametrize("op", CASES)
def test_numpy_and_kernels(tmp_path, rng, op):
    make, attributes, outputs = CASES[op]
    inputs = make(rng)
    first = next(iter(inputs))
    rest = [n for n, a in inputs.items() if n != first and a is not None]
    proto = one_node(op, inputs, outputs, domain=MS, **attributes)
    model = compiled(proto, tmp_path)
    given = feed(proto, inputs)
    results = model.run(given)
    meaning = tallow.evaluate(load_model_proto(proto), given)
    known = one_node(op, inputs, outputs, domain=MS, constants=rest, **attributes)
    with_constants = compiled(known, tmp_path).run(feed(known, inputs))
    for mine, *others in zip(results.values(), meaning.values(), with_constants.values(), strict=True):
        for other in others:
            if mine.dtype.kind == "f":
                np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(mine, other)
