"""Nodes that break their operator's schema or rules are refused in words, as mutation found them; those with
uncommonly large attributes compile soon and run right."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import AttributeProto, TensorProto, helper
from onnx_support import feed, one_node

import tallow
from tallow.errors import CompileError, ImportFailed, InputError
from tallow_importers.onnx.importer import load_model_proto

X = np.arange(-12, 12, dtype="f4").reshape(1, 4, 3, 2)
ONE, TWO = np.array([1]), np.array([[2.0, 3.0]], "f4")
SQUARE = np.ones((4, 1, 2, 2), "f4")


@pytest.mark.parametrize(
    "op,inputs,attributes,message",
    [
        ("Cast", {"x": X}, {"to": "FLOAT"}, '"to" of type STRING: Cast of opset 20 takes INT'),
        ("Concat", {"x": X}, {}, "no attribute axis: Concat of opset 20 needs it"),
        ("ScatterElements", {"x": X[0, 0, 0], "i": ONE[None], "u": TWO}, {}, "indices of rank 1, got"),
        ("ScatterElements", {"x": X[0, 0, 0], "i": ONE, "u": TWO}, {}, r"updates of shape \[1\], got"),
        ("ScatterND", {"x": ONE, "i": np.array([[0, 1, 2]]), "u": ONE}, {}, "at most 1"),
        ("ScatterND", {"x": X[0, 0, 0], "i": np.array([[0]]), "u": TWO}, {}, "reshape: "),
        ("RandomUniform", {}, {"shape": [2], "high": float("inf")}, "finite bounds, got 0.0 and inf"),
        ("RandomNormal", {}, {"shape": [2], "scale": -1.0}, "scale of 0 or more, got 0.0 and -1.0"),
        ("MaxPool", {"x": X}, {"kernel_shape": [2, -2]}, r"kernel of 1 or more, got \[2, -2\]"),
        ("MaxPool", {"x": X}, {"kernel_shape": [9, 1]}, "window of 9 x 1 does not fit"),
        ("MaxPool", {"x": X}, {"kernel_shape": [1]}, "expected 2 kernel"),
        (
            "Conv",
            {"x": X, "w": SQUARE},
            {"group": 4, "strides": [0, 1]},
            r"strides of 1 or more, got \[0, 1\]",
        ),
        ("ConvTranspose", {"x": X, "w": SQUARE}, {"dilations": [1, -1]}, "dilations of 1 or more"),
        ("GatherND", {"x": X, "i": np.array([[0], [0]])}, {"batch_dims": -(1 << 31)}, "expected 0 or more"),
        ("GatherND", {"x": X, "i": np.array([[0], [0]])}, {"batch_dims": 2}, "fewer than axes of"),
        ("Split", {"x": X, "s": np.array([1, 1, 2])}, {"axis": 1}, "a size for each of 1 results"),
    ],
)
def test_refused(op, inputs, attributes, message):
    proto = one_node(op, {n: np.asarray(a) for n, a in inputs.items()}, opset=20, **attributes)
    with pytest.raises(ImportFailed, match=message) as caught:
        load_model_proto(proto)
    assert f'{op} node "it"' in str(caught.value)


def test_an_attribute_without_a_type():
    proto = one_node("Softmax", {"x": X}, axis=1)
    proto.graph.node[0].attribute[0].type = AttributeProto.UNDEFINED
    with pytest.raises(ImportFailed, match='"axis" of type UNDEFINED: Softmax of opset 20 takes INT'):
        load_model_proto(proto)


def agrees(proto, inputs, rtol=1e-5):
    """What onnxruntime gives, compiled within seconds."""
    start = time.monotonic()
    run = tallow.compile(load_model_proto(proto))
    assert time.monotonic() - start < 20
    arrays = feed(proto, inputs)
    (want,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, arrays)
    np.testing.assert_allclose(run.run(arrays)["y0"], want, rtol, 1e-6)


@pytest.mark.parametrize("size", [3, 63, 99, (1 << 16) + 1])
@pytest.mark.parametrize("channels", [4, 120])
def test_sums_over_many_channels(size, channels, rng):
    inputs = {"x": rng.standard_normal((2, channels, 3, 1)).astype("f4")}
    agrees(one_node("LRN", inputs, size=size, alpha=0.5), inputs)


@pytest.mark.parametrize("op,pads", [("MaxPool", 0), ("MaxPool", 40), ("AveragePool", 40)])
@pytest.mark.parametrize("free", [(), ("x",)])
def test_windows_longer_than_a_strip_writes_out(op, pads, free, rng):
    inputs = {"x": rng.standard_normal((1, 2, 190)).astype("f4")}
    spec = {"kernel_shape": [97], "strides": [3], "pads": [pads, pads]}
    agrees(one_node(op, inputs, free=free, **spec), inputs)


def test_more_result_channels_than_blocks_are_tried_for():
    proto = one_node("Conv", {"x": X, "w": np.ones((1, 4, 3, 2), "f4")}, opset=20)
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1 << 40
    start = time.monotonic()
    exe = tallow.compile(load_model_proto(proto), "cpu")
    assert time.monotonic() - start < 30
    with pytest.raises(InputError, match="axis 0 must be 1099511627776"):
        exe.run({"x": X, "w": np.ones((1, 4, 3, 2), "f4")})


def test_windows_longer_than_any_picture():
    proto = one_node("LpPool", {"x": X}, kernel_shape=[2, 1 << 40], auto_pad="SAME_LOWER", p=2)
    run = tallow.compile(load_model_proto(proto))
    assert run.outputs[0].shape == X.shape


def test_lines_of_no_results():
    proto = one_node("MaxPool", {"x": X[..., :0]}, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    assert tallow.compile(load_model_proto(proto))(X[..., :0]).shape == (1, 4, 1, 0)


@pytest.mark.parametrize("strides", [[3, 5], [2, 3], [5, 1], [1, 70]])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 0, 1]])
def test_strides_beyond_the_window(strides, pads, rng):
    inputs = {"x": X, "w": rng.standard_normal((4, 2, 2, 3)).astype("f4")}
    agrees(one_node("ConvTranspose", inputs, strides=strides, pads=pads), inputs)


def test_strides_without_end():
    """The positions within a stride that no tap meets are not gone through one by one."""
    proto = one_node("ConvTranspose", {"x": X[..., :1, :1], "w": SQUARE}, strides=[3, (1 << 31) - 1])
    np.testing.assert_array_equal(
        tallow.compile(load_model_proto(proto))(X[..., :1, :1], SQUARE),
        np.full((1, 1, 2, 2), X[0, :, 0, 0].sum()),
    )


def test_more_positions_than_convolutions_are_made_of(rng):
    """A host step, and it says so."""
    inputs = {"x": X[..., :1], "w": rng.standard_normal((4, 1, 41, 41)).astype("f4")}
    proto = one_node("ConvTranspose", inputs, strides=[40, 40])
    run = tallow.compile(load_model_proto(proto))
    assert [s.label for s in run.plan.steps if s.place == "host"] == ["conv_transpose"]
    agrees(proto, inputs, rtol=1e-4)


def test_what_once_was_an_attribute_given_as_an_operand():
    proto = one_node("TopK", {"x": X[0, 0, 0], "k": ONE}, outputs=2, constants=("k",), opset=9)
    values, places = tallow.compile(load_model_proto(proto))(X[0, 0, 0])
    assert values.tolist() == [-11.0] and places.tolist() == [1]


def test_results_that_no_memory_holds():
    proto = one_node("Expand", {"x": ONE, "shape": np.array([1, 1, 1])})
    run = tallow.compile(load_model_proto(proto))
    with pytest.raises(InputError, match="not enough memory"):
        run(ONE, np.array([1 << 30, 1 << 30, 1 << 30]))


def test_draws_that_numpy_refuses_name_the_node():
    run = tallow.compile(load_model_proto(one_node("Bernoulli", {"x": TWO})))
    with pytest.raises(InputError, match='bernoulli failed.*Bernoulli node "it"'):
        run(TWO)


def test_memory_that_ends_while_compiling(monkeypatch):
    def full(*_):
        raise MemoryError("of this test")

    monkeypatch.setattr("tallow.building.understand", full)
    with pytest.raises(CompileError, match="not enough memory to compile the model: of this test"):
        tallow.compile(load_model_proto(one_node("Relu", {"x": X})))


def test_numbers_beyond_64_bits():
    """Sizes that no value in memory has: a sum over them is one number."""
    steps = (("Expand", ["x", "s"], "e"), ("Flatten", ["e"], "f"), ("ReduceSum", ["f"], "y0"))
    nodes = [helper.make_node(op, inputs, [result]) for op, inputs, result in steps]
    ports = [helper.make_tensor_value_info(n, TensorProto.INT64, [k]) for n, k in (("x", 1), ("s", 4))]
    graph = helper.make_graph(nodes, "g", ports, [onnx.ValueInfoProto(name="y0")])
    run = tallow.compile(
        load_model_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    )
    assert run(ONE, np.array([2, 3, 4, 1])).item() == 24
    with pytest.raises(InputError, match="are beyond 64 bits: expected smaller inputs"):
        run(ONE, np.array([1 << 30] * 4))


def test_more_axes_than_arrays_have():
    proto = one_node("Unsqueeze", {"x": X, "axes": np.arange(61)}, constants=("axes",))
    with pytest.raises(ImportFailed, match='at most 64 axes, got 65.*Unsqueeze node "it"'):
        load_model_proto(proto)


@pytest.mark.parametrize("channels", [6, "c"])
def test_norms_of_groups_of_an_open_number_of_channels(channels, rng):
    """From opset 21 on there is a factor for each channel, whether or not their number is known."""
    inputs = {n: rng.standard_normal(s).astype("f4") for n, s in (("x", (2, 6, 3)), ("s", (6,)), ("b", (6,)))}
    proto = one_node("GroupNormalization", inputs, opset=21, num_groups=3, epsilon=0.1)
    if channels != 6:
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = channels
    agrees(proto, inputs, rtol=1e-4)


def test_an_empty_part_of_a_concatenation_that_names_a_size():
    inputs = {"x": X[:0], "w": X}
    proto = one_node("Concat", inputs, constants=("w",), axis=0)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    agrees(proto, inputs)


def test_matrices_whose_squareness_the_run_tells(rng):
    inputs = {"x": rng.standard_normal((3, 4, 4)).astype("f4")}
    proto = one_node("Det", inputs)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    agrees(proto, inputs, rtol=1e-4)
    with pytest.raises(InputError, match='square.*Det node "it"'):
        tallow.compile(load_model_proto(proto))(np.ones((3, 5, 4), "f4"))
    with pytest.raises(ImportFailed, match="expected square matrices, got f32"):
        load_model_proto(one_node("Det", {"x": np.ones((3, 5, 4), "f4")}))
