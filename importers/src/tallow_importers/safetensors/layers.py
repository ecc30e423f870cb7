"""Layers over the Graph builder: small functions from values and named weights to values."""

from __future__ import annotations

import math

from tallow.builder import Builder
from tallow.graph import Value
from tallow_importers.safetensors.weights import Weights


def linear(b: Builder, x: Value, weights: Weights, name: str) -> Value:
    """x [..., in] times `name.weight` [out, in], plus `name.bias` if there is one."""
    w = b.transpose(b.constant(weights[f"{name}.weight"], f"{name}.weight"), permutation=(1, 0))
    y = b.matmul(x, w)
    return b.add(y, b.constant(weights[f"{name}.bias"])) if f"{name}.bias" in weights else y


def layer_norm(b: Builder, x: Value, weights: Weights, name: str, epsilon: float) -> Value:
    """Normalised over the last axis, scaled by `name.weight` and shifted by `name.bias`."""
    scale, shift = (b.constant(weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return b.layer_norm(x, scale, shift, axis=x.rank - 1, epsilon=epsilon)


def embedding(b: Builder, ids: Value, weights: Weights, name: str) -> Value:
    """Rows of `name.weight` picked by ids [...]."""
    return b.gather(b.constant(weights[f"{name}.weight"], f"{name}.weight"), ids, axis=0)


def split_heads(b: Builder, x: Value, heads: int) -> Value:
    """[B, S, heads * D] as [B, heads, S, D]."""
    batch, steps, width = x.shape
    return b.transpose(b.reshape(x, shape=(batch, steps, heads, width // heads)), permutation=(0, 2, 1, 3))


def join_heads(b: Builder, x: Value) -> Value:
    """[B, heads, S, D] as [B, S, heads * D]."""
    batch, heads, steps, width = x.shape
    return b.reshape(b.transpose(x, permutation=(0, 2, 1, 3)), shape=(batch, steps, heads * width))


def self_attention(b: Builder, x: Value, weights: Weights, name: str, heads: int, bias: Value) -> Value:
    """Multi-head attention of x with itself; `bias` is added to the scores."""
    q, k, v = (
        split_heads(b, linear(b, x, weights, f"{name}.{part}"), heads) for part in ("query", "key", "value")
    )
    return join_heads(b, b.attention(q, k, v, bias, scale=1 / math.sqrt(q.shape[3]), causal=False))
