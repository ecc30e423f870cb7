"""Tiny random decoders and encoders that obey the contracts of onnxruntime's generation operators."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

MS = "com.microsoft"
LAYERS, HEADS, HEAD, VOCABULARY = 2, 2, 4, 23
HIDDEN = HEADS * HEAD
F, WHOLE = TensorProto.FLOAT, TensorProto.INT32


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


class Writer:
    """Nodes and weights of one graph; every method gives the name of its result."""

    def __init__(self, seed: int, prefix: str = ""):
        self.nodes, self.weights, self.prefix = [], [], prefix
        self.random = np.random.default_rng(seed)

    def __call__(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes):
        names = [name or f"{self.prefix}v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array) -> str:
        name = f"{self.prefix}w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def random_weight(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((self.random.standard_normal(shape) * scale).astype(np.float32))

    def whole(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def linear(self, x: str, n: int, m: int) -> str:
        product = self("MatMul", x, self.random_weight(n, m, scale=n**-0.5))
        return self("Add", product, self.random_weight(m, scale=0.1))

    def heads(self, x: str) -> str:
        """[B, S, hidden] as [B, heads, S, head]."""
        split = self("Reshape", x, self.whole(0, 0, HEADS, HEAD))
        return self("Transpose", split, perm=[0, 2, 1, 3])

    def attend(self, q: str, k: str, v: str, bias: str) -> str:
        """Attention of split heads, with a bias on the scores; [B, S, hidden]."""
        scores = self("MatMul", q, self("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self("Add", self("Mul", scores, self.constant(np.float32(HEAD**-0.5))), bias)
        mixed = self("MatMul", self("Softmax", scores, axis=-1), v)
        return self("Reshape", self("Transpose", mixed, perm=[0, 2, 1, 3]), self.whole(0, 0, HIDDEN))

    def masked(self, mask: str) -> str:
        """A mask of ones and zeros [B, T] as a bias of scores [B, 1, 1, T]."""
        kept = self("Unsqueeze", self("Cast", mask, to=F), self.whole(1, 2))
        return self("Mul", self("Sub", kept, self.constant(np.float32(1))), self.constant(np.float32(1e4)))

    def causal(self, rows: str, columns: str) -> str:
        """A bias that hides what comes after, for the last `rows` of `columns` positions."""
        column = self("Range", self.constant(np.int64(0)), columns, self.constant(np.int64(1)))
        row = self("Range", self("Sub", columns, rows), columns, self.constant(np.int64(1)))
        later = self("Less", self("Unsqueeze", row, self.whole(1)), self("Unsqueeze", column, self.whole(0)))
        return self("Mul", self("Cast", later, to=F), self.constant(np.float32(-1e4)))

    def length(self, x: str, axis: int) -> str:
        return self("Gather", self("Shape", x), self.constant(np.int64(axis)))

    def feed_forward(self, x: str) -> str:
        return self("Add", x, self.linear(self("Tanh", self.linear(x, HIDDEN, 16)), 16, HIDDEN))


def gpt(
    seed: int = 0,
    sharpness: float = 2.0,
    past: str = "past",
    shared: bool = False,
    vocabulary: int = VOCABULARY,
):
    """A decoder like GPT-2's: graph, and the weights that `shared` leaves to the graph around it."""
    w = Writer(seed, "gpt_")
    rows, columns = w.length("input_ids", 1), w.length("attention_mask", 1)
    words = w("Gather", w.random_weight(vocabulary, HIDDEN), "input_ids")
    x = w("Add", words, w("Gather", w.random_weight(64, HIDDEN, scale=0.5), "position_ids"))
    bias = w("Add", w.masked("attention_mask"), w.causal(rows, columns))
    for layer in range(LAYERS):
        q, k, v = (w.heads(w.linear(x, HIDDEN, HIDDEN)) for _ in range(3))
        old = w("Split", f"past_{layer}", outputs=2, axis=0, num_outputs=2)
        k, v = (
            w("Concat", w("Squeeze", part, w.whole(0)), new, axis=2)
            for part, new in zip(old, (k, v), strict=True)
        )
        stacked = [w("Unsqueeze", part, w.whole(0)) for part in (k, v)]
        w("Concat", *stacked, axis=0, name=f"present_{layer}")
        x = w.feed_forward(w("Add", x, w.linear(w.attend(q, k, v, bias), HIDDEN, HIDDEN)))
    w("MatMul", x, w.random_weight(HIDDEN, vocabulary, scale=sharpness), name="logits")
    cache = [2, "batch", HEADS, "past", HEAD]
    inputs = [
        info("input_ids", WHOLE, ["batch", "sequence"]),
        info("position_ids", WHOLE, ["batch", "sequence"]),
        info("attention_mask", WHOLE, ["batch", "total"]),
        *(info(f"past_{n}", F, cache) for n in range(LAYERS)),
    ]
    present = [2, "batch", HEADS, "total", HEAD]
    outputs = [
        info("logits", F, ["batch", "sequence", vocabulary]),
        *(info(f"present_{n}", F, present) for n in range(LAYERS)),
    ]
    graph = helper.make_graph(w.nodes, "gpt", inputs, outputs, [] if shared else w.weights)
    return graph, w.weights if shared else []


def model(op: str, inputs: dict, outputs: list, weights=(), constants=(), **attributes):
    """A model of one generation operator. inputs: name -> array, or None where it is left out; those in
    `constants` are initializers. Batches and lengths of the others are symbolic."""
    node = helper.make_node(
        op,
        [n if a is not None else "" for n, a in inputs.items()],
        outputs,
        domain=MS,
        name="it",
        **attributes,
    )
    ports, tensors = [], list(weights)
    for name, array in inputs.items():
        if array is None:
            continue
        if name in constants:
            tensors.append(onnx.numpy_helper.from_array(array, name))
            continue
        shape = [f"{name}_{a}" if array.ndim > 1 else d for a, d in enumerate(array.shape)]
        ports.append(info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    results = [onnx.ValueInfoProto(name=n) for n in outputs]
    graph = helper.make_graph([node], "g", ports, results, tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
