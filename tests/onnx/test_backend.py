"""The interface of onnx.backend: ONNX's own runner drives it; models and nodes run; refusals name the node."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.base import Backend
from onnx.backend.test import BackendTest

import tallow_importers.onnx.backend as backend
from tallow.errors import ImportFailed, InputError

SKIPS = Path(__file__).with_name("backend_skips.txt").read_text().splitlines()
SOME = r"^test_(add_bcast|sequence_insert_at_back|image_decoder_decode_png_rgb|loop13_seq|string_split_basic)_cpu$"


def model(nodes, inputs, outputs):
    ports = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "g", *ports)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def runner():
    return BackendTest(backend, __name__)


def test_the_runner_of_onnx_drives_it_unmodified(runner):
    result = unittest.TestResult()
    runner.include(SOME).test_suite.run(result)
    ran = result.testsRun - len(result.skipped)
    assert ran == 5 and result.wasSuccessful(), [text for _, text in (*result.failures, *result.errors)]


def test_every_skip_has_a_reason_and_a_case(runner):
    names = [name for items in runner._test_items.values() for name in items]
    rows = [line.split("#", 1) for line in SKIPS if not line.startswith("#")]
    for pattern, reason in rows:
        assert len(reason.split()) > 4
        assert any(re.search(pattern.strip(), name) for name in names), pattern


def test_models_by_name_in_order_and_alone():
    sub = model([helper.make_node("Sub", ["a", "b"], ["y"])], [("a", ["n"]), ("b", ["n"])], [("y", ["n"])])
    a, b = np.arange(3, dtype="f4"), np.ones(3, "f4")
    prepared = backend.prepare(sub, "CPU", threads=1)
    for given in ([a, b], {"b": b, "a": a}):
        np.testing.assert_array_equal(prepared.run(given)[0], a - b)
    np.testing.assert_array_equal(backend.run_model(sub, [a, b])[0], a - b)
    with pytest.raises(InputError, match="missing b"):
        prepared.run([a])
    neg = model([helper.make_node("Neg", ["a"], ["y"])], [("a", ["n"])], [("y", ["n"])])
    np.testing.assert_array_equal(backend.run_model(neg, a)[0], -a)


def test_single_nodes():
    x = np.array([[3, 1, 2]], "f4")
    node = helper.make_node("TopK", ["x", "k"], ["values", "places"], axis=1)
    values, places = backend.run_node(node, [x, np.array([2])])
    assert values.tolist() == [[3, 2]] and places.tolist() == [[0, 2]]
    clip = helper.make_node("Clip", ["x"], ["y"], min=1.5, max=2.5)
    (y,) = backend.run_node(clip, [x], opset_version=10)
    assert y.tolist() == [[2.5, 1.5, 2.0]]
    with pytest.raises(onnx.checker.ValidationError):
        backend.run_node(helper.make_node("NoSuchThing", ["x"], ["y"]), [x])


def test_devices_and_refusals():
    assert issubclass(backend.TallowBackend, Backend)
    assert backend.supports_device("CPU") and not backend.supports_device("NPU")
    strange = model([helper.make_node("Strange", ["a"], ["y"], name="odd")], [("a", [2])], [("y", [2])])
    with pytest.raises(ImportFailed, match='Strange node "odd" in g: no operator Strange'):
        backend.prepare(strange)
