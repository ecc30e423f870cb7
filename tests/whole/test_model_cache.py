"""The cache of whole models: a model that was compiled before is mapped, and never a stale one."""

import os
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tallow
from tallow import cache, compiler, model_cache, plugins

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def compiled(monkeypatch):
    """How often the compiler really ran."""
    calls = []
    plain = compiler.compile_graph
    monkeypatch.setattr(compiler, "compile_graph", lambda *a: calls.append(a) or plain(*a))
    return calls


def write_model(path: Path, factor: float, external: str | None = None) -> Path:
    weight = numpy_helper.from_array(np.full((64, 3), factor, np.float32)[:1], "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    if external:
        onnx.save_model(model, path, save_as_external_data=True, location=external, size_threshold=0)
    else:
        onnx.save_model(model, path)
    return path


def entries() -> list[Path]:
    return [f for f in cache.folder(model_cache.KIND).rglob("*") if f.is_file()]


def test_a_second_compile_maps_the_first(tmp_path, compiled):
    path = write_model(tmp_path / "m.onnx", 2)
    for _ in range(2):
        np.testing.assert_array_equal(tallow.compile(path)(X), 2 * X)
    assert len(compiled) == 1 and len(entries()) == 1


def test_what_an_entry_depends_on(tmp_path, compiled):
    path = write_model(tmp_path / "m.onnx", 2)
    tallow.compile(path)
    tallow.compile(path, dims={"n": 2})
    tallow.compile(path, dims={"n": (1, 4)})
    tallow.compile(path, device="cpu:x86-64-v2")
    assert len(compiled) == 4
    write_model(path, 3)
    np.testing.assert_array_equal(tallow.compile(path)(X), 3 * X)
    assert len(compiled) == 5


def test_external_data_belongs_to_the_model(tmp_path, compiled):
    path = write_model(tmp_path / "m.onnx", 2, external="weights.bin")
    np.testing.assert_array_equal(tallow.compile(path)(X), 2 * X)
    before = path.read_bytes()
    (tmp_path / "weights.bin").unlink()
    write_model(path, 5, external="weights.bin")
    assert path.read_bytes() == before
    np.testing.assert_array_equal(tallow.compile(path)(X), 5 * X)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(tallow.ImportFailed, match=r"'weights.bin' is missing"):
        tallow.compile(path)


def test_a_rewritten_file_of_equal_size_and_time_is_noticed(tmp_path):
    path = write_model(tmp_path / "m.onnx", 2)
    old = path.stat()
    tallow.compile(path)
    write_model(path, 4)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    np.testing.assert_array_equal(tallow.compile(path)(X), 4 * X)


def test_a_damaged_entry_is_made_again(tmp_path, compiled):
    path = write_model(tmp_path / "m.onnx", 2)
    tallow.compile(path)
    (entry,) = entries()
    entry.write_bytes(entry.read_bytes()[:100])
    np.testing.assert_array_equal(tallow.compile(path)(X), 2 * X)
    assert len(compiled) == 2 and entry.stat().st_size > 100


def test_digests_of_settled_files_are_remembered(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    first = model_cache.digest(path)
    assert not cache.folder(model_cache.DIGESTS).exists()  # its time stamp is too fresh to be trusted
    monkeypatch.setattr(model_cache, "SETTLED", -1.0)
    assert model_cache.digest(path) == first
    monkeypatch.setattr(model_cache.hashlib, "file_digest", None)
    assert model_cache.digest(path) == first


def test_without_a_cache_everything_still_works(tmp_path, monkeypatch, compiled):
    path = write_model(tmp_path / "m.onnx", 2)
    for place in ("", str(path)):  # off, and a folder that cannot be made
        monkeypatch.setenv("TALLOW_CACHE", place)
        np.testing.assert_array_equal(tallow.compile(path)(X), 2 * X)
    assert len(compiled) == 2


def test_importers_name_the_files_of_a_model(tmp_path):
    path = write_model(tmp_path / "m.onnx", 2, external="weights.bin")
    assert plugins.importer_for(path).files(path) == [path, (tmp_path / "weights.bin").resolve()]
    empty = tmp_path / "empty.onnx"
    empty.touch()
    assert plugins.importer_for(empty).files(empty) == [empty]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.safetensors").touch()
    names = [f.name for f in plugins.importer_for(tmp_path).files(tmp_path)]
    assert names == ["a.safetensors", "config.json"]


@pytest.fixture
def settled(monkeypatch):
    """Time stamps are trusted at once."""
    monkeypatch.setattr(model_cache, "SETTLED", -1.0)


def test_a_model_seen_before_is_not_read_again(tmp_path, settled, compiled, monkeypatch):
    path = write_model(tmp_path / "m.onnx", 2, external="weights.bin")
    tallow.compile(path)
    importer = type(plugins.importer_for(path))
    monkeypatch.setattr(importer, "files", lambda *_: pytest.fail("the model is read again"))
    monkeypatch.setattr(model_cache.hashlib, "file_digest", None)
    np.testing.assert_array_equal(tallow.compile(path)(X), 2 * X)
    assert len(compiled) == 1


def test_what_was_remembered_of_a_path_holds_for_its_content_alone(tmp_path, settled, compiled):
    path = write_model(tmp_path / "m.onnx", 2, external="weights.bin")
    tallow.compile(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(tallow.ImportFailed, match="'weights.bin' is missing"):
        tallow.compile(path)
    write_model(path, 5, external="weights.bin")
    np.testing.assert_array_equal(tallow.compile(path)(X), 5 * X)
    write_model(path, 7, external="other.bin")
    np.testing.assert_array_equal(tallow.compile(path)(X), 7 * X)
    assert len(compiled) == 3


def test_a_link_elsewhere_has_files_of_its_own(tmp_path, settled):
    """Two names of one file: external data lie beside the name."""
    for folder, factor in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        write_model(tmp_path / folder / "m.onnx", factor, external="weights.bin")
    (tmp_path / "b" / "m.onnx").unlink()
    (tmp_path / "b" / "m.onnx").symlink_to(tmp_path / "a" / "m.onnx")
    for folder, factor in (("a", 2), ("b", 3)):
        np.testing.assert_array_equal(tallow.compile(tmp_path / folder / "m.onnx")(X), factor * X)


def test_a_folder_that_gets_a_file_is_another_model(tmp_path, settled):
    (tmp_path / "config.json").write_text("{}")
    importer = plugins.importer_for(tmp_path)
    assert [f.name for f in model_cache.files_of(tmp_path, importer)] == ["config.json"]
    (tmp_path / "more.safetensors").touch()
    names = [f.name for f in model_cache.files_of(tmp_path, importer)]
    assert names == ["config.json", "more.safetensors"]


def test_another_version_of_a_package_compiles_anew(tmp_path, compiled, monkeypatch):
    path = write_model(tmp_path / "m.onnx", 2)
    tallow.compile(path)
    plain = model_cache.sources
    for changed in ("tallow", "tallow_cpu", "tallow_importers"):
        monkeypatch.setattr(
            model_cache, "sources", lambda name, changed=changed: plain(name) + "x" * (name == changed)
        )
        tallow.compile(path)
    assert len(compiled) == 4


def test_sources_follow_what_stands_in_a_folder(tmp_path, monkeypatch):
    package = types.ModuleType("made_package")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "made_package", package)
    digests = set()
    for change in ("a.py", "inner", "inner/b.py", "inner/c.txt", "__pycache__"):
        (tmp_path / change).touch() if "." in change else (tmp_path / change).mkdir()
        model_cache.sources.cache_clear()
        digests.add(model_cache.sources("made_package"))
    os.utime(tmp_path / "a.py", (1, 1))
    model_cache.sources.cache_clear()
    assert len(digests) == 2 and model_cache.sources("made_package") not in digests


def test_what_was_just_compiled_is_mapped_too(tmp_path):
    path = tmp_path / "m.onnx"
    weight = numpy_helper.from_array(np.ones((300, 200), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 200])],
        [weight],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    for _ in range(2):
        run = tallow.compile(path)
        assert {w.state for w in run.plan.weights if w.bytes > 64} == {"mapped"}
        np.testing.assert_array_equal(run(np.ones((2, 300), np.float32)), np.full((2, 200), 300))
