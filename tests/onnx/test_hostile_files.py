"""ONNX files made to harm: each is refused in words, soon, and without reading a file that is not the model's."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tallow
from tallow.errors import ImportFailed, TallowError

X, Y = [("x", "FLOAT", [3])], [("y", "FLOAT", [3])]
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


@pytest.fixture
def edited(save_onnx):
    """A sound model, changed by a function of its proto; the path."""

    def write(change, nodes=None, **arrays):
        path = save_onnx(nodes or [helper.make_node("Relu", ["x"], ["y"])], X, Y, arrays)
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())
        return path

    return write


def refused(path, *messages):
    start = time.monotonic()
    with pytest.raises(ImportFailed) as caught:
        tallow.load(path)
    for message in messages:
        assert message in str(caught.value)
    assert time.monotonic() - start < 20


# Nesting ------------------------------------------------------------------------------------------


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""

    def varint(value: int) -> bytes:
        low, rest = value & 127, value >> 7
        return bytes([low | 128]) + varint(rest) if rest else bytes([low])

    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize("depth", [20, 200, 3000])
def test_branches_nested_too_deeply(tmp_path, depth):
    """Written byte by byte, as protobuf itself would not: node 1, input 1, output 2, op_type 4, attribute 5."""
    node = field(1, b"x") + field(2, b"v") + field(4, b"Relu")
    for _ in range(depth):
        graph = field(1, node) + field(2, b"g") + field(12, field(1, b"v"))
        arms = [field(1, name) + field(6, graph) + b"\xa0\x01\x05" for name in (b"then_branch",)]
        arms += [field(1, b"else_branch") + field(6, field(12, field(1, b"x"))) + b"\xa0\x01\x05"]
        node = field(1, b"c") + field(2, b"v") + field(4, b"If") + b"".join(field(5, arm) for arm in arms)
    model = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)])
    ports = [
        helper.make_tensor_value_info(*p)
        for p in (("x", TensorProto.FLOAT, [3]), ("c", TensorProto.BOOL, []))
    ]
    outer = helper.make_graph([], "g", ports, [helper.make_tensor_value_info("v", TensorProto.FLOAT, [3])])
    path = tmp_path / "deep.onnx"
    path.write_bytes(model.SerializeToString() + field(7, outer.SerializeToString() + field(1, node)))
    if depth == 20:
        exe = tallow.compile(path)
        np.testing.assert_array_equal(exe(-np.ones(3, "f4"), np.array(True)), np.zeros(3))
    else:
        refused(path, "deep.onnx")


def function(name: str, *calls: str) -> onnx.FunctionProto:
    values = ["a", *(f"v{n}" for n in range(len(calls) - 1)), "b"]
    nodes = [
        helper.make_node(op, [values[n]], [values[n + 1]], domain="own" if op.startswith("F") else "")
        for n, op in enumerate(calls)
    ]
    return helper.make_function("own", name, ["a"], ["b"], nodes, OPSETS)


def calling(name: str, *functions: onnx.FunctionProto):
    def change(model):
        model.functions.extend(functions)
        model.opset_import.append(helper.make_opsetid("own", 1))
        model.graph.node[0].CopyFrom(helper.make_node(name, ["x"], ["y"], domain="own"))

    return change


def test_functions_that_call_themselves(edited):
    refused(edited(calling("F", function("F", "F"))), "more than 64 levels of subgraphs and functions")
    refused(edited(calling("F", function("F", "FG"), function("FG", "F"))), "more than 64 levels")


def test_functions_that_double_at_each_level(edited):
    """Thirty functions of two calls each would be a thousand million nodes."""
    levels = [function("F0", "Relu", "Relu")]
    levels += [function(f"F{n}", f"F{n - 1}", f"F{n - 1}") for n in range(1, 31)]
    refused(edited(calling("F30", *levels)), "more than", "nodes")


# Tensors ------------------------------------------------------------------------------------------


def with_tensor(**fields):
    def change(model):
        model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, **fields))
        model.graph.node[0].CopyFrom(helper.make_node("Add", ["x", "w"], ["y"]))

    return change


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"dims": [1 << 30]}, "0 values do not fill shape"),
        ({"dims": [1 << 30], "raw_data": b""}, "expected 4294967296 bytes"),
        ({"dims": [1 << 62, 1 << 62]}, "impossible shape"),
        ({"dims": [-3], "raw_data": bytes(12)}, "impossible shape [-3]"),
        ({"dims": [3], "float_data": [1.0, 2.0]}, "2 values do not fill shape [3]"),
        (
            {"dims": [3], "raw_data": bytes(13)},
            "expected 12 bytes",
        ),
        ({"dims": [1 << 40, 0], "raw_data": b"x"}, "expected 0 bytes"),
    ],
)
def test_tensors_whose_data_do_not_fill_them(edited, fields, message):
    refused(edited(with_tensor(**fields)), '"w"', message)


def test_tensors_of_no_known_type(edited):
    def change(model):
        with_tensor(dims=[3], raw_data=bytes(12))(model)
        model.graph.initializer[0].data_type = 99

    refused(edited(change), '"w"', "unknown ONNX data type 99")


def with_external(**entries):
    def change(model):
        with_tensor(dims=[3], data_location=TensorProto.EXTERNAL)(model)
        for key, value in entries.items():
            model.graph.initializer[0].external_data.add(key=key, value=value)

    return change


@pytest.mark.parametrize(
    "entries,message",
    [
        ({}, "outside the model's folder"),
        ({"location": ""}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "../secret.bin"}, "outside the model's folder"),
        ({"location": "sub/../../secret.bin"}, "outside the model's folder"),
        ({"location": "link.bin"}, "outside the model's folder"),
        ({"location": "linked/secret.bin"}, "outside the model's folder"),
        ({"location": "."}, "missing"),
        ({"location": "pipe"}, "missing"),
        ({"location": "w\0.bin"}, "outside the model's folder"),
        ({"location": "w.bin", "offset": "-4", "length": "12"}, "beyond"),
        ({"location": "w.bin", "offset": "4", "length": "12"}, "beyond"),
        ({"location": "w.bin", "offset": "0", "length": "-12"}, "beyond"),
        ({"location": "w.bin", "offset": str(1 << 70)}, "beyond"),
        ({"location": "w.bin", "length": str(1 << 62)}, "beyond"),
        ({"location": "w.bin", "offset": "x"}, "no number"),
        ({"location": "w.bin", "length": "8"}, "expected 12 bytes"),
    ],
)
def test_external_data_that_is_not_the_models(edited, tmp_path, entries, message):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    (home / "w.bin").write_bytes(bytes(12))
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    (home / "linked").symlink_to(tmp_path)
    os.mkfifo(home / "pipe")
    path = edited(with_external(**entries)).rename(home / "model.onnx")
    refused(path, '"w"', message)
    with pytest.raises(TallowError):
        tallow.compile(path)  # the cache, too, looks at the files of a model


# Names and types ----------------------------------------------------------------------------------


def test_types_that_are_missing(edited):
    refused(edited(lambda m: m.graph.input[0].ClearField("type")), 'input "x" has no type')
    refused(
        edited(lambda m: m.graph.input[0].type.tensor_type.ClearField("elem_type")),
        'input "x"',
        "unknown ONNX data type 0",
    )


def test_names_that_are_given_twice(edited):
    refused(edited(lambda m: m.graph.input.append(m.graph.input[0])), '"x" is given to two values')
    refused(edited(lambda m: m.graph.node.append(m.graph.node[0])), '"y" is given to two values')


def test_operators_and_opsets_that_do_not_exist(edited):
    refused(
        edited(lambda m: setattr(m.graph.node[0], "op_type", "Relux")),
        "no operator Relux",
        "did you mean Relu",
    )
    refused(edited(lambda m: setattr(m.graph.node[0], "op_type", "")), "no operator")
    refused(edited(lambda m: setattr(m.graph.node[0], "domain", "nobody")), "no operator Relu in nobody")
    refused(edited(lambda m: setattr(m.opset_import[0], "version", 9999)), "opset 9999")


def test_sizes_that_cannot_be(edited):
    huge = edited(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1 << 62))
    with pytest.raises(tallow.CompileError, match='larger than any memory .input "x".'):
        tallow.compile(huge)


@pytest.mark.parametrize("op", ["AffineGrid", "Reshape", "Expand", "ConstantOfShape", "Tile"])
def test_shapes_of_more_axes_than_arrays_have(save_onnx, op):
    inputs = [("x", "FLOAT", [2, 3, 4]), ("s", "INT64", [65536])]
    names = ["s"] if op == "ConstantOfShape" else ["x", "s"]
    path = save_onnx([helper.make_node(op, names, ["y"], name="many")], inputs[-len(names) :], Y)
    words = {
        "AffineGrid": "size has 65536 elements",
        "Reshape": "too long to be kept",
        "Tile": "expected 3 repeats",
    }
    refused(path, words.get(op, "at most 64 axes, got 65536"), "many")


def test_inputs_of_more_axes_than_arrays_have(save_onnx):
    path = save_onnx([helper.make_node("Relu", ["x"], ["y"])], [("x", "FLOAT", [1] * 65)], Y)
    refused(path, "at most 64 axes, got 65")


def test_products_of_sizes_that_double_with_each_axis(save_onnx):
    nodes = [
        helper.make_node("Pad", ["x", "p"], ["z"]),
        helper.make_node("Flatten", ["z"], ["y"], name="flat"),
    ]
    inputs = [("x", "FLOAT", [f"n{axis}" for axis in range(40)]), ("p", "INT64", [80])]
    refused(save_onnx(nodes, inputs, Y), "too long to be kept", "give some of the sizes numbers")


@pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 46])
def test_pictures_larger_than_any_memory(save_onnx, size):
    node = helper.make_node("MaxPool", ["x"], ["y"], name="pool", kernel_shape=[2, 2], strides=[2, 2])
    path = save_onnx([node], [("x", "FLOAT", [1, 1, 4, size])], [("y", "FLOAT", [1, 1, 2, "w"])])
    with pytest.raises(tallow.CompileError, match='larger than any memory .input "x".'):
        tallow.compile(path)


def test_lines_of_pictures_compile_soon_however_long(save_onnx):
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3], strides=[2], pads=[1, 1])
    long, short = (1 << 40), (1 << 18) + 5
    start = time.monotonic()
    tallow.compile(save_onnx([node], [("x", "FLOAT", [1, 1, long])], [("y", "FLOAT", [1, 1, "w"])]))
    assert time.monotonic() - start < 30
    graph = tallow.load(
        save_onnx([node], [("x", "FLOAT", [1, 1, short])], [("y", "FLOAT", [1, 1, "w"])])
    ).graph
    x = np.random.default_rng(0).standard_normal((1, 1, short)).astype("f4")
    np.testing.assert_array_equal(tallow.compile(graph)(x), tallow.evaluate(graph, {"x": x})["y"])


def test_axes_that_are_no_integers(edited):
    nodes = [helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], name="put", axis=0.5)]
    path = edited(lambda m: None, nodes, i=np.arange(3))
    with pytest.raises(TallowError, match='"axis" of type FLOAT: ScatterElements of opset 17 takes INT'):
        tallow.compile(path)


@pytest.mark.parametrize("size", [10**9, 10**15])
def test_results_larger_than_memory(save_onnx, size):
    """ConstantOfShape of a size that an input gives."""
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["y"])]
    path = save_onnx(nodes, [("n", "INT64", [2])], [("y", "FLOAT", ["a", "b"])])
    program = f"""
import resource, numpy, tallow
resource.setrlimit(resource.RLIMIT_AS, ({3 << 30}, {3 << 30}))
exe = tallow.compile({str(path)!r}, threads=1)
try:
    exe(numpy.array([{size}, 1000]))
except tallow.TallowError as error:
    print(type(error).__name__, error)
print(exe(numpy.array([2, 3])).shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "(2, 3)" and done.stdout.startswith("InputError"), done


def test_files_that_are_no_protobuf(tmp_path):
    for number, content in enumerate(
        (b"", b"\xff" * 100, b"\x08\x08" * 5000, b"\x0a\xff\xff\xff\x7f", b"PK\x03\x04")
    ):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(content)
        refused(path, path.name)
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "folder.onnx")


def test_no_file_costs_much_memory():
    """This process, which has read all of the above, has stayed small."""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # kB
