"""Tree ensembles of ai.onnx.ml: every row walks all trees at once, one level at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tallow.dtype import DType, f32, f64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.ml_scores import (
    ML,
    best,
    both_scores,
    class_labels,
    features,
    floats,
    labelled,
    second_when_above,
    transformed,
)
from tallow_importers.onnx.registry import onnx_op

_TESTS = {
    "BRANCH_LEQ": "le",
    "BRANCH_LT": "lt",
    "BRANCH_GTE": "ge",
    "BRANCH_GT": "gt",
    "BRANCH_EQ": "eq",
    "BRANCH_NEQ": "ne",
}
_NUMBERED = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_POST = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@dataclass(frozen=True, slots=True)
class Forest:
    """The nodes of all trees in one table: a leaf is its own child, whatever its test says.

    modes: names of branch tests. missing: NaN goes the way of a true test. roots: where each tree starts.
    """

    feature: np.ndarray
    value: np.ndarray
    modes: np.ndarray
    missing: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    roots: np.ndarray

    def depth(self, context: Context) -> int:
        """Branches between a root and its farthest leaf."""
        level, deep = np.unique(self.roots), 0
        while True:
            following = np.unique(np.concatenate([self.yes[level], self.no[level]]))
            level = following[(self.yes[following] != following) | (self.no[following] != following)]
            deep += 1
            if not level.size:
                return deep
            if deep > len(self.yes):
                context.unsupported("a tree whose branches form a cycle")

    def walk(self, context: Context, x: Value) -> Value:
        """The leaf [rows, trees] that each row ends in."""
        b = context.builder
        used = sorted(set(self.modes[self.yes != self.no]))
        unknown = [mode for mode in used if mode not in _TESTS]
        if unknown:
            context.unsupported(f"branches of kind {', '.join(unknown)}")
        kinds = b.constant(np.array([used.index(m) if m in used else 0 for m in self.modes], np.int64))
        feature, value, yes, no = (
            b.constant(np.ascontiguousarray(t))
            for t in (self.feature, self.value.astype(x.dtype.numpy), self.yes, self.no)
        )
        at = b.broadcast(b.constant(self.roots[None]), shape=(x.shape[0], len(self.roots)))
        for _ in range(self.depth(context)):
            seen = b.gather_elements(x, b.gather(feature, at, axis=0), axis=1)
            limit = b.gather(value, at, axis=0)
            goes = b.emit(_TESTS[used[0]] if used else "le", seen, limit)
            for number, mode in enumerate(used[1:], 1):
                test = b.emit(_TESTS[mode], seen, limit)
                goes = b.select(b.eq(b.gather(kinds, at, axis=0), number), test, goes)
            if self.missing.any():
                missing = b.gather(b.constant(self.missing), at, axis=0)
                goes = b.or_(goes, b.and_(missing, b.isnan(seen)))
            at = b.select(goes, b.gather(yes, at, axis=0), b.gather(no, at, axis=0))
        return at


def _forest(context: Context, node: NodeView) -> tuple[Forest, dict]:
    """The trees of a classifier or regressor, and the number of each (tree, node)."""
    keys = list(zip(node.attribute("nodes_treeids"), node.attribute("nodes_nodeids"), strict=True))
    number = {key: i for i, key in enumerate(keys)}
    modes = np.array(node.attribute("nodes_modes"))

    def children(side: str) -> np.ndarray:
        given = node.attribute(f"nodes_{side}nodeids")
        rows = enumerate(zip(keys, given, modes, strict=True))
        return np.array([i if m == "LEAF" else number[key[0], c] for i, (key, c, m) in rows], np.int64)

    yes, no = children("true"), children("false")
    places = np.arange(len(keys))
    roots = np.setdiff1d(places, np.concatenate([yes[yes != places], no[no != places]]))
    tracks = node.attribute("nodes_missing_value_tracks_true") or [0] * len(keys)
    values = floats(context, node, "nodes_values", f64)
    feature = np.array(node.attribute("nodes_featureids"), np.int64)
    return Forest(feature, values, modes, np.array(tracks, bool), yes, no, roots), number


def _weights(context: Context, node: NodeView, prefix: str, number: dict, columns: int) -> tuple:
    """Sums [nodes, columns] of the weights of each node, and where there is one."""
    table, has = np.zeros((len(number), columns)), np.zeros((len(number), columns), bool)
    weights = floats(context, node, f"{prefix}_weights", f64)
    trees, places, ids = (node.attribute(f"{prefix}_{part}") for part in ("treeids", "nodeids", "ids"))
    rows = np.array([number[key] for key in zip(trees, places, strict=True)], np.int64)
    np.add.at(table, (rows, np.array(ids)), weights)
    has[rows, np.array(ids)] = True
    return table, has


def _aggregated(context: Context, leaves: Value, table: np.ndarray, has: np.ndarray, kind: str, dtype: DType):
    """Scores [rows, columns]: the leaves' weights folded over trees; 0 where no leaf has any."""
    b = context.builder
    if kind not in _AGGREGATES:
        context.unsupported(f"aggregate_function {kind!r}")
    if kind in ("SUM", "AVERAGE"):
        picked = b.gather(b.constant(table.astype(dtype.numpy)), leaves, axis=0)
        total = b.reduce(picked, function="add", axes=(1,), keepdims=False)
        return b.div(total, context.size(leaves.shape[1], dtype)) if kind == "AVERAGE" else total
    none = np.inf if kind == "MIN" else -np.inf
    picked = b.gather(b.constant(np.where(has, table, none).astype(dtype.numpy)), leaves, axis=0)
    folded = b.reduce(picked, function=kind.lower(), axes=(1,), keepdims=False)
    return b.select(b.eq(folded, none), b.scalar(0, dtype), folded)


