"""Files with flaws that have one sound reading load with a warning that names the place, and run right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import tallow
from tallow.errors import ImportFailed

X, Y = [("x", "FLOAT", ["n", 3])], [("y", "FLOAT", ["n", 3])]
DATA = np.arange(-3, 3, dtype="f4").reshape(2, 3)


def changed(path, change):
    """The model of a file with `change` done to it, saved again."""
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_nodes_out_of_order_are_sorted_and_the_first_is_named(save_onnx):
    nodes = [helper.make_node("Relu", ["a"], ["y"], name="early"), helper.make_node("Neg", ["x"], ["a"])]
    with pytest.warns(
        UserWarning, match='not in execution order .Relu node "early" comes before what it reads'
    ):
        exe = tallow.compile(tallow.load(save_onnx(nodes, X, Y)))
    np.testing.assert_array_equal(exe(DATA), np.maximum(-DATA, 0))


def test_an_operator_newer_than_the_opset_the_file_names(save_onnx):
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g"], ["a"], name="norm"),
        helper.make_node("LayerNormalization", ["a", "g"], ["y"], name="again"),
    ]
    path = save_onnx(nodes, X, Y, {"g": np.ones(3, "f4")}, opset=11)
    with pytest.warns(UserWarning, match='"norm".*came with opset 17, the file names 11') as caught:
        exe = tallow.compile(tallow.load(path))
    assert len(caught) == 1
    centred = DATA - DATA.mean(1, keepdims=True)
    np.testing.assert_allclose(exe(DATA), centred / DATA.std(1, keepdims=True), atol=1e-4)


def test_an_operand_where_the_opset_had_an_attribute(save_onnx):
    node = helper.make_node("Unsqueeze", ["x", "axes"], ["y"])
    path = save_onnx([node], X, [("y", "FLOAT", None)], {"axes": np.array([1])}, opset=11)
    assert tallow.compile(path)(DATA).shape == (2, 1, 3)


@pytest.mark.parametrize("imports", ([], [helper.make_opsetid("com.microsoft", 1)]))
def test_a_file_that_names_no_opset(save_onnx, imports):
    """The newest of its IR version: Softmax over one axis, as from opset 13 on."""
    path = save_onnx(
        [helper.make_node("Softmax", ["x"], ["y"])], [("x", "FLOAT", [2, 3, 2])], [("y", "FLOAT", None)]
    )

    def forget(model):
        del model.opset_import[:]
        model.opset_import.extend(imports)
        model.ir_version = 8

    with pytest.warns(UserWarning, match="names no opset of ONNX's own operators: assuming 18"):
        model = tallow.load(changed(path, forget))
    result = tallow.compile(model)(np.ones((2, 3, 2), "f4"))
    np.testing.assert_allclose(result, np.full((2, 3, 2), 0.5))


def test_inputs_that_nothing_reads(save_onnx):
    path = save_onnx([helper.make_node("Relu", ["x"], ["y"])], [*X, ("spare", "FLOAT", [2])], Y)
    assert len(tallow.load(path).inputs) == 2

    def untyped(model):
        model.graph.input[1].ClearField("type")

    with pytest.warns(UserWarning, match='input "spare" has no type and nothing reads it: left out'):
        exe = tallow.compile(tallow.load(changed(path, untyped)))
    np.testing.assert_array_equal(exe(DATA), np.maximum(DATA, 0))


def test_an_input_without_a_shape_has_the_rank_that_its_reader_demands(save_onnx, rng):
    w = rng.standard_normal((2, 3, 1, 1)).astype("f4")
    path = save_onnx([helper.make_node("Conv", ["x", "w"], ["y"])], X, [("y", "FLOAT", None)], {"w": w})

    def unshaped(model):
        model.graph.input[0].type.tensor_type.ClearField("shape")

    with pytest.warns(UserWarning, match='input "x" has no shape: rank 4, as its reader demands'):
        exe = tallow.compile(tallow.load(changed(path, unshaped)))
    x = rng.standard_normal((1, 3, 4, 5)).astype("f4")
    np.testing.assert_allclose(exe(x), np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]), rtol=1e-5, atol=1e-5)


def test_initializers_that_are_there_twice(save_onnx):
    path = save_onnx([helper.make_node("Add", ["x", "w"], ["y"])], X, Y, {"w": np.ones(3, "f4")})

    def twice(model):
        model.graph.initializer.append(model.graph.initializer[0])

    with pytest.warns(UserWarning, match='initializer "w" is there twice, the same'):
        exe = tallow.compile(tallow.load(changed(path, twice)))
    np.testing.assert_array_equal(exe(DATA), DATA + 1)

    def unlike(model):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, "f4"), "w"))

    with pytest.raises(ImportFailed, match='"w" is given to two values'):
        tallow.load(changed(path, unlike))


def test_results_declared_as_what_they_are_not(save_onnx):
    for declared, said in (
        (("INT64", ["n", 3]), r"int64\['n', 3\]"),
        (("FLOAT", [7]), r"float\[7\]"),
        (("FLOAT", [2, 5]), r"float\[2, 5\]"),
    ):
        path = save_onnx([helper.make_node("Relu", ["x"], ["y"])], X, [("y", *declared)])
        with pytest.warns(UserWarning, match=rf'output "y" is declared as {said}, it is f32\[n, 3\]'):
            exe = tallow.compile(tallow.load(path))
        np.testing.assert_array_equal(exe(DATA), np.maximum(DATA, 0))


def test_integers_of_two_widths_are_taken_as_the_wider(save_onnx):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Concat", ["s", "one"], ["t"], axis=0, name="mixed"),
        helper.make_node("Reshape", ["x", "t"], ["y"]),
    ]
    path = save_onnx(nodes, X, [("y", "FLOAT", None)], {"one": np.array([1], "i4")})
    with pytest.warns(
        UserWarning, match='Concat node "mixed".*32-bit and of 64-bit integers: taken as 64-bit'
    ):
        model = tallow.load(path)
    assert model.outputs[0].shape == ("n", 3, 1)
    floats = save_onnx([helper.make_node("Add", ["x", "w"], ["y"], name="sum")], X, Y, {"w": np.ones(3)})
    with pytest.raises(ImportFailed, match='Add node "sum"|operands of one dtype'):
        tallow.load(floats)


def test_slices_with_bounds_of_two_widths(save_onnx):
    values = {"starts": np.array([1], "i4"), "ends": np.array([3]), "axes": np.array([1], "i4")}
    path = save_onnx(
        [helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["y"])], X, [("y", "FLOAT", None)], values
    )
    np.testing.assert_array_equal(tallow.compile(path)(DATA), DATA[:, 1:])


@pytest.mark.parametrize("name", ("?", "unknown", "-1"))
def test_sizes_with_names_that_name_nothing_are_apart(save_onnx, name):
    path = save_onnx(
        [helper.make_node("Relu", ["x"], ["y"])], [("x", "FLOAT", [name, name])], [("y", "FLOAT", None)]
    )
    np.testing.assert_array_equal(tallow.compile(path)(DATA), np.maximum(DATA, 0))


def test_a_size_may_have_the_name_of_an_input(save_onnx):
    node = helper.make_node("Add", ["x", "n"], ["y"])
    path = save_onnx([node], [("x", "FLOAT", ["n", 3]), ("n", "FLOAT", [3])], Y)
    model = tallow.load(path)
    assert [str(p) for p in model.inputs] == ["x: f32[n, 3]", "n: f32[3]"]
    np.testing.assert_array_equal(tallow.compile(model)(DATA, np.ones(3, "f4")), DATA + 1)
    assert tallow.load(path, dims={"n": 2}).inputs[0].shape == (2, 3)


def test_nodes_of_one_name_and_results_that_are_inputs(save_onnx):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="same"),
        helper.make_node("Neg", ["a"], ["y"], name="same"),
    ]
    outputs = [*Y, ("x", "FLOAT", ["n", 3]), ("w", "FLOAT", [1])]
    results = tallow.compile(save_onnx(nodes, X, outputs, {"w": np.ones(1, "f4")})).run({"x": DATA})
    np.testing.assert_array_equal(results["y"], -np.maximum(DATA, 0))
    np.testing.assert_array_equal(results["x"], DATA)
    np.testing.assert_array_equal(results["w"], [1])


def test_what_has_no_sound_reading_is_refused(save_onnx):
    path = save_onnx([helper.make_node("Relu", ["x"], ["y"])], X, Y)

    def untyped(model):
        model.graph.input[0].ClearField("type")

    with pytest.raises(ImportFailed, match='input "x" has no type that Tallow knows'):
        tallow.load(changed(path, untyped))
    double = [*X, ("x", "FLOAT", ["n", 3])]
    with pytest.raises(ImportFailed, match='"x" is given to two values'):
        tallow.load(save_onnx([helper.make_node("Relu", ["x"], ["y"])], double, Y))
