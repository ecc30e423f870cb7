"""What classifiers of ai.onnx.ml have in common: post transforms of scores, and labels."""

from __future__ import annotations

import math

import numpy as np

from tallow.dtype import DType, f32, f64, i64
from tallow.graph import Value
from tallow.ops.strings import objects
from tallow_importers.onnx.context import Context, NodeView

ML = "ai.onnx.ml"


def floats(context: Context, node: NodeView, name: str, dtype: DType = f32) -> np.ndarray | None:
    """An attribute of numbers, as a list or as a tensor; None if it is absent or empty."""
    tensor = node.attribute(f"{name}_as_tensor")
    values = node.attribute(name) if tensor is None else context.tensor(tensor).reshape(-1)
    return None if values is None or len(values) == 0 else np.asarray(values, dtype.numpy)


def features(context: Context, x: Value) -> Value:
    """Numbers of any dtype as floats; doubles stay doubles."""
    return x if x.dtype in (f32, f64) else context.builder.cast(x, dtype=f32)


def class_labels(node: NodeView, integers: str) -> np.ndarray:
    """The labels of a classifier, integers or strings."""
    strings = node.attribute("classlabels_strings")
    return objects(strings, (-1,)) if strings else np.array(node.attribute(integers) or [], np.int64)


def labelled(context: Context, labels: np.ndarray, place: Value) -> Value:
    """The label at each place."""
    return context.builder.gather(context.builder.constant(labels), place, axis=0)


def best(context: Context, scores: Value) -> Value:
    """The first column with the greatest score, i64 [N]."""
    return context.builder.argmax(scores, axis=1, keepdims=False, last=False)


def transformed(context: Context, scores: Value, kind: str) -> Value:
    """Scores [N, C] after a post transform."""
    b = context.builder
    match kind:
        case "NONE":
            return scores
        case "LOGISTIC":
            return b.sigmoid(scores)
        case "SOFTMAX":
            return b.softmax(scores, axis=1)
        case "SOFTMAX_ZERO":
            return _softmax_zero(context, scores)
        case "PROBIT":
            return _probit(context, scores)
    context.unsupported(f"post_transform {kind!r}")


def _softmax_zero(context: Context, scores: Value) -> Value:
    """Softmax over the scores that are not 0."""
    b = context.builder
    top = b.reduce(scores, function="max", axes=(1,), keepdims=True)
    small = b.le(b.abs(scores), 1e-7)
    powers = b.select(small, b.mul(scores, b.exp(b.neg(top))), b.exp(b.sub(scores, top)))
    total = b.reduce(powers, function="add", axes=(1,), keepdims=True)
    return b.select(b.eq(total, 0), b.scalar(0.5, scores.dtype), b.div(powers, total))


def _probit(context: Context, p: Value, a: float = 0.147) -> Value:
    """The normal quantile by Winitzki's approximation of the inverse error function."""
    b = context.builder
    x = b.sub(b.mul(p, 2.0), 1.0)
    log = b.log(b.mul(b.add(b.neg(x), 1.0), b.add(x, 1.0)))
    middle = b.add(b.mul(log, 0.5), 2 / (math.pi * a))
    root = b.sub(b.sqrt(b.sub(b.mul(middle, middle), b.mul(log, 1 / a))), middle)
    return b.mul(b.mul(b.sqrt(root), b.sign(x)), math.sqrt(2))


def both_scores(context: Context, score: Value, kind: str, complement: bool) -> Value:
    """One score [N, 1] of two classes as a column for each: its complement to 1 or its opposite before it."""
    b = context.builder
    if kind == "PROBIT":
        context.unsupported("post_transform PROBIT of one score for two classes")
    if kind == "LOGISTIC":
        return b.concat(b.sigmoid(b.neg(score)), b.sigmoid(score), axis=1)
    other = b.add(b.neg(score), 1.0) if complement else b.neg(score)
    return b.concat(other, score, axis=1)


def second_when_above(context: Context, score: Value, limit: float) -> Value:
    """1 where a score [N, 1] is above a limit, else 0: i64 [N]."""
    b = context.builder
    return b.cast(b.gt(b.reshape(score, shape=(score.shape[0],)), limit), dtype=i64)
