"""Reading ONNX files: what is right loads, what is wrong is refused in words that name it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import tallow
from tallow.errors import ImportFailed
from tallow.graph import walk

RELU = helper.make_node("Relu", ["x"], ["y"], name="act")
X, Y = [("x", "FLOAT", ["n", 3])], [("y", "FLOAT", ["n", 3])]


def refused(path, *messages):
    with pytest.raises(ImportFailed) as caught:
        tallow.load(path)
    for message in messages:
        assert message in str(caught.value)


def test_names_sizes_and_metadata(save_onnx):
    model = tallow.load(save_onnx([RELU], X, Y, producer_name="maker"))
    assert [str(p) for p in model.inputs] == ["x: f32[n, 3]"]
    assert model.metadata["producer"] == "maker" and "17" in model.metadata["opset"]


def test_every_unsupported_node_is_reported_at_once(save_onnx):
    nodes = [
        helper.make_node("NoSuchThing", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("NeitherThis", ["b"], ["y"], name="second"),
    ]
    refused(save_onnx(nodes, X, Y), '"first"', "NoSuchThing", '"second"', "NeitherThis", "ai.onnx opset 17")


def test_near_names_are_suggested(save_onnx):
    refused(save_onnx([helper.make_node("Relux", ["x"], ["y"])], X, Y), "did you mean Relu")


def test_truncated_and_foreign_files(save_onnx, tmp_path):
    good = save_onnx([RELU], X, Y).read_bytes()
    for number, content in enumerate((b"", b"\x00\x01garbage", good[:-7], b"PK\x03\x04" + good)):
        path = tmp_path / f"bad{number}.onnx"
        path.write_bytes(content)
        refused(path, path.name)
    with pytest.raises(ImportFailed, match="there is no file"):
        tallow.load(tmp_path / "none.onnx")
    (tmp_path / "model.xyz").write_bytes(b"")
    with pytest.raises(ImportFailed, match=r"no importer reads model.xyz \(known: .*\.onnx"):
        tallow.load(tmp_path / "model.xyz")


def test_mutated_files_never_crash(save_onnx):
    weights = {"w": np.arange(6, dtype="f4").reshape(3, 2)}
    path = save_onnx([helper.make_node("MatMul", ["x", "w"], ["y"])], X, [("y", "FLOAT", ["n", 2])], weights)
    good = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(300):
        copy = good.copy()
        copy[rng.integers(0, good.size, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(copy.tobytes())
        try:
            tallow.load(path)
        except ImportFailed:
            pass


def test_cycles_and_order(save_onnx):
    cycle = [
        helper.make_node("Add", ["x", "b"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
    ]
    refused(save_onnx(cycle, X, [("b", "FLOAT", ["n", 3])]), "cycle", '"one"', '"two"')
    turned = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    with pytest.warns(UserWarning, match="not in execution order"):
        tallow.load(save_onnx(turned, X, Y))


def test_missing_and_double_names(save_onnx):
    refused(save_onnx([helper.make_node("Add", ["x", "ghost"], ["y"])], X, Y), "ghost", "nothing makes")
    refused(save_onnx([RELU], X, [("z", "FLOAT", ["n", 3])]), 'output "z" is made by no node')
    refused(save_onnx([RELU, RELU], X, Y), '"y" is given to two values')


def test_types_and_dims_that_cannot_be(save_onnx, tmp_path):
    path = save_onnx([RELU], X, Y)
    model = onnx.load(path)
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    refused(path, 'input "x" has no shape')
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 20], raw_data=b"1234")
    model = onnx.load(save_onnx([helper.make_node("Add", ["x", "w"], ["y"])], X, Y))
    model.graph.initializer.append(tensor)
    onnx.save(model, path)
    refused(path, '"w"', "impossible shape")
    model.graph.initializer[0].dims[:] = [3]
    onnx.save(model, path)
    refused(path, "expected 12 bytes", "got 4")


def external(save_onnx, tmp_path, location: str, length: int = 12):
    model = onnx.load(save_onnx([helper.make_node("Add", ["x", "w"], ["y"])], X, Y))
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "external.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_stays_in_the_folder(save_onnx, tmp_path):
    np.array([1, 2, 3], "f4").tofile(tmp_path / "w.bin")
    x = np.ones((2, 3), "f4")
    np.testing.assert_array_equal(tallow.compile(external(save_onnx, tmp_path, "w.bin"))(x), x + [[1, 2, 3]])
    refused(external(save_onnx, tmp_path, "w.bin", 4096), "beyond")
    refused(external(save_onnx, tmp_path, "none.bin"), "missing")
    for outside in ("../w.bin", "/etc/passwd", "a/../../w.bin"):
        refused(external(save_onnx, tmp_path, outside), "outside the model's folder")
    (tmp_path / "link.bin").symlink_to("/etc/passwd")
    refused(external(save_onnx, tmp_path, "link.bin"), "outside the model's folder")


def test_an_operator_error_names_the_node(save_onnx):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="head")
    refused(
        save_onnx([node], X, Y, {"w": np.ones((4, 2), "f4")}),
        'MatMul node "head"',
        "inner sizes 3 and 4 differ",
    )


def test_shape_arithmetic_disappears(save_onnx):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    values = {"zero": np.array([0]), "rest": np.array([1, -1])}
    model = tallow.load(save_onnx(nodes, [("x", "FLOAT", ["n", 6])], [("y", "FLOAT", None)], values))
    assert model.outputs[0].shape == ("n", 1, 6)
    exe = tallow.compile(model)
    assert not any(s.place == "host" for s in exe.plan.steps)
    assert exe(np.zeros((5, 6), "f4")).shape == (5, 1, 6)


def test_control_flow_agrees_with_onnxruntime(save_onnx, rng):
    body = helper.make_graph(
        [
            helper.make_node("Add", ["acc", "x"], ["next"]),
            helper.make_node("ReduceSum", ["next"], ["size"], keepdims=0),
            helper.make_node("Less", ["size", "limit"], ["go"]),
            helper.make_node("Identity", ["next"], ["scan"]),
        ],
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("c", 9, []), ("acc", 1, [2]))],
        [
            helper.make_tensor_value_info(n, t, s)
            for n, t, s in (("go", 9, []), ("next", 1, [2]), ("scan", 1, [2]))
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["final", "all"], body=body)]
    values = {"trips": np.array(10), "limit": np.array(9.0, "f4")}
    outputs = [("final", "FLOAT", [2]), ("all", "FLOAT", ["t", 2])]
    path = save_onnx(nodes, [("x", "FLOAT", [2])], outputs, values)
    session = onnxruntime.InferenceSession(path)
    for x in ([1.0, 1.0], [9.0, 9.0], [-1.0, 0.5]):
        x = np.array(x, "f4")
        for got, want in zip(tallow.compile(path)(x), session.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(got, want)


def test_locations_reach_the_plan(save_onnx):
    plan = tallow.compile(save_onnx([RELU], X, Y)).plan
    assert plan.steps[0].nodes == ("act",)
    assert any(n.location.name == "act" for n in walk(tallow.load(save_onnx([RELU], X, Y)).graph))


@pytest.mark.parametrize("size", ["x", "None", "in", "f32", "batch size", "1st", "d0"])
def test_sizes_may_have_any_name(save_onnx, tmp_path, size):
    exe = tallow.compile(save_onnx([RELU], [("x", "FLOAT", [-1, size])], [("y", "FLOAT", [None, size])]))
    path = exe.save(tmp_path / "m.tallow")
    for each in (exe, tallow.open(path)):
        assert each(np.ones((2, 3), "f4")).shape == (2, 3)
    (_, named), cleaned = exe.inputs[0].shape, {"batch size": "batch_size", "1st": "_1st", "d0": "d0.1"}
    assert named == cleaned.get(size, size)
