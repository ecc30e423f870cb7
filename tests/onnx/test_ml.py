"""Operators of ai.onnx.ml against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import tallow

DOMAIN = "ai.onnx.ml"


def forest(rng, trees: int, depth: int, features: int, targets: int) -> dict:
    """Attributes of full binary trees with random thresholds."""
    a: dict[str, list] = {
        k: [] for k in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    t: dict[str, list] = {k: [] for k in ("treeids", "nodeids", "ids", "weights")}
    inner, size = 2**depth - 1, 2 ** (depth + 1) - 1
    for tree in range(trees):
        for node in range(size):
            leaf = node >= inner
            row = (
                tree,
                node,
                int(rng.integers(features)),
                float(rng.normal()),
                "LEAF" if leaf else "BRANCH_LEQ",
            )
            children = (0, 0) if leaf else (2 * node + 1, 2 * node + 2)
            for key, value in zip(a, (*row, *children), strict=True):
                a[key].append(value)
            if leaf:
                for key, value in zip(
                    t, (tree, node, int(rng.integers(targets)), float(rng.normal())), strict=True
                ):
                    t[key].append(value)
    return {f"nodes_{k}": v for k, v in a.items()} | {f"target_{k}": v for k, v in t.items()}


CASES = {
    "Scaler": lambda rng: {"offset": [0.5, 1.0, -2.0], "scale": [2.0, 0.5, 1.0]},
    "Normalizer": lambda rng: {"norm": "L2"},
    "Binarizer": lambda rng: {"threshold": 0.25},
    "LinearRegressor": lambda rng: {
        "coefficients": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "intercepts": [0.5, -0.5],
        "targets": 2,
    },
    "TreeEnsembleRegressor": lambda rng: {
        **forest(rng, 5, 3, 3, 2),
        "n_targets": 2,
        "base_values": [0.5, -1.0],
    },
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnxruntime(name, rng, tmp_path):
    node = helper.make_node(name, ["x"], ["y"], domain=DOMAIN, **CASES[name](rng))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", None]) for n in "xy"]
    ports[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 3)]
    model = helper.make_model(
        helper.make_graph([node], "g", ports[:1], ports[1:]), opset_imports=imports, ir_version=9
    )
    onnx.save(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    run = tallow.compile(tmp_path / "m.onnx")
    for rows in (1, 17):
        x = rng.standard_normal((rows, 3)).astype("f4")
        np.testing.assert_allclose(run(x), session.run(None, {"x": x})[0], rtol=1e-5, atol=1e-6)
