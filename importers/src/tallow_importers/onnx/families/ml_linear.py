"""Linear models and support vector machines of ai.onnx.ml, as products of tensors."""

from __future__ import annotations

import numpy as np

from tallow.dtype import f32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.ml_scores import (
    ML,
    best,
    both_scores,
    class_labels,
    features,
    labelled,
    second_when_above,
    transformed,
)
from tallow_importers.onnx.registry import onnx_op


def _constant(context: Context, values, dtype, shape=None) -> Value:
    array = np.asarray(values, np.float64).astype(dtype.numpy)
    return context.builder.constant(array if shape is None else array.reshape(shape))


def _rows(context: Context, x: Value) -> Value:
    """A single row as a matrix of one."""
    return context.builder.reshape(x, shape=(1, *x.shape)) if x.rank == 1 else x


def _linear(context: Context, node: NodeView, columns: int) -> Value:
    x = _rows(context, features(context, node.input(0)))
    weights = np.array(node.attribute("coefficients")).reshape(columns, -1).T
    y = context.builder.matmul(x, _constant(context, weights, x.dtype))
    offsets = node.attribute("intercepts")
    return context.builder.add(y, _constant(context, offsets, x.dtype)) if offsets else y


@onnx_op("LinearRegressor", domain=ML)
def linear_regressor(context: Context, node: NodeView) -> Value:
    scores = _linear(context, node, node.attribute("targets", 1))
    scores = transformed(context, scores, node.attribute("post_transform", "NONE"))
    return context.builder.cast(scores, dtype=f32)


@onnx_op("LinearClassifier", domain=ML)
def linear_classifier(context: Context, node: NodeView):
    b, labels = context.builder, class_labels(node, "classlabels_ints")
    kind = node.attribute("post_transform", "NONE")
    columns = len(node.attribute("intercepts") or labels)
    if columns == 1 and len(labels) != 2:
        context.unsupported(f"one column of coefficients for {len(labels)} classes")
    scores = _linear(context, node, columns)
    if columns == 1:
        place = second_when_above(context, scores, 0.0)
        scores = both_scores(context, scores, kind, True)
    else:
        place = best(context, scores)
        scores = transformed(context, scores, kind)
    return labelled(context, labels, place), b.cast(scores, dtype=f32)


def _kernel(context: Context, node: NodeView, x: Value, vectors: np.ndarray, kind: str) -> Value:
    """The kernel of every row with every vector, [N, vectors]."""
    b, dtype = context.builder, x.dtype
    gamma, shift, degree = [*(node.attribute("kernel_params") or ()), 0.0, 0.0, 0.0][:3]
    if kind == "RBF":
        opened = b.reshape(x, shape=(x.shape[0], 1, x.shape[1]))
        apart = b.sub(opened, _constant(context, vectors[None], dtype))
        squared = b.reduce(b.mul(apart, apart), function="add", axes=(2,), keepdims=False)
        return b.exp(b.mul(squared, -gamma))
    product = b.matmul(x, _constant(context, vectors.T, dtype))
    if kind == "LINEAR":
        return product
    moved = b.add(b.mul(product, gamma), shift)
    if kind == "POLY":
        return b.pow(moved, degree)
    if kind == "SIGMOID":
        return b.tanh(moved)
    context.unsupported(f"kernel_type {kind!r}")


@onnx_op("SVMRegressor", domain=ML)
def svm_regressor(context: Context, node: NodeView) -> Value:
    b, x = context.builder, _rows(context, features(context, node.input(0)))
    coefficients, count = np.array(node.attribute("coefficients")), node.attribute("n_supports", 0)
    kind = node.attribute("kernel_type", "LINEAR")
    if count:
        vectors = np.array(node.attribute("support_vectors")).reshape(count, -1)
        values = _kernel(context, node, x, vectors, kind)
        scores = b.matmul(values, _constant(context, coefficients, x.dtype, (-1, 1)))
    else:
        scores = _kernel(context, node, x, coefficients.reshape(1, -1), kind)
    scores = b.add(scores, float(node.attribute("rho")[0]))
    if node.attribute("one_class", 0):
        scores = b.select(b.gt(scores, 0), b.scalar(1, x.dtype), b.scalar(-1, x.dtype))
    else:
        scores = transformed(context, scores, node.attribute("post_transform", "NONE"))
    return b.cast(scores, dtype=f32)


@onnx_op("SVMClassifier", domain=ML)
def svm_classifier(context: Context, node: NodeView):
    b, x = context.builder, _rows(context, features(context, node.input(0)))
    labels, kind = class_labels(node, "classlabels_ints"), node.attribute("post_transform", "NONE")
    sizes = node.attribute("vectors_per_class") or []
    if not sum(sizes):
        weights = np.array(node.attribute("coefficients")).reshape(max(len(labels), 1), -1)
        decisions = _kernel(context, node, x, weights, node.attribute("kernel_type", "LINEAR"))
        decisions = b.add(decisions, float(node.attribute("rho")[0]))
        scores, place = decisions, best(context, decisions)
    else:
        scores = decisions = _decisions(context, node, x, sizes)
        place = _elected(context, decisions, len(sizes))
        if node.attribute("prob_a"):
            scores = _probabilities(context, node, decisions, len(sizes))
    if scores.shape[1] == 1:
        scores = both_scores(context, scores, kind, complement=False)
    else:
        scores = transformed(context, scores, kind)
    return labelled(context, labels, place), b.cast(scores, dtype=f32)


def _pairs(classes: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(classes) for j in range(i + 1, classes)]


def _decisions(context: Context, node: NodeView, x: Value, sizes: list[int]) -> Value:
    """The decision value of each pair of classes, [N, pairs]."""
    b, total = context.builder, sum(sizes)
    starts = np.cumsum([0, *sizes])
    vectors = np.array(node.attribute("support_vectors")).reshape(total, -1)
    given = np.array(node.attribute("coefficients")).reshape(-1, total)
    pairs = _pairs(len(sizes))
    weights = np.zeros((total, len(pairs)))
    for column, (i, j) in enumerate(pairs):
        mine, other = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        weights[mine, column], weights[other, column] = given[j - 1, mine], given[i, other]
    values = _kernel(context, node, x, vectors, node.attribute("kernel_type", "LINEAR"))
    products = b.matmul(values, _constant(context, weights, x.dtype))
    return b.add(products, _constant(context, node.attribute("rho"), x.dtype))


def _elected(context: Context, decisions: Value, classes: int) -> Value:
    """The class with most votes of its pairs, i64 [N]."""
    b, pairs = context.builder, _pairs(classes)
    won, lost = np.zeros((len(pairs), classes)), np.zeros((len(pairs), classes))
    for row, (i, j) in enumerate(pairs):
        won[row, i], lost[row, j] = 1, 1
    yes = b.cast(b.gt(decisions, 0), dtype=decisions.dtype)
    against = b.add(b.neg(yes), 1.0)
    votes = [
        b.matmul(side, _constant(context, table, decisions.dtype))
        for side, table in ((yes, won), (against, lost))
    ]
    return best(context, b.add(*votes))


def _probabilities(context: Context, node: NodeView, decisions: Value, classes: int) -> Value:
    """Probabilities of classes from those of pairs (Platt, 2000; Wu, Lin and Weng, 2004)."""
    b, dtype = context.builder, decisions.dtype
    slope, offset = (_constant(context, node.attribute(f"prob_{k}"), dtype) for k in "ab")
    paired = b.sigmoid(b.neg(b.add(b.mul(decisions, slope), offset)))
    return b.couple_pairs(b.max(b.min(paired, 1 - 1e-7), 1e-7), classes=classes)
