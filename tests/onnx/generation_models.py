"""Tiny random decoders and encoders that obey the contracts of onnxruntime's generation operators."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

MS = "com.microsoft"
LAYERS, HEADS, HEAD, VOCABULARY, FEATURES = 2, 2, 4, 23, 5
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
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
    """A decoder like GPT-2's: as gpt_graph."""
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
    return gpt_graph(w, vocabulary, shared)


def gpt_graph(w: Writer, vocabulary: int, shared: bool):
    """The graph of a decoder like GPT-2's, and the weights that `shared` leaves to the graph around it."""
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


def fused_gpt(seed: int = 0):
    """A decoder as onnxruntime's optimiser writes GPT-2: attention with its caches is one operator."""
    w = Writer(seed, "fused_")

    def normal(x: str) -> str:
        scale, shift = w.random_weight(HIDDEN), w.random_weight(HIDDEN, scale=0.1)
        return w("LayerNormalization", x, scale, shift, epsilon=1e-5)

    x = w("Gather", w.random_weight(VOCABULARY, HIDDEN), "input_ids")
    x = w("Add", x, w("Gather", w.random_weight(64, HIDDEN, scale=0.5), "position_ids"))
    for layer in range(LAYERS):
        weights = (
            w.random_weight(HIDDEN, 3 * HIDDEN, scale=HIDDEN**-0.5),
            w.random_weight(3 * HIDDEN, scale=0.1),
        )
        operands, name = [normal(x), *weights, "attention_mask", f"past_{layer}"], f"attended_{layer}"
        attributes = {"num_heads": HEADS, "unidirectional": 1}
        results = [name, f"present_{layer}"]
        w.nodes.append(helper.make_node("Attention", operands, results, domain=MS, **attributes))
        x = w("Add", x, w.linear(name, HIDDEN, HIDDEN))
        wide = w("FastGelu", w.linear(normal(x), HIDDEN, 16), domain=MS)
        x = w("Add", x, w.linear(wide, 16, HIDDEN))
    w("MatMul", normal(x), w.random_weight(HIDDEN, VOCABULARY), name="logits")
    return gpt_graph(w, VOCABULARY, False)


def caches(time: str, part: str) -> list[str]:
    return [f"{time}_{what}_{part}_{layer}" for layer in range(LAYERS) for what in ("key", "value")]


def decode(w: Writer, ids: str, mask: str, pasts: list[str] | None, crosses: list[str], name: str) -> None:
    """A decoder of tokens that reads an encoder's keys and values; gives `name` and the caches it has grown."""
    x, rows = w("Gather", w.random_weight(VOCABULARY, HIDDEN), ids), w.length(ids, 1)
    columns = rows if pasts is None else w("Add", rows, w.length(pasts[0], 2))
    later = w.causal(rows, columns)
    padding = w.masked(mask) if mask else w.constant(np.float32(0))
    for layer, present in enumerate(zip(*[iter(caches("present", "self"))] * 2, strict=True)):
        q, *own = (w.heads(w.linear(x, HIDDEN, HIDDEN)) for _ in range(3))
        for place, result in enumerate(present):
            before = [] if pasts is None else [pasts[2 * layer + place]]
            own[place] = w("Concat", *before, own[place], axis=2, name=result)
        x = w("Add", x, w.linear(w.attend(q, *own, later), HIDDEN, HIDDEN))
        q, (key, value) = w.heads(w.linear(x, HIDDEN, HIDDEN)), crosses[2 * layer : 2 * layer + 2]
        x = w.feed_forward(w("Add", x, w.linear(w.attend(q, key, value, padding), HIDDEN, HIDDEN)))
    w("MatMul", x, w.random_weight(HIDDEN, VOCABULARY, scale=2.0), name=name)


OWN, OTHER = ["batch", HEADS, "past", HEAD], ["batch", HEADS, "length", HEAD]
STATES = ["batch", "length", HIDDEN]


