"""Models from bytes and from files whose names do not tell, and what a file says of itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tallow
from tallow import cache, declared, model_cache, plugins
from tallow.declared import Declared

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def doubling(n="n") -> bytes:
    """y = 2 x, where x is [n, 3]."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [n, 3])],
        [numpy_helper.from_array(np.full((1, 3), 2, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"letters": "abc"})
    return model.SerializeToString()


@pytest.mark.parametrize("format", [None, "onnx"])
def test_bytes_compile(format):
    np.testing.assert_array_equal(tallow.compile(doubling(), format=format)(X), 2 * X)
    model = tallow.load(doubling(), {"n": 2}, format=format)
    assert model.path is None and model.inputs[0].shape == (2, 3)


def test_bytes_are_cached_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path))

    def entries():
        return len([f for f in cache.folder(model_cache.KIND).rglob("*") if f.is_file()])

    for wanted, options in (
        (1, {}),
        (1, {"format": "onnx"}),
        (2, {"dims": {"n": 2}}),
        (3, {"format": "onnx-untied"}),
    ):
        np.testing.assert_array_equal(tallow.compile(doubling(), **options)(X), 2 * X)
        assert entries() == wanted


def test_a_format_is_said_where_the_name_does_not_tell(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(doubling())
    with pytest.raises(tallow.ImportFailed, match="no importer reads model.bin"):
        tallow.compile(path)
    np.testing.assert_array_equal(tallow.compile(path, format="onnx")(X), 2 * X)


@pytest.mark.parametrize(
    ("data", "format", "kind", "message"),
    [
        (b"garbage", None, tallow.NotAModel, "is not an ONNX model"),
        (b"", "onnx", tallow.NotAModel, "holds no graph"),
        (doubling(), "safetensors", tallow.ImportFailed, "safetensors models are files"),
        (doubling(), "onyx", tallow.Unavailable, "no importer 'onyx'.*Did you mean 'onnx'"),
    ],
)
def test_what_bytes_cannot_be(data, format, kind, message):
    for action in (tallow.load, tallow.compile):
        with pytest.raises(kind, match=message):
            action(data, format=format)


class InMemory:
    """An importer of models in memory, for a host of its own."""

    def __init__(self, name: str, suffixes: tuple[str, ...]):
        self.name, self.suffixes = name, suffixes

    def load_bytes(self, data, dims=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("importers", "message"),
    [([], "give the path of a file"), ([("a", (".a",)), ("b", (".b",))], "say which format: a, b")],
)
def test_bytes_without_a_format_need_one_importer(importers, message, monkeypatch):
    found = plugins.PluginHost([])
    for name, suffixes in importers:
        found.register("importer", name, lambda n=name, s=suffixes: InMemory(n, s))
    monkeypatch.setattr(plugins, "host", lambda: found)
    with pytest.raises(tallow.ImportFailed, match=message):
        tallow.load(b"anything")


def test_external_data_has_no_folder_beside_bytes():
    model = onnx.load_from_string(doubling())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    with pytest.raises(tallow.ImportFailed, match="load it from its path"):
        tallow.load(model.SerializeToString())


def test_untied_sizes_are_each_their_own():
    model = onnx.load_from_string(doubling())
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", "n"]))
    data = model.SerializeToString()
    tied, untied = (tallow.load(data, format=f) for f in ("onnx", "onnx-untied"))
    assert [p.shape for p in tied.inputs] == [("n", 3), ("n", "n")]
    names = {size for p in untied.inputs for size in p.shape if isinstance(size, str)}
    assert len(names) == 3
    assert tallow.load(data, {"n": 4}, format="onnx-untied").inputs[1].shape == (4, 4)


def test_some_names_of_sizes_are_disbelieved():
    model = onnx.load_from_string(doubling())
    for name in "zv":
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "k"]))
    data = model.SerializeToString()
    importer = plugins.host().get("importer", "onnx").of(untied=["n"])
    shapes = [p.shape for p in tallow.load(data, format=importer).inputs]
    assert len({shape[0] for shape in shapes}) == 3 and [shape[1] for shape in shapes] == [3, "k", "k"]
    assert tallow.load(data, {"n": 4, "k": 2}, format=importer).inputs[1].shape == (4, 2)
    results = [tallow.compile(data, format=f) for f in (importer, "onnx", importer)]  # the last is cached
    given = [np.ones((rows, columns), "f4") for rows, columns in ((2, 3), (4, 5), (6, 5))]
    for executable in (results[0], results[2]):
        assert executable(*given).shape == (2, 3)
    with pytest.raises(tallow.InputError, match="axis 0 is n, which is 2 in another input, got 4"):
        results[1](*given)


def test_inputs_with_a_default_may_be_asked_for():
    model = onnx.load_from_string(doubling())
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 3]))
    data = model.SerializeToString()
    importer = plugins.host().get("importer", "onnx").of(fed=["w"])
    assert [p.name for p in tallow.load(data).inputs] == ["x"]
    assert [p.name for p in tallow.load(data, format=importer).inputs] == ["x", "w"]
    for _ in range(2):  # compiled, and from the cache
        fed, plain = tallow.compile(data, format=importer), tallow.compile(data)
        np.testing.assert_array_equal(fed.run({"x": X, "w": np.full((1, 3), 5, "f4")})["y"], 5 * X)
        np.testing.assert_array_equal(plain(X), 2 * X)
    with pytest.raises(tallow.ImportFailed, match="no inputs v to be given"):
        tallow.load(data, format=plugins.host().get("importer", "onnx").of(fed=["v"]))


def test_a_file_is_quoted():
    model = tallow.load(doubling("batch size"))
    said = declared.read(model.graph.metadata)
    assert said.sizes == {"x": ("batch size", 3), "y": ("batch size", 3)}
    assert said.properties == {"letters": "abc"} and said.version is None
    assert declared.KEY not in model.metadata and model.metadata["letters"] == "abc"


@pytest.mark.parametrize(
    "said",
    [
        Declared(),
        Declared({"x": (1, "n", None), "s": ()}, {"x": ("A", "", "")}, {"w": ("f32", (3,))}, version=0),
        Declared(producer="p", domain="d", description="é", graph="g", properties={"k": '"\n'}),
    ],
)
def test_declarations_survive_as_text(said):
    assert declared.read({declared.KEY: said.text()}) == said


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"colour": 1}', '{"sizes": 3}', '{"defaults": {"w": 1}}'])
def test_what_is_no_declaration(text):
    with pytest.raises(tallow.GraphError, match="metadata 'declared': expected a declaration"):
        declared.read({declared.KEY: text})


def test_a_run_can_be_observed():
    run = tallow.compile(doubling())
    results, profile = run.run_observed({"x": X})
    np.testing.assert_array_equal(results["y"], 2 * X)
    assert len(profile.steps) == len(run.plan.steps) and profile.total > 0
    with pytest.raises(tallow.InputError, match="missing x"):
        run.run_observed({})
