"""BERT encoders, with the pooling of sentence encoders (Devlin et al., 2018; Reimers and Gurevych, 2019)."""

from __future__ import annotations

import numpy as np

from tallow.builder import Builder
from tallow.dtype import f32, i64
from tallow.errors import ImportFailed
from tallow.graph import Graph, Value
from tallow_importers.safetensors.layers import embedding, layer_norm, linear, self_attention
from tallow_importers.safetensors.weights import Weights

ACTIVATIONS = {
    "gelu": ("gelu", {"approximate": "none"}),
    "gelu_new": ("gelu", {"approximate": "tanh"}),
    "relu": ("relu", {}),
}


def build(weights: Weights, config: dict, batch="batch", steps="sequence") -> Graph:
    """Inputs: input_ids and attention_mask, i64 [batch, sequence]. Results: last_hidden_state
    [batch, sequence, hidden] and sentence_embedding [batch, hidden], the mean over the mask,
    of length 1 when the folder says so."""
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ImportFailed(
            f"bert: {config['position_embedding_type']} positions are not supported: expected absolute"
        )
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise ImportFailed(
            f"bert: unknown activation {config['hidden_act']!r}: expected {', '.join(ACTIVATIONS)}"
        )
    prefix = "bert." if "bert.embeddings.LayerNorm.weight" in weights else ""
    epsilon = config.get("layer_norm_eps", 1e-12)
    b = Builder("bert")
    ids, mask = b.input("input_ids", i64, [batch, steps]), b.input("attention_mask", i64, [batch, steps])
    keep = b.cast(mask, dtype=f32)
    rows, length = ids.shape
    far = float(np.finfo(np.float32).min)
    bias = b.mul(b.add(b.neg(keep), 1.0), far)
    bias = b.reshape(bias, shape=(rows, 1, 1, length))
    x = _embed(b, ids, weights, prefix, epsilon)
    for number in range(config["num_hidden_layers"]):
        x = _layer(b, x, weights, f"{prefix}encoder.layer.{number}", config, epsilon, bias)
    weight = b.reshape(keep, shape=(rows, length, 1))
    total = b.reduce(b.mul(x, weight), function="add", axes=(1,), keepdims=False)
    count = b.max(b.reduce(weight, function="add", axes=(1,), keepdims=False), 1e-9)
    sentence = b.div(total, count)
    if config.get("normalize"):
        length = b.sqrt(b.reduce(b.mul(sentence, sentence), function="add", axes=(1,), keepdims=True))
        sentence = b.div(sentence, b.max(length, 1e-12))
    return b.finish({"last_hidden_state": x, "sentence_embedding": sentence})


def _embed(b: Builder, ids: Value, weights: Weights, prefix: str, epsilon: float) -> Value:
    words = embedding(b, ids, weights, f"{prefix}embeddings.word_embeddings")
    places = b.iota(shape=(ids.shape[1],), axis=0, dtype=i64)
    positions = embedding(b, places, weights, f"{prefix}embeddings.position_embeddings")
    first_type = b.constant(weights[f"{prefix}embeddings.token_type_embeddings.weight"][0])
    total = b.add(b.add(words, first_type), positions)
    return layer_norm(b, total, weights, f"{prefix}embeddings.LayerNorm", epsilon)


def _layer(
    b: Builder, x: Value, weights: Weights, name: str, config: dict, epsilon: float, bias: Value
) -> Value:
    attended = self_attention(b, x, weights, f"{name}.attention.self", config["num_attention_heads"], bias)
    attended = linear(b, attended, weights, f"{name}.attention.output.dense")
    x = layer_norm(b, b.add(attended, x), weights, f"{name}.attention.output.LayerNorm", epsilon)
    op, attributes = ACTIVATIONS[config.get("hidden_act", "gelu")]
    wide = b.emit(op, linear(b, x, weights, f"{name}.intermediate.dense"), **attributes)
    return layer_norm(
        b,
        b.add(linear(b, wide, weights, f"{name}.output.dense"), x),
        weights,
        f"{name}.output.LayerNorm",
        epsilon,
    )
