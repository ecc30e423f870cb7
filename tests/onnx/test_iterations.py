"""Loops and scans whose number of iterations sizes tell have results of known sizes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import tallow
from tallow.schedule.program import ControlStep

F, WHOLE, FLAG = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name, kind=F, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def counted(again: str):
    """A body that keeps 2 x; `again` makes the condition."""
    nodes = {
        "given": helper.make_node("Identity", ["going"], ["again"]),
        "true": helper.make_node("Constant", [], ["again"], value=helper.make_tensor("t", FLAG, [], [True])),
        "data": helper.make_node("Less", ["i", "limit"], ["again"]),
    }
    made = [
        nodes[again],
        helper.make_node("Add", ["v", "v"], ["next"]),
        helper.make_node("Neg", ["v"], ["row"]),
    ]
    inputs = [info("i", WHOLE, []), info("going", FLAG, []), info("v", F, [3])]
    return helper.make_graph(made, "body", inputs, [info("again", FLAG), info("next"), info("row")])


TRIPS = {
    "a constant": ([], "three", 3),
    "a size": (
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "nought"], ["trips"]),
        ],
        "trips",
        "n",
    ),
    "a size less one": (
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "nought"], ["size"]),
            helper.make_node("Sub", ["size", "one"], ["trips"]),
        ],
        "trips",
        "max(0, n - 1)",
    ),
}
VALUES = {
    "three": np.array(3),
    "nought": np.array(0),
    "one": np.array(1),
    "start": np.ones(3, "f4"),
    "yes": np.array(True),
}


@pytest.mark.parametrize("again", ["given", "true", "data"])
@pytest.mark.parametrize("trips", TRIPS)
def test_loops(save_onnx, trips, again):
    nodes, count, rows = TRIPS[trips]
    loop = helper.make_node("Loop", [count, "yes", "start"], ["last", "rows"], body=counted(again))
    path = save_onnx(
        [*nodes, loop],
        [("x", "FLOAT", ["n", 2]), ("limit", "INT64", [])],
        [("last", "FLOAT", None), ("rows", "FLOAT", None)],
        VALUES,
    )
    model = tallow.load(path)
    if again != "data":
        assert model.outputs[1].shape == (rows, 3)
    exe = tallow.compile(model)
    assert not any(isinstance(step, ControlStep) for step in exe.compiled.program.steps)
    session = onnxruntime.InferenceSession(path)
    for size in (0, 1, 4):
        for limit in (-1, 1, 9):
            feed = {"x": np.zeros((size, 2), "f4"), "limit": np.array(limit)}
            feed = {name: feed[name] for name in [p.name for p in session.get_inputs()]}
            want = session.run(None, feed)
            got = exe.run({"x": np.zeros((size, 2), "f4"), "limit": np.array(limit)})
            np.testing.assert_array_equal(got["last"], want[0])
            np.testing.assert_array_equal(got["rows"], want[1])


@pytest.mark.parametrize("backwards", [0, 1])
def test_scans_are_as_long_as_what_they_scan(save_onnx, backwards, rng):
    nodes = [helper.make_node("Add", ["s", "r"], ["sum"]), helper.make_node("Tanh", ["sum"], ["out"])]
    body = helper.make_graph(
        nodes, "body", [info("s", F, [3]), info("r", F, [3])], [info("sum", F, [3]), info("out", F, [3])]
    )
    scan = helper.make_node(
        "Scan", ["start", "x"], ["last", "rows"], body=body, num_scan_inputs=1,
        scan_input_directions=[backwards], scan_output_directions=[backwards],
    )  # fmt: skip
    path = save_onnx(
        [scan], [("x", "FLOAT", ["n", 3])], [("last", "FLOAT", [3]), ("rows", "FLOAT", ["n", 3])], VALUES
    )
    assert tallow.load(path).outputs[1].shape == ("n", 3)
    exe, session = tallow.compile(path), onnxruntime.InferenceSession(path)
    for rows in (1, 2, 700):
        x = rng.normal(size=(rows, 3)).astype("f4")
        for got, want in zip(exe(x), session.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert exe(np.zeros((0, 3), "f4"))[1].shape == (0, 3)
