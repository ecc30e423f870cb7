"""Branches whose results differ in rank: what follows is written for each, and runs as onnxruntime runs it."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
from onnx import helper

import tallow
from tallow.errors import ImportFailed, InputError

ONE = np.array([1])
X, Y = [("x", "FLOAT", ["n", 4, "t"])], [("y", "FLOAT", None)]


def branch(name: str, op: str, *operands: str):
    out = f"{name}.out"
    return helper.make_graph(
        [helper.make_node(op, ["x", *operands], [out])],
        name,
        [],
        [helper.make_tensor_value_info(out, 1, None)],
    )


def squeezed_if_single(result: str = "s", tag: str = "") -> list:
    """x without its last axis if that has one element, else x."""
    branches = {
        "then_branch": branch(f"a{tag}", "Squeeze", "two"),
        "else_branch": branch(f"b{tag}", "Identity"),
    }
    return [
        helper.make_node("Shape", ["x"], [f"shape{tag}"]),
        helper.make_node("Gather", [f"shape{tag}", "two"], [f"size{tag}"]),
        helper.make_node("Equal", [f"size{tag}", "one"], [f"single{tag}"]),
        helper.make_node("If", [f"single{tag}"], [result], name=f"maybe{tag}", **branches),
    ]


VALUES = {"one": ONE, "two": np.array([2]), "pair": np.ones(2, "f4")}
TAILS = {
    "both go on": [
        helper.make_node("Flatten", ["s"], ["f"]),
        helper.make_node("ReduceSum", ["f", "one"], ["y"]),
    ],
    "once more": [
        helper.make_node("ReduceMax", ["s"], ["m"], keepdims=0),
        *squeezed_if_single("again", "2"),
        helper.make_node("Add", ["again", "m"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["y"], keepdims=0),
    ],
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("steps", (1, 3))
def test_ranks_that_join_again(save_onnx, rng, tail, steps):
    path = save_onnx([*squeezed_if_single(), *TAILS[tail]], X, Y, VALUES)
    x = rng.standard_normal((2, 4, steps)).astype("f4")
    (want,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    np.testing.assert_allclose(tallow.compile(path)(x), want, rtol=1e-5)


def test_inside_a_function_and_a_branch_that_is_known(save_onnx, rng):
    """The rest of every enclosing graph follows."""
    inner = helper.make_graph(
        [*squeezed_if_single("i")], "inner", [], [helper.make_tensor_value_info("i", 1, None)]
    )
    nodes = [
        helper.make_node("If", ["yes"], ["s"], then_branch=inner, else_branch=branch("c", "Identity")),
        *TAILS["both go on"],
    ]
    path = save_onnx(nodes, X, Y, VALUES | {"yes": np.array(True)})
    exe = tallow.compile(path)
    for steps in (1, 5):
        x = rng.standard_normal((2, 4, steps)).astype("f4")
        np.testing.assert_allclose(exe(x), x.reshape(2, -1).sum(1, keepdims=True), rtol=1e-5)


def test_a_branch_that_cannot_go_on_fails_when_it_is_taken(save_onnx, rng):
    path = save_onnx(
        [*squeezed_if_single(), helper.make_node("Transpose", ["s"], ["y"], perm=[1, 0])], X, Y, VALUES
    )
    exe = tallow.compile(path)
    x = rng.standard_normal((2, 4, 1)).astype("f4")
    np.testing.assert_array_equal(exe(x), x[:, :, 0].T)
    with pytest.raises(InputError, match="this branch cannot run: .*no permutation"):
        exe(np.ones((2, 4, 3), "f4"))


def test_results_of_two_ranks_are_refused_with_the_way_out(save_onnx):
    path = save_onnx([*squeezed_if_single(), helper.make_node("Relu", ["s"], ["y"])], X, Y, VALUES)
    with pytest.raises(ImportFailed, match='If node "maybe".*one rank.*fixed with dims: n, t'):
        tallow.load(path)
    assert tallow.load(path, dims={"t": 1}).outputs[0].shape == ("n", 4)


def test_too_many_combinations_are_refused(save_onnx):
    nodes, total = [], []
    for number in range(6):
        total.append(f"m{number}")
        nodes += squeezed_if_single(f"s{number}", str(number))
        nodes.append(helper.make_node("ReduceMax", [f"s{number}"], [total[-1]], keepdims=0))
    path = save_onnx([*nodes, helper.make_node("Sum", total, ["y"])], X, Y, VALUES)
    with pytest.raises(ImportFailed, match="more than 16 combinations.*fixed with dims"):
        tallow.load(path)


def test_a_branch_that_ends_in_such_a_branch(save_onnx, rng):
    """Neither node's results have one rank; what follows the outer one joins them again."""
    inner = helper.make_graph(
        squeezed_if_single("i"), "inner", [], [helper.make_tensor_value_info("i", 1, None)]
    )
    nodes = [
        helper.make_node("If", ["go"], ["s"], then_branch=inner, else_branch=branch("c", "Identity")),
        *TAILS["both go on"],
    ]
    path = save_onnx(nodes, [*X, ("go", "BOOL", [])], Y, VALUES)
    exe = tallow.compile(path)
    for steps, go in itertools.product((1, 5), (True, False)):
        x = rng.standard_normal((2, 4, steps)).astype("f4")
        np.testing.assert_allclose(exe(x, np.array(go)), x.reshape(2, -1).sum(1, keepdims=True), rtol=1e-5)


def test_squeeze_of_what_has_one_element_when_it_runs(save_onnx, rng):
    nodes = [
        helper.make_node("Squeeze", ["x"], ["s"]),
        helper.make_node("ReduceSum", ["s"], ["y"], keepdims=0),
    ]
    exe = tallow.compile(save_onnx(nodes, X, Y))
    path = save_onnx(nodes[:1], X, [("s", "FLOAT", ["n", 4])], name="declared.onnx")
    declared = tallow.compile(path)
    session = onnxruntime.InferenceSession(path)
    for n, steps in ((1, 1), (2, 1), (2, 3), (1, 3)):
        x = rng.standard_normal((n, 4, steps)).astype("f4")
        np.testing.assert_allclose(exe(x), x.sum(), rtol=1e-5)
        (want,) = session.run(None, {"x": x})
        if want.ndim == 2:
            np.testing.assert_array_equal(declared(x), want)
        else:
            with pytest.raises(InputError, match='"s" would be .*the model declares rank 2'):
                declared(x)