def _based(context: Context, node: NodeView, scores: Value) -> Value:
    """Scores with the base value of each column added; fewer values are those of the first columns."""
    base = floats(context, node, "base_values", f64)
    if base is None:
        return scores
    columns = scores.shape[1]
    padded = np.pad(base, (0, max(columns - len(base), 0)))[:columns]
    return context.builder.add(scores, context.builder.constant(padded.astype(scores.dtype.numpy)))


@onnx_op("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(context: Context, node: NodeView) -> Value:
    x = features(context, node.input(0))
    forest, number = _forest(context, node)
    table, has = _weights(context, node, "target", number, node.attribute("n_targets", 1))
    kind = node.attribute("aggregate_function", "SUM")
    scores = _aggregated(context, forest.walk(context, x), table, has, kind, x.dtype)
    scores = transformed(context, _based(context, node, scores), node.attribute("post_transform", "NONE"))
    return context.builder.cast(scores, dtype=f32)


@onnx_op("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(context: Context, node: NodeView):
    b, x = context.builder, features(context, node.input(0))
    labels = class_labels(node, "classlabels_int64s")
    forest, number = _forest(context, node)
    table, has = _weights(context, node, "class", number, len(labels))
    kind = node.attribute("post_transform", "NONE")
    leaves = forest.walk(context, x)
    if len(labels) == 2 and set(node.attribute("class_ids")) == {0}:
        # One column of weights tells the second class from the first.
        score = _based(context, node, _aggregated(context, leaves, table[:, :1], has[:, :1], "SUM", x.dtype))
        positive = bool((table >= 0).all())
        place = second_when_above(context, score, 0.5 if positive else 0.0)
        scores = both_scores(context, score, kind, positive)
    else:
        scores = _based(context, node, _aggregated(context, leaves, table, has, "SUM", x.dtype))
        place = best(context, scores)
        scores = transformed(context, scores, kind)
    return labelled(context, labels, place), b.cast(scores, dtype=f32)


@onnx_op("TreeEnsemble", domain=ML)
def tree_ensemble(context: Context, node: NodeView) -> Value:
    x = features(context, node.input(0))
    forest, inner = _forest_5(context, node)
    targets = np.array(node.attribute("leaf_targetids"), np.int64)
    rows = inner + np.arange(len(targets))
    shape = (len(forest.yes), node.attribute("n_targets"))
    table, has = np.zeros(shape), np.zeros(shape, bool)
    table[rows, targets] = context.tensor(node.attribute("leaf_weights")).astype(np.float64)
    has[rows, targets] = True
    kind = _AGGREGATES[node.attribute("aggregate_function", 1)]
    scores = _aggregated(context, forest.walk(context, x), table, has, kind, x.dtype)
    scores = transformed(context, scores, _POST[node.attribute("post_transform", 0)])
    return context.builder.cast(scores, dtype=node.input(0).dtype)


def _forest_5(context: Context, node: NodeView) -> tuple[Forest, int]:
    """The trees of version 5, whose leaves are a table of their own: they follow the branches, the number
    of which comes second. A test for membership becomes a chain of tests for equality."""
    feature, flags, yes_leaf, no_leaf = (
        np.array(node.attribute(f"nodes_{part}"), np.int64)
        for part in ("featureids", "truenodeids", "trueleafs", "falseleafs")
    )
    modes = np.array([_NUMBERED[m] for m in context.tensor(node.attribute("nodes_modes")).tolist()])
    value = context.tensor(node.attribute("nodes_splits")).astype(np.float64)
    tracks = np.array(node.attribute("nodes_missing_value_tracks_true") or [0] * len(feature), bool)
    chains = _chains(context, node, modes, value)
    inner = sum(len(c) for c in chains)
    starts = np.cumsum([0, *(len(c) for c in chains)])[:-1]
    yes = np.where(yes_leaf, inner + flags, starts[np.where(yes_leaf, 0, flags)])
    other = np.array(node.attribute("nodes_falsenodeids"), np.int64)
    no = np.where(no_leaf, inner + other, starts[np.where(no_leaf, 0, other)])
    owner = np.repeat(np.arange(len(chains)), [len(c) for c in chains])
    last = np.append(owner[1:] != owner[:-1], True)
    leaves = len(node.attribute("leaf_targetids"))
    own = inner + np.arange(leaves)
    member = modes[owner] == "BRANCH_MEMBER"

    def with_leaves(branches, fill):
        return np.concatenate([branches, np.full(leaves, fill, np.asarray(branches).dtype)])

    return Forest(
        with_leaves(feature[owner], 0),
        with_leaves(np.concatenate(chains), 0),
        with_leaves(np.where(member, "BRANCH_EQ", modes[owner]), "BRANCH_LEQ"),
        with_leaves(tracks[owner], False),
        np.concatenate([yes[owner], own]),
        np.concatenate([np.where(last, no[owner], np.arange(inner) + 1), own]),
        starts[np.array(node.attribute("tree_roots"), np.int64)],
    ), inner


def _chains(context: Context, node: NodeView, modes: np.ndarray, value: np.ndarray) -> list[np.ndarray]:
    """The values that each node compares with one after the other: its split, or the members of its set.
    The sets stand in one list in the order of their nodes, each ended by NaN."""
    members = node.attribute("membership_values")
    flat = np.empty(0) if members is None else context.tensor(members).astype(np.float64)
    ends = np.flatnonzero(np.isnan(flat))
    wanted = np.flatnonzero(modes == "BRANCH_MEMBER")
    if len(ends) != len(wanted):
        context.unsupported(f"{len(ends)} sets of members for {len(wanted)} branches of kind BRANCH_MEMBER")
    chains = [value[i : i + 1] for i in range(len(modes))]
    for position, set_ in zip(wanted, np.split(flat, ends + 1), strict=False):
        chains[position] = set_[:-1] if len(set_) > 1 else np.full(1, np.nan)
    return chains