def t5_decoder(
    seed: int = 0, hidden: bool = False, whole: bool = False, mask: str = "encoder_attention_mask"
):
    """A decoder like T5's. hidden: it takes encoder_hidden_states; whole: it takes all tokens so far."""
    w = Writer(seed, "decoder_")
    ids = "input_ids"
    if whole:  # one that looks at the last of them alone, where all that came before is in the caches
        ids = w("Slice", ids, w.whole(-1), w.whole(2**31), w.whole(1))
    decode(w, ids, mask, caches("past", "self"), caches("past", "cross"), "plain")
    extra = (
        w("ReduceMean", "encoder_hidden_states", w.whole(1))
        if hidden
        else w.constant(np.zeros((1, 1, HIDDEN), "f4"))
    )
    w("Add", "plain", w("MatMul", extra, w.random_weight(HIDDEN, VOCABULARY)), name="logits")
    inputs = [
        info("input_ids", WHOLE, ["batch", "sequence" if whole else 1]),
        *[info(mask, WHOLE, ["batch", "length"])] * bool(mask),
        *[info("encoder_hidden_states", F, STATES)] * hidden,
        *(info(n, F, OWN) for n in caches("past", "self")),
        *(info(n, F, OTHER) for n in caches("past", "cross")),
    ]
    outputs = [
        info("logits", F, ["batch", 1, VOCABULARY]),
        *(info(n, F, OWN) for n in caches("present", "self")),
    ]
    return helper.make_graph(w.nodes, "decoder", inputs, outputs, w.weights)


def t5_encoder(seed: int = 0, starts: bool = False):
    """An encoder like T5's. starts: it makes the decoder's first step as well."""
    w = Writer(seed, "encoder_")
    x, mask = w("Gather", w.random_weight(VOCABULARY, HIDDEN), "encoder_input_ids"), "encoder_attention_mask"
    q, k, v = (w.heads(w.linear(x, HIDDEN, HIDDEN)) for _ in range(3))
    inputs = [info("encoder_input_ids", WHOLE, ["batch", "length"]), info(mask, WHOLE, ["batch", "length"])]
    return encoder(w, w.feed_forward(w.attend(q, k, v, w.masked(mask))), mask, inputs, starts)


def encoder(w: Writer, states: str, mask: str, inputs: list, starts: bool):
    """An encoder's graph when its states are written."""
    w("Identity", states, name="encoder_hidden_states")
    for name in caches("present", "cross"):
        w("Identity", w.heads(w.linear(states, HIDDEN, HIDDEN)), name=name)
    outputs = [info(n, F, OTHER) for n in caches("present", "cross")]
    if starts:
        decode(w, "decoder_input_ids", mask, None, caches("present", "cross"), "logits")
        inputs.append(info("decoder_input_ids", WHOLE, ["batch", "sequence"]))
        own = [info(n, F, OWN) for n in caches("present", "self")]
        logits = info("logits", F, ["batch", "sequence", VOCABULARY])
        outputs = [logits, info("encoder_hidden_states", F, STATES), *own, *outputs]
    return helper.make_graph(w.nodes, "encoder", inputs, outputs, w.weights)


def whisper_encoder(seed: int = 0):
    """An encoder like Whisper's, of sound [batch, FEATURES, frames]."""
    w = Writer(seed, "encoder_")
    states = w.feed_forward(w.linear(w("Transpose", "encoder_input_ids", perm=[0, 2, 1]), FEATURES, HIDDEN))
    return encoder(w, states, "", [info("encoder_input_ids", F, ["batch", FEATURES, "length"])], True)


def whisper_decoder(seed: int = 0, hidden: bool = False):
    """A decoder like Whisper's, which has no masks."""
    return t5_decoder(seed, hidden, mask="")


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
    known = {"no_speech_probs": info("no_speech_probs", F, ["batch"])}  # onnxruntime does not infer it
    results = [known.get(n, onnx.ValueInfoProto(name=n)) for n in outputs if n]
    graph = helper.make_graph([node], "g", ports, results, tensors)
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
