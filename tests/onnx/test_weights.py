"""Weights of a file are read without protobuf, which sees a model that means the same."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tallow
from tallow.errors import ImportFailed
from tallow_importers.onnx import weights

LARGE = np.arange(3000, dtype=np.float32).reshape(30, 100)


def proto() -> onnx.ModelProto:
    """Weights large and small, in fields and raw, in the graph and in a branch."""
    inner = helper.make_graph(
        [helper.make_node("Identity", ["v"], ["z"])],
        "arm",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [30, 100])],
        [numpy_helper.from_array(LARGE * 2, "v")],
    )
    fields = helper.make_tensor("f", TensorProto.FLOAT, [1100], np.ones(1100, np.float32))
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["t"], then_branch=inner, else_branch=inner),
            helper.make_node("Add", ["t", "a"], ["u"]),
            helper.make_node("Mul", ["u", "b"], ["w"]),
            helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0),
            helper.make_node("Add", ["w", "s"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [30, 100])],
        [numpy_helper.from_array(LARGE, "a"), fields, numpy_helper.from_array(LARGE[0] + 1, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_model_means_the_same(tmp_path):
    path, model = tmp_path / "m.onnx", proto()
    path.write_bytes(model.SerializeToString())
    rest, found = weights.read(path)
    assert set(found) == {0}  # the others are small, or in fields
    assert found[0].ctypes.data % 64 == 0 and found[0].tobytes() == LARGE.tobytes()
    assert len(rest) < os.path.getsize(path) - LARGE.nbytes + 100
    assert weights.read_without_weights(path) == rest
    assert weights.read_bytes(path.read_bytes())[0] == rest
    want = 2 * LARGE * (LARGE[0] + 1) + LARGE * (LARGE[0] + 1) + 1100
    for source in (path, path.read_bytes()):
        got = tallow.evaluate(tallow.load(source).graph, {"c": np.array(True)})
        np.testing.assert_array_equal(got["y"], want)
    np.testing.assert_array_equal(tallow.compile(path)(np.array(True)), want)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_are_what_protobuf_says_they_are(data):
    """Reading raw data apart never makes of a file what protobuf would not."""
    content = bytearray(proto().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 200) | st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    whole, cut = onnx.ModelProto(), onnx.ModelProto()
    rest, found = weights.read_bytes(content)
    try:
        whole.ParseFromString(content)
    except DecodeError:
        with pytest.raises(DecodeError):
            cut.ParseFromString(rest)
        return
    cut.ParseFromString(rest)
    for number, raw in found.items():
        cut.graph.initializer[number].raw_data = raw.tobytes()
    assert cut == whole


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(proto().SerializeToString())
    monkeypatch.setattr(weights.os, "preadv", lambda *_: 0)
    with pytest.raises(ImportFailed, match="became shorter while it was read"):
        tallow.load(path)


def test_short_reads_go_on(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(proto().SerializeToString())
    plain = os.preadv
    monkeypatch.setattr(weights.os, "preadv", lambda f, into, at: plain(f, [into[0][:1000]], at))
    assert weights.read(path)[1][0].tobytes() == LARGE.tobytes()
