"""Sequences, optionals and maps: followed while importing, run on the host, refused in words."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import tallow
from tallow.errors import GraphError, ImportFailed, InputError
from tallow.graph import (
    VARIES,
    MapType,
    NothingType,
    OptionalType,
    SequenceType,
    TensorType,
    UnrankedType,
    cover,
    type_symbols,
)

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
f32, i64 = (tallow.dtype.DTYPES[n] for n in ("f32", "i64"))


def tensor(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def sequence(name, shape):
    element = helper.make_tensor_type_proto(FLOAT, shape)
    return helper.make_value_info(name, helper.make_sequence_type_proto(element))


def optional(name, shape):
    element = helper.make_tensor_type_proto(FLOAT, shape)
    return helper.make_value_info(name, helper.make_optional_type_proto(element))


@pytest.fixture
def build(tmp_path):
    """`build(nodes, inputs, outputs, constants)`: the path of a model and its proto."""

    def write(nodes, inputs, outputs, constants=(), opset=18):
        tensors = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in dict(constants).items()]
        graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.save(proto, tmp_path / "m.onnx")
        return tmp_path / "m.onnx", proto

    return write


def places(path):
    return [s.label for s in tallow.compile(path).plan.steps if s.place == "host"]


def test_known_sequences_leave_no_steps(build):
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "y"], ["s"]),
        helper.make_node("SequenceInsert", ["s", "x", "zero"], ["t"]),
        helper.make_node("SequenceErase", ["t", "last"], ["u"]),
        helper.make_node("SequenceLength", ["u"], ["n"]),
        helper.make_node("SequenceAt", ["u", "last"], ["e"]),
        helper.make_node("ConcatFromSequence", ["u"], ["c"], axis=0),
        helper.make_node("ConcatFromSequence", ["u"], ["k"], axis=-1, new_axis=1),
    ]
    inputs = [tensor("x", [2, 3]), tensor("y", [2, 3])]
    outputs = [tensor("n", [], INT64), tensor("e", None), tensor("c", None), tensor("k", None)]
    path, _ = build(nodes, inputs, outputs, {"zero": np.int64(0), "last": np.int64(-1)})
    assert not places(path)
    x, y = np.ones((2, 3), "f4"), np.full((2, 3), 2, "f4")
    n, e, c, k = tallow.compile(path)(x, y)
    assert n == 2 and np.array_equal(e, x)
    assert np.array_equal(c, np.concatenate([x, x])) and np.array_equal(k, np.stack([x, x], -1))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    at=st.integers(-6, 6),
    stacked=st.booleans(),
)
def test_sequences_of_the_run_agree_with_lists(tmp_path_factory, rows, at, stacked):
    """Elements of different lengths; positions inside and outside; results belong to the caller."""
    folder = tmp_path_factory.mktemp("s")
    nodes = [
        helper.make_node("SequenceInsert", ["s", "x", "at"], ["t"]),
        helper.make_node("SequenceAt", ["t", "at"], ["e"]),
        helper.make_node("Neg", ["e"], ["m"]),
        helper.make_node("SequenceLength", ["t"], ["n"]),
        helper.make_node("ConcatFromSequence", ["t"], ["c"], axis=0, new_axis=int(stacked)),
    ]
    inputs = [sequence("s", ["k", 2]), tensor("x", ["r", 2]), tensor("at", [], INT64)]
    outputs = [sequence("t", [None, 2]), tensor("m", None), tensor("n", [], INT64), tensor("c", None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "m.onnx")
    run = tallow.compile(folder / "m.onnx")
    rows = [rows[0]] * len(rows) if stacked else rows
    elements = [np.full((r, 2), i, "f4") for i, r in enumerate(rows)]
    x = np.full((rows[0], 2), 9, "f4")
    if not -len(rows) <= at <= len(rows):
        with pytest.raises(InputError, match=r"expected a position in .*got"):
            run(elements, x, np.array(at))
        return
    want = list(elements)
    want.insert(at, x)
    if at == -1 or at < 0:
        want = [*elements[:at], x, *elements[at:]]
    t, m, n, c = run(elements, x, np.array(at))
    assert n == len(want) and all(np.array_equal(a, b) for a, b in zip(t, want, strict=True))
    np.testing.assert_array_equal(m, -want[at])
    np.testing.assert_array_equal(c, np.stack(want) if stacked else np.concatenate(want))
    assert not any(np.may_share_memory(a, b) for a in t for b in (*elements, x))


def loop_that_collects(shape):
    """A loop that appends x times its number to a sequence."""
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
            helper.make_node("Mul", ["x", "f"], ["y"]),
            helper.make_node("SequenceInsert", ["acc", "y"], ["more"]),
            helper.make_node("Identity", ["c"], ["go"]),
        ],
        "body",
        [tensor("i", [], INT64), tensor("c", [], TensorProto.BOOL), sequence("acc", shape)],
        [tensor("go", [], TensorProto.BOOL), sequence("more", shape)],
    )
    return [
        helper.make_node("SequenceEmpty", [], ["none"]),
        helper.make_node("Loop", ["n", "", "none"], ["all"], body=body),
        helper.make_node("ConcatFromSequence", ["all"], ["y"], axis=0, new_axis=1),
    ]


def test_a_loop_fills_an_empty_sequence(build, rng):
    path, proto = build(
        loop_that_collects([2]), [tensor("x", [2]), tensor("n", [], INT64)], [tensor("y", None)]
    )
    run = tallow.compile(path)
    x = rng.standard_normal(2).astype("f4")
    for count in (1, 4):
        np.testing.assert_array_equal(run(x, np.array(count)), np.arange(count)[:, None].astype("f4") * x)
    with pytest.raises(InputError, match="empty sequence"):
        run(x, np.array(0))


def test_sequence_maps_are_written_out_or_loop(build, rng):
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        "body",
        [tensor("a", ["k"]), tensor("b", ["k"])],
        [tensor("y", ["k"])],
    )
    mapped = helper.make_node("SequenceMap", ["s", "b"], ["t"], body=body)
    path, proto = build([mapped], [sequence("s", ["k"]), tensor("b", [1])], [sequence("t", ["k"])])
    parts = [rng.standard_normal(n).astype("f4") for n in (1, 3, 2)]
    b = np.array([2], "f4")
    got = tallow.compile(path)(parts, b)
    for mine, part in zip(got, parts, strict=True):
        np.testing.assert_array_equal(mine, part + b)
    split = helper.make_node("SplitToSequence", ["x"], ["s"], axis=0)
    joined = helper.make_node("ConcatFromSequence", ["t"], ["y"], axis=0)
    path, _ = build([split, mapped, joined], [tensor("x", [3, 4]), tensor("b", [1])], [tensor("y", None)])
    assert not places(path)
    x = rng.standard_normal((3, 4)).astype("f4")
    np.testing.assert_array_equal(tallow.compile(path)(x, b), x + b)


@pytest.mark.parametrize("keep", [0, 1])
def test_splits_of_the_run(build, rng, keep):
    node = helper.make_node("SplitToSequence", ["x", "n"], ["s"], axis=1)
    path, _ = build([node], [tensor("x", [2, "k"]), tensor("n", [], INT64)], [sequence("s", [2, None])])
    run, x = tallow.compile(path), rng.standard_normal((2, 7)).astype("f4")
    assert [p.shape for p in run(x, np.array(3))] == [(2, 3), (2, 3), (2, 1)]
    with pytest.raises(InputError, match="parts of 1 or more"):
        run(x, np.array(0))
    node = helper.make_node("SplitToSequence", ["x"], ["s"], axis=1, keepdims=keep)
    path, _ = build([node], [tensor("x", [2, "k"])], [sequence("s", None)])
    assert [p.shape for p in tallow.compile(path)(x)] == [(2, 1) if keep else (2,)] * 7
    node = helper.make_node("SplitToSequence", ["x", "n"], ["s"], axis=1)
    path, _ = build([node], [tensor("x", [2, "k"]), tensor("n", ["m"], INT64)], [sequence("s", None)])
    run = tallow.compile(path)
    assert [p.shape[1] for p in run(x, np.array([1, 0, 6]))] == [1, 0, 6]
    with pytest.raises(InputError, match="do not add up to 7"):
        run(x, np.array([1, 2]))


def test_optionals(build):
    has = helper.make_node("OptionalHasElement", ["o"], ["h"])
    get = helper.make_node("OptionalGetElement", ["o"], ["e"])
    neg = helper.make_node("Neg", ["e"], ["y"])
    path, _ = build([has], [optional("o", ["k"])], [tensor("h", [], TensorProto.BOOL)])
    run = tallow.compile(path)
    assert run(np.ones(3, "f4")) and not run(None)
    path, _ = build([get, neg], [optional("o", ["k"])], [tensor("y", None)])
    run = tallow.compile(path)
    np.testing.assert_array_equal(run(np.ones(3, "f4")), -np.ones(3, "f4"))
    with pytest.raises(InputError, match='has no element .*OptionalGetElement node "e"'):
        run(None)
    made = [helper.make_node("Optional", ["x"], ["o"]), has, get, neg]
    path, _ = build(made, [tensor("x", [2])], [tensor("h", [], TensorProto.BOOL), tensor("y", None)])
    assert not places(path)


def test_elements_that_are_results_belong_to_the_caller(build):
    nodes = [helper.make_node("SequenceAt", ["s", "n"], [name]) for name in ("a", "b")]
    nodes.append(helper.make_node("OptionalGetElement", ["o"], ["c"]))
    inputs = [sequence("s", [2]), tensor("n", [], INT64), optional("o", [2])]
    path, _ = build(nodes, inputs, [tensor(name, [2]) for name in "abc"])
    given_, other = [np.ones(2, "f4")], np.ones(2, "f4")
    results = tallow.compile(path)(given_, np.array(0), other)
    arrays = [*results, *given_, other]
    assert all(np.array_equal(r, given_[0]) for r in results)
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_inputs_that_do_not_fit(build):
    path, _ = build(
        [helper.make_node("SequenceLength", ["s"], ["n"])], [sequence("s", [2])], [tensor("n", [], INT64)]
    )
    run = tallow.compile(path)
    assert run([]) == 0
    for wrong, message in (
        (np.ones(2, "f4"), r'input "s": expected seq\(f32\[2\]\) as a list'),
        ([np.ones(3, "f4")], r'input "s\[0\]": .*axis 0 must be 2'),
        ([np.ones(2, "f4"), np.ones(2)], r'input "s\[1\]": expected f32\[2\], got dtype f64'),
    ):
        with pytest.raises(InputError, match=message):
            run(wrong)
    with pytest.raises(InputError, match="expected no array"):
        path, _ = build(
            [helper.make_node("Identity", ["s"], ["t"])], [sequence("s", [2])], [sequence("t", [2])]
        )
        tallow.compile(path).run({"s": []}, out={"t": np.ones(2, "f4")})


def test_what_cannot_be_typed_is_refused(build):
    mixed = helper.make_node("SequenceConstruct", ["x", "n"], ["s"])
    path, _ = build([mixed], [tensor("x", [2]), tensor("n", [], INT64)], [sequence("s", [2])])
    with pytest.raises(ImportFailed, match="expected values of one kind and dtype"):
        tallow.load(path)
    ranks = helper.make_node("SequenceConstruct", ["x", "y"], ["s"])
    some = helper.make_node("SequenceAt", ["s", "n"], ["e"])
    path, _ = build(
        [ranks, some, helper.make_node("Neg", ["e"], ["m"])],
        [tensor("x", [2]), tensor("y", [2, 2]), tensor("n", [], INT64)],
        [tensor("m", None)],
    )
    with pytest.raises(ImportFailed, match=r"expected a tensor for operand 0, got unranked\(f32\)"):
        tallow.load(path)
    path, _ = build(
        [ranks, some], [tensor("x", [2]), tensor("y", [2, 2]), tensor("n", [], INT64)], [tensor("e", None)]
    )
    assert tallow.compile(path)(np.ones(2, "f4"), np.ones((2, 2), "f4"), np.array(1)).shape == (2, 2)


def test_artifacts_keep_types_and_steps(build, tmp_path):
    path, _ = build(loop_that_collects([2]), [tensor("x", [2]), tensor("n", [], INT64)], [tensor("y", None)])
    saved = tallow.compile(path).save(tmp_path / "m.tallow")
    got = tallow.open(saved)(np.ones(2, "f4"), np.array(3))
    np.testing.assert_array_equal(got, np.arange(3)[:, None] * np.ones((1, 2), "f4"))


def test_types_that_cover_others():
    a, b = TensorType(f32, (2, 3)), TensorType(f32, (2, 4))
    assert cover(a, b) == TensorType(f32, (2, VARIES)) and not type_symbols(cover(a, b))
    assert cover(a, NothingType(f32)) == cover(NothingType(f32), a) == a
    assert cover(a, TensorType(f32, (2,))) == cover(a, UnrankedType(f32)) == UnrankedType(f32)
    assert cover(SequenceType(a), SequenceType(b)) == SequenceType(cover(a, b))
    assert cover(OptionalType(a), b) == OptionalType(cover(a, b))
    assert cover(MapType(i64, a), MapType(i64, b)) == MapType(i64, cover(a, b))
    for x, y in ((a, TensorType(i64, (2, 3))), (a, SequenceType(a)), (NothingType(i64), a)):
        with pytest.raises(GraphError, match="expected values of one kind and dtype"):
            cover(x, y)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_agrees_with_the_reference(build, rng, opset):
    nodes = [
        helper.make_node("SplitToSequence", ["x", "n"], ["s"], axis=0),
        helper.make_node("SequenceErase", ["s"], ["t"]),
        helper.make_node("ConcatFromSequence", ["t"], ["y"], axis=1),
    ]
    inputs = [tensor("x", ["r", 3]), tensor("n", ["k"], INT64)]
    path, proto = build(nodes, inputs, [tensor("y", None)], opset=opset)
    x, n = rng.standard_normal((6, 3)).astype("f4"), np.array([2, 2, 2])
    (want,) = ReferenceEvaluator(proto).run(None, {"x": x, "n": n})
    np.testing.assert_array_equal(tallow.compile(path)(x, n), want)
