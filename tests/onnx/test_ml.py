"""Operators of ai.onnx.ml against onnxruntime, and against onnx.reference where that has no kernel."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import tallow
from tallow.errors import ImportFailed, InputError

DOMAIN = "ai.onnx.ml"
FLOAT, INT64, STRING, DOUBLE = (getattr(TensorProto, n) for n in ("FLOAT", "INT64", "STRING", "DOUBLE"))


def model(op, outputs, attributes, kind=FLOAT, shape=("n", 3), version=3):
    """A model of one node `op` from x to `outputs` {name: data type}."""
    node = helper.make_node(op, ["x"], list(outputs), domain=DOMAIN, **attributes)
    x = helper.make_tensor_value_info("x", kind, list(shape))
    ports = [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(helper.make_graph([node], "g", [x], ports), opset_imports=imports, ir_version=9)


def compiled(proto, tmp_path):
    onnx.save(proto, tmp_path / "m.onnx")
    return tallow.compile(tmp_path / "m.onnx")


def agree(proto, inputs, tmp_path, rtol=1e-5, atol=1e-6, reference=False):
    """Our results are those of onnxruntime, labels exactly, for every input."""
    run = compiled(proto, tmp_path)
    if reference:
        oracle = ReferenceEvaluator(proto)
    else:
        oracle = onnxruntime.InferenceSession(proto.SerializeToString())
    for x in inputs:
        got = run(x)
        got = got if isinstance(got, tuple) else (got,)
        for mine, want in zip(got, oracle.run(None, {"x": x}), strict=True):
            want = np.asarray(want)
            assert mine.shape == want.shape
            if want.dtype.kind == "f":
                assert mine.dtype == want.dtype
                np.testing.assert_allclose(mine, want, rtol, atol)
            else:
                np.testing.assert_array_equal(mine.astype(want.dtype), want)


def forest(rng, trees, depth, modes=("BRANCH_LEQ",), tracks=False):
    """Attributes of full binary trees with random thresholds, and the (tree, node) of every leaf."""
    rows, leaves = [], []
    inner, size = 2**depth - 1, 2 ** (depth + 1) - 1
    for tree, node in itertools.product(range(trees), range(size)):
        leaf = node >= inner
        mode = "LEAF" if leaf else str(rng.choice(modes))
        value = float(rng.integers(-2, 3)) if mode in ("BRANCH_EQ", "BRANCH_NEQ") else float(rng.normal())
        children = (0, 0) if leaf else (2 * node + 1, 2 * node + 2)
        rows.append(
            (tree, node, int(rng.integers(3)), value, mode, *children, int(tracks and rng.integers(2)))
        )
        leaves += [(tree, node)] if leaf else []
    names = "treeids nodeids featureids values modes truenodeids falsenodeids missing_value_tracks_true"
    columns = zip(*rows, strict=True)
    return {f"nodes_{n}": list(c) for n, c in zip(names.split(), columns, strict=True)}, leaves


def weights(prefix, leaves, ids, values):
    """Attributes that give each leaf one weight."""
    trees, nodes = zip(*leaves, strict=True)
    parts = {"treeids": trees, "nodeids": nodes, "ids": ids, "weights": values}
    return {
        f"{prefix}_{name}": [v.item() if hasattr(v, "item") else v for v in part]
        for name, part in parts.items()
    }


def rows(rng, *counts, integers=False, missing=False):
    """Random inputs of some numbers of rows."""
    for count in counts:
        x = rng.standard_normal((count, 3)).astype("f4")
        x = np.round(x) if integers else x
        if missing:
            x[rng.random(x.shape) < 0.3] = np.nan
        yield x


MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("modes", [MODES[:1], MODES[3:4], MODES])
@pytest.mark.parametrize("missing", [False, True])
def test_tree_regressors(aggregate, modes, missing, rng, tmp_path):
    trees, leaves = forest(rng, 5, 3, modes, missing)
    both = [leaf for leaf in leaves for _ in range(2)]  # every leaf has a weight for both targets
    targets = weights("target", both, [0, 1] * len(leaves), rng.normal(size=len(both)))
    a = {**trees, **targets, "n_targets": 2, "base_values": [0.5, -1.0], "aggregate_function": aggregate}
    proto = model("TreeEnsembleRegressor", {"y": FLOAT}, a)
    agree(proto, rows(rng, 1, 17, integers=len(modes) > 1, missing=missing), tmp_path)


@pytest.mark.parametrize("post", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("kind", ["classes", "positive", "mixed", "strings"])
def test_tree_classifiers(post, kind, rng, tmp_path):
    trees, leaves = forest(rng, 4, 3)
    values = rng.normal(size=len(leaves))
    several = kind in ("classes", "strings")
    ids = rng.integers(0, 3, len(leaves)) if several else [0] * len(leaves)
    values = np.abs(values) / 8 if kind == "positive" else values
    labels = {"classlabels_int64s": [5, 7, 9] if several else [5, 7]}
    if kind == "strings":
        labels = {"classlabels_strings": ["a", "b", "c"]}
    a = {**trees, **weights("class", leaves, ids, values), **labels, "post_transform": post}
    outputs = {"label": STRING if kind == "strings" else INT64, "scores": FLOAT}
    agree(model("TreeEnsembleClassifier", outputs, a), rows(rng, 1, 33), tmp_path)


def test_trees_of_doubles(rng, tmp_path):
    trees, leaves = forest(rng, 3, 3)
    del trees["nodes_values"]
    thresholds = rng.normal(size=len(trees["nodes_modes"]))
    targets = weights("target", leaves, [0] * len(leaves), rng.normal(size=len(leaves)))
    target_weights = np.array(targets.pop("target_weights"))
    a = {
        **trees,
        **targets,
        "n_targets": 1,
        "nodes_values_as_tensor": onnx.numpy_helper.from_array(thresholds),
        "target_weights_as_tensor": onnx.numpy_helper.from_array(target_weights),
    }
    proto = model("TreeEnsembleRegressor", {"y": FLOAT}, a, kind=DOUBLE)
    close = thresholds[rng.integers(0, len(thresholds), (9, 3))]  # a float32 cannot tell these apart
    agree(proto, [close, np.nextafter(close, 9), np.nextafter(close, -9)], tmp_path)


@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
def test_trees_of_version_5(aggregate, rng, tmp_path):
    """Tests of all kinds; a set of members, an empty set, and a tree that is one leaf."""
    number = onnx.numpy_helper.from_array
    a = {
        "nodes_splits": number(np.array([0.5, 0.0, 1.0, 0.0, 2.0, 0.0], "f4")),
        "nodes_featureids": [0, 1, 2, 0, 1, 0],
        "nodes_modes": number(np.array([0, 6, 3, 6, 4, 0], np.uint8)),
        "nodes_truenodeids": [1, 0, 2, 4, 5, 7],
        "nodes_falsenodeids": [2, 1, 3, 4, 6, 7],
        "nodes_trueleafs": [0, 1, 1, 0, 1, 1],
        "nodes_falseleafs": [0, 1, 1, 0, 1, 1],
        "leaf_targetids": [0, 1, 2, 0, 1, 2, 0, 1],
        "leaf_weights": number(rng.normal(size=8).astype("f4")),
        "membership_values": number(np.array([1.0, -1.0, np.nan, np.nan], "f4")),
        "tree_roots": [0, 3, 5],
        "n_targets": 3,
        "aggregate_function": aggregate,
    }
    proto = model("TreeEnsemble", {"y": FLOAT}, a, version=5)
    x = np.array(list(itertools.product([-1.0, 0.4, 1.0, 2.0], repeat=3)), "f4")
    got = compiled(proto, tmp_path)(x)
    np.testing.assert_allclose(got, _version_5(a, x), rtol=1e-6)


def _version_5(a, x):
    """The same trees written as tests on whole columns."""
    w = onnx.numpy_helper.to_array(a["leaf_weights"])
    first = np.where(x[:, 0] <= 0.5, np.where(np.isin(x[:, 1], [1, -1]), 0, 1), np.where(x[:, 2] > 1, 2, 3))
    leaves = np.stack([first, np.where(x[:, 1] == 2, 5, 6), np.full(len(x), 7)], 1)
    target = np.array(a["leaf_targetids"])[leaves]
    kind = a["aggregate_function"]
    columns = []
    for column in range(3):
        mine, here = target == column, w[leaves]
        match kind:
            case 0 | 1:
                columns.append(np.where(mine, here, 0).sum(1) / (3 if kind == 0 else 1))
            case _:
                none = np.inf if kind == 2 else -np.inf
                folded = (np.min if kind == 2 else np.max)(np.where(mine, here, none), axis=1)
                columns.append(np.where(np.isinf(folded), 0, folded))
    return np.stack(columns, 1)


@pytest.mark.parametrize("post", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_classifiers(post, classes, rng, tmp_path):
    a = {
        "coefficients": (rng.uniform(0, 0.2, 3 * classes)).tolist(),
        "intercepts": (rng.uniform(0.1, 0.3, classes)).tolist(),
        "classlabels_strings": ["a", "b", "c"][:classes],
        "post_transform": post,
    }
    inputs = [np.abs(x) / 2 for x in rows(rng, 1, 17)] if post == "PROBIT" else rows(rng, 1, 17)
    agree(model("LinearClassifier", {"label": STRING, "scores": FLOAT}, a), inputs, tmp_path)


@pytest.mark.parametrize("post", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_linear_classifiers_with_one_column(post, rng, tmp_path):
    a = {"coefficients": [1.0, -2.0, 0.5], "intercepts": [0.1], "classlabels_ints": [3, 4]}
    proto = model("LinearClassifier", {"label": INT64, "scores": FLOAT}, {**a, "post_transform": post})
    agree(proto, rows(rng, 1, 17), tmp_path)


def test_linear_regressors(rng, tmp_path):
    a = {"coefficients": rng.normal(size=6).tolist(), "intercepts": [0.5, -0.5], "targets": 2}
    agree(model("LinearRegressor", {"y": FLOAT}, a), rows(rng, 1, 17), tmp_path)


KERNELS = {
    "LINEAR": [0.0, 0.0, 0.0],
    "RBF": [0.4, 0.0, 0.0],
    "POLY": [0.5, 1.0, 3.0],
    "SIGMOID": [0.3, 0.1, 0.0],
}


def machine(rng, kernel, sizes, pairs):
    total = sum(sizes)
    return {
        "kernel_type": kernel,
        "kernel_params": KERNELS[kernel],
        "support_vectors": rng.normal(size=3 * total).tolist(),
        "coefficients": rng.normal(size=total * max(1, len(sizes) - 1)).tolist(),
        "rho": rng.normal(size=pairs).tolist(),
    }


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_support_vector_regressors(kernel, one_class, rng, tmp_path):
    a = {**machine(rng, kernel, [7], 1), "n_supports": 7, "one_class": one_class}
    agree(model("SVMRegressor", {"y": FLOAT}, a), rows(rng, 1, 17), tmp_path, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("probabilities", [False, True])
def test_support_vector_classifiers(kernel, classes, probabilities, rng, tmp_path):
    pairs = classes * (classes - 1) // 2
    sizes = [3, 2, 4, 3][:classes]
    a = {**machine(rng, kernel, sizes, pairs), "vectors_per_class": sizes}
    a["classlabels_ints"] = [5, 6, 7, 8][:classes]
    if probabilities:
        a |= {"prob_a": (-rng.uniform(1, 2, pairs)).tolist(), "prob_b": rng.normal(size=pairs).tolist()}
    proto = model("SVMClassifier", {"label": INT64, "scores": FLOAT}, a)
    agree(proto, rows(rng, 1, 17), tmp_path, rtol=1e-3, atol=1e-4)


def test_support_vectors_without_vectors_are_linear(rng, tmp_path):
    a = {"coefficients": rng.normal(size=9).tolist(), "rho": [0.25], "classlabels_ints": [0, 1, 2]}
    a |= {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0], "post_transform": "SOFTMAX"}
    agree(model("SVMClassifier", {"label": INT64, "scores": FLOAT}, a), rows(rng, 1, 17), tmp_path)


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_normalizers(norm, rng, tmp_path):
    x = np.abs(np.concatenate([*rows(rng, 5), np.zeros((1, 3), "f4")]))
    agree(model("Normalizer", {"y": FLOAT}, {"norm": norm}), [x], tmp_path)


SIMPLE = {
    "Scaler": {"offset": [0.5, 1.0, -2.0], "scale": [2.0, 0.5, 1.0]},
    "Binarizer": {"threshold": 0.25},
    "Imputer": {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")},
}


@pytest.mark.parametrize("op", SIMPLE)
def test_simple_features(op, rng, tmp_path):
    agree(model(op, {"y": FLOAT}, SIMPLE[op]), rows(rng, 1, 17, missing=op == "Imputer"), tmp_path)


def test_imputed_integers(tmp_path):
    a = {"imputed_value_int64s": [7], "replaced_value_int64": -1}
    x = np.array([[1, -1, 3], [-1, 5, 6]])
    agree(model("Imputer", {"y": INT64}, a, kind=INT64), [x], tmp_path)


KEYS = {
    "strings": (["a", "b", "a", "c"], STRING, np.array([["a", "x"], ["c", "b"]], object)),
    "int64s": ([3, -4, 3, 500], INT64, np.array([[3, -4], [500, 9]])),
    "floats": ([0.5, 1.5, float("nan"), 2.5], FLOAT, np.array([[0.5, np.nan], [2.5, -1]], "f4")),
}
VALUES = {
    "strings": (["p", "q", "r", "s"], STRING),
    "int64s": ([4, 3, 2, 1], INT64),
    "floats": ([0.1, 0.2, 0.3, 0.4], FLOAT),
}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("keys,values", itertools.product(KEYS, VALUES))
def test_label_encoders(keys, values, many, tmp_path):
    """Keys and values of every kind; the last of two equal keys counts; NaN finds NaN."""
    (given, kind, x), (mapped, result) = KEYS[keys], VALUES[values]
    if many:
        more = [f"k{i}" if keys == "strings" else 1000 + 100 * i for i in range(60)]
        given, mapped = [*given, *more], [*mapped, *[mapped[0]] * 60]
    a = {f"keys_{keys}": given, f"values_{values}": mapped}
    proto = model("LabelEncoder", {"y": result}, a, kind=kind, shape=("n", 2), version=2)
    got = compiled(proto, tmp_path)(x)
    table = {("nan" if k != k else k): v for k, v in zip(given, mapped, strict=True)}
    default = {"strings": "_Unused", "int64s": -1, "floats": -0.0}[values]
    want = [table.get("nan" if k != k else k, default) for k in x.reshape(-1).tolist()]
    assert got.reshape(-1).tolist() == np.array(want, got.dtype).tolist()


def test_lists_of_classes_and_categories(tmp_path):
    names, numbers = np.array(["b", "z", "a"], object), np.array([1, 9, 0])
    classes = {"classes_strings": ["a", "b"], "default_int64": 7, "default_string": "?"}
    pairs = {"cats_strings": ["a", "b"], "cats_int64s": [0, 1], "default_int64": 7, "default_string": "?"}
    for op, a in (("LabelEncoder", classes), ("CategoryMapper", pairs)):
        proto = model(op, {"y": INT64}, a, kind=STRING, shape=("n",), version=1)
        assert compiled(proto, tmp_path)(names).tolist() == [1, 7, 0]
        proto = model(op, {"y": STRING}, a, kind=INT64, shape=("n",), version=1)
        assert compiled(proto, tmp_path)(numbers).tolist() == ["b", "?", "a"]


def test_one_hot_columns(tmp_path):
    words = model("OneHotEncoder", {"y": FLOAT}, {"cats_strings": ["a", "b"]}, STRING, ("n", 2))
    agree(words, [np.array([["a", "b"], ["x", "a"]], object)], tmp_path, reference=True)
    a = {"cats_int64s": [4, 2], "zeros": 0}
    numbers = compiled(model("OneHotEncoder", {"y": FLOAT}, a, INT64, ("n",)), tmp_path)
    assert numbers(np.array([2, 4])).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(InputError, match="9 is none of the 2 categories"):
        numbers(np.array([2, 9]))


def test_maps_from_scores(rng, tmp_path):
    node = helper.make_node("ZipMap", ["x"], ["y"], domain=DOMAIN, classlabels_strings=["a", "b", "c"])
    x = helper.make_tensor_value_info("x", FLOAT, ["n", 3])
    kind = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    y = helper.make_value_info("y", helper.make_sequence_type_proto(kind))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 3)]
    proto = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=imports, ir_version=9)
    run, session = compiled(proto, tmp_path), onnxruntime.InferenceSession(proto.SerializeToString())
    (scores,) = rows(rng, 5)
    assert run(scores) == session.run(None, {"x": scores})[0]
    assert str(run.outputs[0]).count("seq(map(string, f32[]))")


def of_map(op, attributes, key, value, result):
    """A model that takes a map."""
    node = helper.make_node(op, ["x"], ["y"], domain=DOMAIN, **attributes)
    kind = helper.make_map_type_proto(key, helper.make_tensor_type_proto(value, []))
    ports = helper.make_value_info("x", kind), helper.make_tensor_value_info("y", result, None)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def test_rows_from_maps(tmp_path):
    words = of_map("DictVectorizer", {"string_vocabulary": ["a", "b", "c"]}, STRING, FLOAT, FLOAT)
    run = compiled(words, tmp_path)
    np.testing.assert_array_equal(run({"c": 2.5, "a": 1.0}), np.array([[1.0, 0.0, 2.5]], "f4"))
    dense = compiled(of_map("CastMap", {"cast_to": "TO_INT64"}, INT64, FLOAT, INT64), tmp_path)
    np.testing.assert_array_equal(dense({7: 1.9, 2: -3.0}), [[-3, 1]])
    sparse = {"map_form": "SPARSE", "max_map": 4}
    run = compiled(of_map("CastMap", sparse, INT64, STRING, FLOAT), tmp_path)
    np.testing.assert_array_equal(run({3: "1.5", 0: "2"}), np.array([[2.0, 0, 0, 1.5]], "f4"))
    with pytest.raises(InputError, match="as a dictionary, got list"):
        run([1, 2])


def test_features_side_by_side(rng, tmp_path):
    node = helper.make_node("FeatureVectorizer", ["a", "b"], ["y"], domain=DOMAIN, inputdimensions=[2, 4])
    ports = [helper.make_tensor_value_info(n, t, ["n", 3]) for n, t in (("a", FLOAT), ("b", INT64))]
    y = helper.make_tensor_value_info("y", FLOAT, None)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    graph = helper.make_graph([node], "g", ports, [y])
    run = compiled(helper.make_model(graph, opset_imports=imports, ir_version=9), tmp_path)
    a, b = next(rows(rng, 4)), rng.integers(0, 9, (4, 3))
    want = np.concatenate([a[:, :2], b, np.zeros((4, 1))], 1).astype("f4")
    np.testing.assert_array_equal(run(a, b), want)


@pytest.mark.parametrize(
    "op,attributes,message",
    [
        (
            "SVMRegressor",
            {"kernel_type": "WAVE", "coefficients": [1.0] * 3, "rho": [0.0]},
            "kernel_type 'WAVE'",
        ),
        ("LinearRegressor", {"coefficients": [1.0] * 3, "post_transform": "CUBE"}, "post_transform 'CUBE'"),
        ("Normalizer", {"norm": "L7"}, "norm 'L7'"),
        ("LabelEncoder", {"values_int64s": [1]}, "no keys"),
        ("OneHotEncoder", {"cats_strings": ["a"]}, "f32 for categories that are strings"),
    ],
)
def test_refusals_name_the_attribute(op, attributes, message, tmp_path):
    with pytest.raises(ImportFailed, match=message):
        compiled(model(op, {"y": FLOAT}, attributes), tmp_path)


def test_a_tree_with_a_cycle_is_refused(rng, tmp_path):
    trees, leaves = forest(rng, 1, 2)
    trees["nodes_truenodeids"][1] = 1
    trees["nodes_falsenodeids"][2] = 2
    trees["nodes_truenodeids"][2] = 1
    a = {**trees, **weights("target", leaves, [0] * 4, [1.0] * 4), "n_targets": 1}
    with pytest.raises(ImportFailed, match="cycle"):
        compiled(model("TreeEnsembleRegressor", {"y": FLOAT}, a), tmp_path)
