"""Models of scikit-learn, converted by skl2onnx, against scikit-learn's own predictions: `tox -e sklearn`.

Features are multiples of 1/8, so that float32 tells them from every threshold of a tree as float64 does.
"""

from __future__ import annotations

import numpy as np
import onnx
import pandas
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    Ridge,
    SGDClassifier,
)
from sklearn.mixture import GaussianMixture
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    KBinsDiscretizer,
    LabelBinarizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVR, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import tallow

COLUMNS, TRAIN, ASKED = 5, 160, 53


def features(seed: int, rows: int, missing: bool = False, fine: bool = False) -> np.ndarray:
    """Columns of numbers. fine: not rounded, so that no two rows are equally near to a third."""
    x = np.random.default_rng(seed).standard_normal((rows, COLUMNS))
    x = x if fine else np.round(x * 8) / 8
    if missing:
        x[np.random.default_rng(seed + 1).random(x.shape) < 0.15] = np.nan
    return x.astype("f4")


def classes(x: np.ndarray, count: int) -> np.ndarray:
    score = np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) * np.nan_to_num(x[:, 2])
    return np.digitize(score, np.quantile(score, np.linspace(0, 1, count + 1)[1:-1]))


def numbers(x: np.ndarray) -> np.ndarray:
    return (np.nan_to_num(x[:, 0]) * 2 + np.sin(np.nan_to_num(x[:, 1])) + 3).astype("f4")


def converted(model, x, tmp_path, **options):
    """The model by Tallow, as a function from inputs to its results by name."""
    proto = to_onnx(model, x[:1] if isinstance(x, np.ndarray) else None, **options)
    onnx.save(proto, tmp_path / "model.onnx")
    return tallow.compile(tmp_path / "model.onnx")


