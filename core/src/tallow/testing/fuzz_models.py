"""Small models of each format, with the structures that a reader has to take apart: the seeds of fuzzing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import tallow
from tallow.builder import Builder
from tallow.testing.onnx_nodes import cases

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _model(nodes, inputs, outputs, initializers=(), functions=(), **arrays) -> onnx.ModelProto:
    ports = [[helper.make_tensor_value_info(*port) for port in group] for group in (inputs, outputs)]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", *ports, [*tensors, *initializers])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def _network() -> onnx.ModelProto:
    """Convolution, shape arithmetic, product and softmax."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", ["m"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Reshape", ["m", "target"], ["flat"]),
        node("Gemm", ["flat", "w", "b"], ["g"], transB=1),
        node("Softmax", ["g"], ["y"], axis=1),
    ]
    rng = np.random.default_rng(0)
    arrays = {
        "k": rng.standard_normal((4, 2, 3, 3)).astype("f4"),
        "w": rng.standard_normal((3, 16)).astype("f4"),
        "b": np.zeros(3, "f4"),
        "zero": np.array([0]),
        "rest": np.array([-1]),
    }
    return _model(nodes, [("x", FLOAT, ["n", 2, 4, 4])], [("y", FLOAT, ["n", 3])], **arrays)


def _control() -> onnx.ModelProto:
    """A branch whose arms have nodes of their own, a loop and a function that calls another."""
    node = helper.make_node
    arms = [
        helper.make_graph(
            [node(op, ["x"], [f"{op}.y"])], op, [], [helper.make_tensor_value_info(f"{op}.y", FLOAT, [3])]
        )
        for op in ("Neg", "Exp")
    ]
    ports = [("i", INT64, []), ("go", BOOL, []), ("acc", FLOAT, [3])]
    body = helper.make_graph(
        [
            node("Add", ["acc", "p"], ["next"]),
            node("Identity", ["go"], ["on"]),
            node("Identity", ["next"], ["scan"]),
        ],
        "body",
        [helper.make_tensor_value_info(*port) for port in ports],
        [
            helper.make_tensor_value_info(*port)
            for port in (("on", BOOL, []), ("next", FLOAT, [3]), ("scan", FLOAT, [3]))
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opsets)
    calls = [node("Twice", ["a"], ["t"], domain="own"), node("Relu", ["t"], ["b"])]
    outer = helper.make_function("own", "More", ["a"], ["b"], calls, opsets)
    nodes = [
        node("If", ["c"], ["p"], name="branch", then_branch=arms[0], else_branch=arms[1]),
        node("Loop", ["trips", "", "x"], ["last", "all"], name="loop", body=body),
        node("More", ["last"], ["y"], domain="own"),
    ]
    inputs = [("x", FLOAT, [3]), ("c", BOOL, [])]
    outputs = [("y", FLOAT, [3]), ("all", FLOAT, ["t", 3])]
    return _model(nodes, inputs, outputs, functions=(inner, outer), trips=np.array(3))


def _external(folder: Path) -> onnx.ModelProto:
    """A tensor in another file, a sparse one, strings, and sizes that the run tells."""
    np.arange(6, dtype="f4").tofile(folder / "w.bin")
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", "offset": "0", "length": "24"}.items():
        tensor.external_data.add(key=key, value=value)
    node = helper.make_node
    nodes = [
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.array([[0, 1], [1, 0]]))),
        node("GatherND", ["x", "k"], ["g"]),
        node("NonZero", ["x"], ["z"]),
        node("MatMul", ["x", "w"], ["y"]),
        node("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"b"])),
        node("Slice", ["y", "from", "to"], ["part"]),
    ]
    outputs = [("y", FLOAT, [2, 3]), ("z", INT64, [2, "k"]), ("g", FLOAT, [2]), ("part", FLOAT, [1, 3])]
    where = {"from": np.array([0]), "to": np.array([1])}
    return _model(nodes, [("x", FLOAT, [2, 2])], outputs, [tensor], **where)


def onnx_models(folder: Path, nodes: bool) -> list[onnx.ModelProto]:
    """Models to damage, with ONNX's own node tests if asked for; external data is put into the folder."""
    models = [_network(), _control(), _external(folder)]
    if nodes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models += [case.model for case in cases("node") if case.model.ByteSize() < 4000]
    return models


def safetensors_files() -> tuple[dict, dict[str, np.ndarray]]:
    """Configuration and tensors of a BERT with one layer of width 4."""
    config = {"model_type": "bert", "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "gelu"}
    shapes = {f"embeddings.{t}_embeddings": (6, 4) for t in ("word", "position", "token_type")}
    layer = "encoder.layer.0"
    for name in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ):
        shapes[f"{layer}.{name}"] = (4, 4)
    shapes |= {f"{layer}.intermediate.dense": (8, 4), f"{layer}.output.dense": (4, 8)}
    norms = ("embeddings.LayerNorm", f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm")
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    tensors |= {
        f"{n}.bias": np.zeros(s[0], "f4") for n, s in shapes.items() if not n.startswith("embeddings")
    }
    tensors |= {f"{n}.{part}": np.ones(4, "f4") for n in norms for part in ("weight", "bias")}
    return config, tensors


def tallow_file(folder: Path) -> bytes:
    """An artifact with constants that are indices."""
    b = Builder("seed")
    x = b.input("x", "f32", ["n", 4])
    picked = b.gather(x, b.constant(np.array([3, 0, 1], np.int64)), axis=1)
    y = b.softmax(b.matmul(picked, b.constant(np.ones((3, 5), "f4"))), axis=1)
    path = tallow.compile(b.finish({"y": y, "found": b.nonzero(x, defines=("k",))})).save(
        folder / "seed.tallow", True
    )
    return path.read_bytes()
