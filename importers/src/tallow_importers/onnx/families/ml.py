"""Operators of the ai.onnx.ml domain, written out in tensors."""

from __future__ import annotations

import numpy as np

from tallow.dtype import f32, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

ML = "ai.onnx.ml"


def _floats(context: Context, node: NodeView, name: str, default: float) -> Value:
    return context.builder.constant(np.array(node.attribute(name) or [default], np.float32))


@onnx_op("Scaler", domain=ML)
def scaler(context: Context, node: NodeView) -> Value:
    b = context.builder
    x = b.cast(node.input(0), dtype=f32)
    return b.mul(b.sub(x, _floats(context, node, "offset", 0.0)), _floats(context, node, "scale", 1.0))


@onnx_op("Binarizer", domain=ML)
def binarizer(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.cast(b.gt(x, node.attribute("threshold", 0.0)), dtype=x.dtype)


@onnx_op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(context: Context, node: NodeView) -> Value:
    x, places = node.inputs
    b = context.builder
    flat = b.reshape(places, shape=(places.type.size,))
    picked = b.gather(x, flat, axis=x.rank - 1)
    return b.reshape(picked, shape=(1, places.type.size)) if x.rank == 1 else picked


@onnx_op("Normalizer", domain=ML)
def normalizer(context: Context, node: NodeView) -> Value:
    b = context.builder
    x = b.cast(node.input(0), dtype=f32)
    axes = (x.rank - 1,)
    match node.attribute("norm", "MAX"):
        case "L1":
            norm = b.reduce(b.abs(x), function="add", axes=axes, keepdims=True)
        case "L2":
            norm = b.sqrt(b.reduce(b.mul(x, x), function="add", axes=axes, keepdims=True))
        case _:
            norm = b.reduce(x, function="max", axes=axes, keepdims=True)
    return b.select(b.eq(norm, 0), x, b.div(x, norm))


@onnx_op("LinearRegressor", domain=ML)
def linear_regressor(context: Context, node: NodeView) -> Value:
    if node.attribute("post_transform", "NONE") != "NONE":
        context.unsupported(f"post_transform {node.attribute('post_transform')}")
    b, targets = context.builder, node.attribute("targets", 1)
    weights = np.array(node.attribute("coefficients"), np.float32).reshape(targets, -1).T
    y = b.matmul(b.cast(node.input(0), dtype=f32), b.constant(weights))
    return b.add(y, _floats(context, node, "intercepts", 0.0))


_TESTS = {
    "BRANCH_LEQ": "le",
    "BRANCH_LT": "lt",
    "BRANCH_GTE": "ge",
    "BRANCH_GT": "gt",
    "BRANCH_EQ": "eq",
    "BRANCH_NEQ": "ne",
}


@onnx_op("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(context: Context, node: NodeView) -> Value:
    """All trees at once: each row walks every tree one level at a time."""
    aggregate = node.attribute("aggregate_function", "SUM")
    if node.attribute("post_transform", "NONE") != "NONE" or aggregate not in ("SUM", "AVERAGE"):
        context.unsupported("a post_transform or an aggregate other than SUM and AVERAGE")
    b, targets = context.builder, node.attribute("n_targets", 1)
    forest = _Forest(context, node)
    leaves = np.zeros((forest.size, targets), np.float32)
    triples = zip(
        *(node.attribute(f"target_{part}") for part in ("treeids", "nodeids", "ids", "weights")), strict=True
    )
    for tree, place, target, weight in triples:
        leaves[forest.number[tree, place], target] += weight
    total = b.reduce(
        b.gather(b.constant(leaves), forest.walk(node.input(0)), axis=0),
        function="add",
        axes=(1,),
        keepdims=False,
    )
    if aggregate == "AVERAGE":
        total = b.div(total, float(len(forest.roots)))
    return b.add(total, _floats(context, node, "base_values", 0.0))


class _Forest:
    """The nodes of all trees in one table."""

    def __init__(self, context: Context, node: NodeView):
        self.context = context
        keys = list(zip(node.attribute("nodes_treeids"), node.attribute("nodes_nodeids"), strict=True))
        self.number = {key: i for i, key in enumerate(keys)}
        self.size = len(keys)
        modes = node.attribute("nodes_modes")
        used = {m for m in modes if m != "LEAF"}
        if len(used) > 1 or used - set(_TESTS):
            context.unsupported(f"branches of kinds {', '.join(sorted(used))}")
        self.test = _TESTS[used.pop()] if used else "le"
        self.yes, self.no = (
            self._children(keys, node.attribute(f"nodes_{s}nodeids"), modes) for s in ("true", "false")
        )
        self.feature = np.array(node.attribute("nodes_featureids"), np.int64)
        self.value = np.array(node.attribute("nodes_values"), np.float32)
        children = set(self.yes[self.yes != np.arange(self.size)]) | set(
            self.no[self.no != np.arange(self.size)]
        )
        self.roots = np.array([i for i in range(self.size) if i not in children], np.int64)

    def _children(self, keys, children, modes) -> np.ndarray:
        """The number of each node's child; a leaf is its own."""
        rows = zip(keys, children, modes, strict=True)
        return np.array([i if m == "LEAF" else self.number[key[0], c] for i, (key, c, m) in enumerate(rows)])

    def depth(self) -> int:
        level, deep = set(self.roots.tolist()), 0
        while True:
            following = {int(c) for i in level for c in (self.yes[i], self.no[i]) if c != i}
            if not following:
                return deep
            level, deep = following, deep + 1

    def walk(self, x: Value) -> Value:
        """The leaf [rows, trees] that each row ends in."""
        b = self.context.builder
        x = b.cast(x, dtype=f32)
        tables = [
            b.constant(t)
            for t in (self.feature, self.value, self.yes.astype(np.int64), self.no.astype(np.int64))
        ]
        at = b.broadcast(b.constant(self.roots[None]), shape=(x.shape[0], len(self.roots)))
        for _ in range(self.depth()):
            feature, value, yes, no = (b.gather(t, at, axis=0) for t in tables)
            goes = b.emit(self.test, b.gather_elements(x, b.cast(feature, dtype=i64), axis=1), value)
            at = b.select(goes, yes, no)
        return at