def predicted(run, x) -> list[np.ndarray]:
    """Results for all rows, and for one row the same."""
    name = run.inputs[0].name
    results = list(run.run({name: x}).values())
    for whole, one in zip(results, run.run({name: x[:1]}).values(), strict=True):
        if whole.dtype.kind == "f":
            np.testing.assert_allclose(whole[:1], one, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(whole[:1], one)
    return results


CLASSIFIERS = {
    "tree": DecisionTreeClassifier(max_depth=6, random_state=0),
    "forest": RandomForestClassifier(20, max_depth=6, random_state=0),
    "extra-trees": ExtraTreesClassifier(20, max_depth=6, random_state=0),
    "bagging": BaggingClassifier(DecisionTreeClassifier(max_depth=4), 8, random_state=0),
    "gradient-boosting": GradientBoostingClassifier(n_estimators=15, random_state=0),
    "adaboost": AdaBoostClassifier(n_estimators=10, random_state=0),
    "logistic": LogisticRegression(max_iter=500),
    "perceptron": Perceptron(random_state=0),
    "sgd": SGDClassifier(loss="log_loss", random_state=0),
    "one-or-rest": OneVsRestClassifier(LogisticRegression()),
    "svm-rbf": SVC(probability=True, random_state=0),
    "svm-poly": SVC(kernel="poly", degree=3, probability=True, random_state=0),
    "svm-linear": SVC(kernel="linear", probability=True, random_state=0),
    "nu-svm": NuSVC(probability=True, random_state=0),
    "neighbours": KNeighborsClassifier(5),
    "naive-bayes": GaussianNB(),
    "bernoulli-bayes": BernoulliNB(),
    "network": MLPClassifier((16, 8), max_iter=150, random_state=0),
    "calibrated": CalibratedClassifierCV(LogisticRegression(), cv=2),
    "voting": VotingClassifier(
        [("a", LogisticRegression()), ("b", GaussianNB())], voting="soft", flatten_transform=False
    ),
    "stacking": StackingClassifier(
        [("a", GaussianNB()), ("b", DecisionTreeClassifier(max_depth=3, random_state=0))],
        LogisticRegression(),
        cv=2,
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("labels", ["two", "three", "words"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name, labels, tmp_path):
    fine = name == "neighbours"
    x = features(0, TRAIN, fine=fine)
    y = classes(x, 2 if labels == "two" else 3)
    y = np.array(["low", "middle", "high"])[y] if labels == "words" else y
    model = CLASSIFIERS[name].fit(x, y)
    run = converted(model, x, tmp_path, options={"zipmap": False})
    asked = features(1, ASKED, fine=fine)
    label, scores = predicted(run, asked)
    np.testing.assert_array_equal(label, model.predict(asked))
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(scores, model.predict_proba(asked), rtol=1e-3, atol=2e-5)


REGRESSORS = {
    "tree": DecisionTreeRegressor(max_depth=6, random_state=0),
    "forest": RandomForestRegressor(20, max_depth=6, random_state=0),
    "extra-trees": ExtraTreesRegressor(20, max_depth=6, random_state=0),
    "gradient-boosting": GradientBoostingRegressor(n_estimators=15, random_state=0),
    "adaboost": AdaBoostRegressor(n_estimators=8, random_state=0),
    "linear": LinearRegression(),
    "ridge": Ridge(),
    "lasso": Lasso(0.01),
    "elastic": ElasticNet(0.01),
    "bayesian": BayesianRidge(),
    "huber": HuberRegressor(),
    "linear-svm": LinearSVR(random_state=0),
    "svm": SVR(),
    "svm-sigmoid": SVR(kernel="sigmoid"),
    "neighbours": KNeighborsRegressor(4),
    "network": MLPRegressor(hidden_layer_sizes=(16,), max_iter=150, random_state=0),
    "process": GaussianProcessRegressor(ConstantKernel() * RBF(1.5), alpha=1e-2, optimizer=None),
    "least-squares": PLSRegression(2),
    "voting": VotingRegressor([("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=3, random_state=0))]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors(name, tmp_path):
    fine = name == "neighbours"
    x, asked = features(0, TRAIN, fine=fine), features(1, ASKED, fine=fine)
    model = REGRESSORS[name].fit(x, numbers(x))
    (got,) = predicted(converted(model, x, tmp_path), asked)
    np.testing.assert_allclose(got.reshape(-1), model.predict(asked).reshape(-1), rtol=2e-4, atol=2e-4)


def test_several_targets(tmp_path):
    x = features(0, TRAIN, fine=True)
    y = np.stack([numbers(x), numbers(-x)], 1)
    for model in (LinearRegression(), KNeighborsRegressor(3)):
        (got,) = predicted(converted(model.fit(x, y), x, tmp_path), x)
        np.testing.assert_allclose(got, model.predict(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_clusters(kind, tmp_path):
    x = features(0, TRAIN)
    model = kind(4, n_init=2, random_state=0).fit(x)
    asked = features(1, ASKED)
    label, distances = predicted(converted(model, x, tmp_path), asked)
    np.testing.assert_array_equal(label, model.predict(asked))
    np.testing.assert_allclose(distances, model.transform(asked), rtol=1e-4, atol=1e-4)


def test_mixtures_and_outliers(tmp_path):
    x, asked = features(0, TRAIN), features(1, ASKED)
    mixture = GaussianMixture(3, random_state=0).fit(x)
    label, shares = predicted(converted(mixture, x, tmp_path), asked)
    np.testing.assert_array_equal(label.reshape(-1), mixture.predict(asked))
    np.testing.assert_allclose(shares, mixture.predict_proba(asked), rtol=1e-3, atol=1e-3)
    for model in (IsolationForest(n_estimators=20, random_state=0), OneClassSVM()):
        label, scores = predicted(
            converted(model.fit(x), x, tmp_path, target_opset={"": 17, "ai.onnx.ml": 3}), asked
        )
        np.testing.assert_array_equal(label.reshape(-1), model.predict(asked))
        np.testing.assert_allclose(scores.reshape(-1), model.decision_function(asked), rtol=1e-3, atol=1e-4)


TRANSFORMERS = {
    "standard": StandardScaler(),
    "robust": RobustScaler(),
    "range": MinMaxScaler(clip=True),
    "largest": MaxAbsScaler(),
    "norm": Normalizer("l1"),
    "binary": Binarizer(threshold=0.25),
    "bins": KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
    "powers": PolynomialFeatures(3),
    "power": PowerTransformer(),
    "components": PCA(3),
    "singular": TruncatedSVD(3, random_state=0),
    "variance": VarianceThreshold(0.1),
    "best": SelectKBest(k=2),
    "scaled-components": make_pipeline(StandardScaler(), PCA(2), MinMaxScaler()),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name, tmp_path):
    x, asked = features(0, TRAIN), features(1, ASKED)
    model = TRANSFORMERS[name].fit(x, classes(x, 3))
    (got,) = predicted(converted(model, x, tmp_path), asked)
    np.testing.assert_allclose(got, model.transform(asked), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", [SimpleImputer(strategy="median"), KNNImputer(n_neighbors=3)], ids=str)
def test_imputers(model, tmp_path):
    x = features(0, TRAIN, missing=True, fine=True)
    asked = features(1, ASKED, missing=True, fine=True)
    (got,) = predicted(converted(model.fit(x), x, tmp_path), asked)
    np.testing.assert_allclose(got, model.transform(asked), rtol=1e-4, atol=1e-5)


WORDS = ["red", "green", "blue", "ünïcode", ""]


def words(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(WORDS, object), (rows, 2))


@pytest.mark.parametrize(
    "model",
    [
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        OneHotEncoder(drop="first", sparse_output=False),
        OrdinalEncoder(),
    ],
    ids=("one-hot", "one-hot-first", "ordinal"),
)
def test_encoders_of_strings(model, tmp_path):
    x = words(0, TRAIN)
    model.fit(x)
    run = converted(model, None, tmp_path, initial_types=[("x", StringTensorType([None, 2]))])
    asked = words(1, ASKED)
    if model.handle_unknown == "ignore":
        asked[3, 0] = "never seen"
    (got,) = predicted(run, asked)
    np.testing.assert_array_equal(got, model.transform(asked))


def test_labels_as_columns(tmp_path):
    x = np.array([3, 5, 9, 5])
    model = LabelBinarizer().fit(x)
    run = converted(model, None, tmp_path, initial_types=[("x", Int64TensorType([None, 1]))])
    np.testing.assert_array_equal(run(x[:, None]), model.transform(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "last", [LogisticRegression(max_iter=500), GradientBoostingClassifier(n_estimators=8)], ids=str
)
def test_pipelines_of_columns_of_several_kinds(last, tmp_path):
    """Numbers scaled after missing ones are filled, strings encoded, then a classifier."""
    rng = np.random.default_rng(5)
    numeric = features(0, TRAIN, missing=True)
    colours = words(0, TRAIN)
    steps = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), list(range(COLUMNS))),
            ("colours", OneHotEncoder(handle_unknown="ignore"), [COLUMNS, COLUMNS + 1]),
        ]
    )
    names = [f"f{i}" for i in range(COLUMNS)] + ["c0", "c1"]
    table = pandas.DataFrame(
        {**dict(zip(names[:COLUMNS], numeric.T, strict=True)), "c0": colours[:, 0], "c1": colours[:, 1]}
    )
    y = np.where(rng.random(TRAIN) < 0.2, 0, classes(numeric, 2) ^ (colours[:, 0] == "red"))
    model = make_pipeline(steps, last).fit(table, np.array(["no", "yes"])[y])
    kinds = [(n, StringTensorType([None, 1]) if n[0] == "c" else FloatTensorType([None, 1])) for n in names]
    run = converted(model, None, tmp_path, initial_types=kinds, options={"zipmap": True})
    label, maps = run.run(
        {n: table[[n]].to_numpy() if n[0] == "c" else table[[n]].to_numpy("f4") for n in names}
    ).values()
    np.testing.assert_array_equal(label, model.predict(table))
    shares = model.predict_proba(table)
    got = np.array([[row[c] for c in model.classes_] for row in maps])
    np.testing.assert_allclose(got, shares, rtol=1e-3, atol=1e-4)


def test_counts_of_words(tmp_path):
    x = np.random.default_rng(0).integers(0, 5, (TRAIN, COLUMNS)).astype("f4")
    model = MultinomialNB().fit(x, classes(x, 3))
    label, scores = predicted(converted(model, x, tmp_path, options={"zipmap": False}), x)
    np.testing.assert_array_equal(label, model.predict(x))
    np.testing.assert_allclose(scores, model.predict_proba(x), rtol=1e-3, atol=1e-5)
