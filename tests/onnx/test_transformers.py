"""Transformer layers written out in ONNX nodes agree with onnxruntime, and are few kernels."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import helper

import tallow
from tallow.plugins import backend
from tallow.stages import lower, prepare

HEADS, SIZE = 3, 16
WIDTH = HEADS * SIZE


def constants(rng):
    """Weights, biases and the shapes and numbers that the nodes read."""
    made = {"heads": np.array([0, 0, HEADS, SIZE]), "joined": np.array([0, 0, WIDTH])}
    for name in "qkvo":
        made[f"w{name}"] = rng.standard_normal((WIDTH, WIDTH)).astype("f4") / 8
        made[f"b{name}"] = rng.standard_normal(WIDTH).astype("f4")
    made["up"] = rng.standard_normal((WIDTH, 4 * WIDTH)).astype("f4") / 8
    made["down"] = rng.standard_normal((4 * WIDTH, WIDTH)).astype("f4") / 8
    made |= {"scale": np.float32(SIZE**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    made |= {"root": np.float32(2**0.5), "least": np.float32(-3.4e38), "zero": np.float32(0)}
    made |= {"cube": np.float32(3), "c": np.float32(0.044715), "width": np.float32((2 / np.pi) ** 0.5)}
    made |= {"g": rng.standard_normal(WIDTH).astype("f4"), "h": rng.standard_normal(WIDTH).astype("f4")}
    return made


def node(op, *names, **attributes):
    *inputs, output = names
    return helper.make_node(op, inputs, [output], **attributes)


def attention_nodes(mask):
    nodes = []
    for name in "qkv":
        order = (0, 2, 3, 1) if name == "k" else (0, 2, 1, 3)
        nodes += [
            node("MatMul", "n", f"w{name}", f"{name}0"),
            node("Add", f"b{name}", f"{name}0", f"{name}1"),
            node("Reshape", f"{name}1", "heads", f"{name}2"),
            node("Transpose", f"{name}2", name, perm=order),
        ]
    nodes += [node("MatMul", "q", "k", "s0"), node("Div", "s0", "scale", "s1")]
    nodes += {
        "none": [node("Identity", "s1", "s2")],
        "added": [node("Where", "mask", "zero", "least", "bias"), node("Add", "s1", "bias", "s2")],
        "where": [node("Where", "mask", "s1", "least", "s2")],
    }[mask]
    return [
        *nodes,
        node("Softmax", "s2", "p", axis=-1),
        node("MatMul", "p", "v", "a0"),
        node("Transpose", "a0", "a1", perm=(0, 2, 1, 3)),
        node("Reshape", "a1", "joined", "a2"),
        node("MatMul", "a2", "wo", "a3"),
        node("Add", "a3", "bo", "a4"),
        node("Add", "a4", "x", "r"),
    ]


def feed_forward_nodes(gelu):
    inner = {
        "erf": [
            node("Div", "u", "root", "u1"),
            node("Erf", "u1", "u2"),
        ],
        "tanh": [
            node("Pow", "u", "cube", "u4"),
            node("Mul", "u4", "c", "u5"),
            node("Add", "u", "u5", "u6"),
            node("Mul", "u6", "width", "u7"),
            node("Tanh", "u7", "u2"),
        ],
    }[gelu]
    return [
        node("LayerNormalization", "r", "g", "h", "m", axis=-1),
        node("MatMul", "m", "up", "u"),
        *inner,
        node("Add", "u2", "one", "u3"),
        node("Mul", "u", "u3", "u8"),
        node("Mul", "u8", "half", "u9"),
        node("MatMul", "u9", "down", "d"),
        node("Add", "d", "r", "y"),
    ]


LAYER = ["layer_norm", "cpu.matmul+add", "cpu.attention", "cpu.matmul+add+add", "layer_norm"]


@pytest.mark.parametrize("gelu", ["erf", "tanh"])
@pytest.mark.parametrize("mask", ["none", "added", "where"])
def test_a_layer_agrees_with_onnxruntime(save_onnx, rng, mask, gelu):
    norm = node("LayerNormalization", "x", "g", "h", "n", axis=-1)
    inputs = [("x", "FLOAT", ["b", "s", WIDTH])]
    inputs += [] if mask == "none" else [("mask", "BOOL", ["b", 1, 1, "s"])]
    path = save_onnx(
        [norm, *attention_nodes(mask), *feed_forward_nodes(gelu)],
        inputs,
        [("y", "FLOAT", ["b", "s", WIDTH])],
        constants(rng),
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    executable = tallow.compile(path)
    for batch, length in ((1, 5), (2, 70)):
        feed = {"x": rng.standard_normal((batch, length, WIDTH)).astype("f4")}
        if mask != "none":
            feed["mask"] = rng.random((batch, 1, 1, length)) < 0.8
            feed["mask"][..., 0] = True
        (want,) = session.run(None, feed)
        np.testing.assert_allclose(executable.run(feed)["y"], want, rtol=1e-4, atol=1e-4)
    target = backend("cpu").target()
    program = lower(prepare(tallow.load(path).graph, backend("cpu"), target), backend("cpu"), target).program
    steps = [step.label for step in program.steps if not step.label.startswith("select")]
    assert steps[:5] == LAYER
    assert len(steps) == 7 and steps[5].startswith("cpu.matmul+mul") and steps[6] == "cpu.matmul+add"
