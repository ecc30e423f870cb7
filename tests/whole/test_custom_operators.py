"""Operators of one's own: every way to a kernel, every form that a model takes, and every mistake in words."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.cli import main
from tallow.cstyle.dialects import OPENCL
from tallow.cstyle.printer import print_kernel
from tallow.discovery import Point
from tallow.dtype import DTYPES
from tallow.errors import (
    CompileError,
    GraphError,
    ImportFailed,
    InputError,
    PluginError,
    Unavailable,
    VerifyError,
)
from tallow.graph import TensorType, parse, print_graph
from tallow.hookspecs import hook
from tallow.kernel.build import add, call, const, mul
from tallow.kernel.grammar import Buffer, For, Kernel, Let, Load, SourceKernel, Store, Var
from tallow.lower.group import Declined, KernelCall
from tallow.model_cache import key_of
from tallow.ops import OPS
from tallow.registered import OPERATORS


@pytest.fixture(autouse=True)
def only_known_operators():
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)
    OPERATORS.clear()


@pytest.fixture
def opencl() -> str:
    """A device of OpenCL, where one is here."""
    try:
        return plugins.backend("opencl").devices()[0].name
    except Unavailable as error:
        pytest.skip(str(error))


def same(operands, attributes):
    return operands[0]


def swish(arrays, attributes):
    x = arrays[0]
    return x / (1 + np.exp(-attributes.get("beta", 1.0) * x)).astype(x.dtype)


def swish_index(node, index, read):
    x = read(0, index)
    beta = const(node.attributes.get("beta", 1.0), node.output.dtype)
    return call("mul", x, call("sigmoid", call("mul", beta, x)))


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def one(name: str, shape=("n", 5), dtype="f32", **attributes):
    b = Builder("net")
    return b.finish({"y": b.emit(name, b.input("x", dtype, shape), **attributes)})


def agree(graph, inputs, device: str, rtol=1e-5):
    """The executable, when it agrees with the numpy meaning."""
    run = tallow.compile(graph, device)
    got, want = run.run(inputs), tallow.evaluate(graph, inputs)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol, rtol)
        assert got[name].dtype == array.dtype
    return run


def places(run) -> list[tuple[str, str]]:
    return [(step.label, step.place) for step in run.plan.steps]


# Ways to a kernel ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "example"])
def test_an_index_rule_becomes_part_of_a_kernel(device):
    tallow.register_op("mine.swish", same, swish, index=swish_index)
    b = Builder()
    x = b.input("x", "f32", ["n", 5])
    graph = b.finish({"y": b.add(b.emit("mine.swish", b.neg(x), beta=2.0), 1.0)})
    for n in (0, 1, 7):
        run = agree(graph, {"x": noise(n, 5)}, device)
    assert places(run) == [("neg+mine.swish+add", device)]


def test_a_pointwise_rule_joins_a_product_and_broadcasts():
    def mix(node, index, read):
        return call("add", read(0, index), call("mul", read(1, index), const(2.0, node.output.dtype)))

    def broadcast(operands, attributes):
        return operands[0]

    tallow.register_op(
        "mine.mix", broadcast, lambda arrays, a: arrays[0] + 2 * arrays[1], index=mix, pointwise=True, arity=2
    )
    b = Builder()
    x, bias = b.input("x", "f32", ["n", 6]), b.input("bias", "f32", [9])
    graph = b.finish({"y": b.emit("mine.mix", b.matmul(x, b.constant(noise(6, 9))), bias)})
    run = agree(graph, {"x": noise(5, 6), "bias": noise(9)}, "cpu", 1e-4)
    assert places(run) == [("cpu.matmul+mine.mix", "cpu")]
    b = Builder()
    bias = b.input("bias", "f32", [1, 7])
    graph = b.finish({"y": b.emit("mine.mix", b.input("x", "f32", ["n", 7]), bias)})
    agree(graph, {"x": noise(3, 7), "bias": noise(1, 7)}, "cpu")


def test_a_decomposition_is_written_out():
    tallow.register_op(
        "mine.swish", same, swish, decompose=lambda b, node: b.mul(node.inputs[0], b.sigmoid(node.inputs[0]))
    )
    run = agree(one("mine.swish"), {"x": noise(4, 5)}, "cpu")
    assert places(run) == [("sigmoid+mul", "cpu")]


def running_sum(node, target):
    """One grid iteration for each row; the sum so far is read back from the result."""
    (x,), y = node.inputs, node.output
    rows, columns = x.shape
    row, column, wide = Var("row"), Var("column"), Var("wide")
    source, result = Buffer("x", x.dtype), Buffer("y", x.dtype, writable=True)
    here = add(mul(row, wide), column)
    before = Load(result, add(here, const(-1)), 1, call("gt", column, const(0)))
    total = call("add", Load(source, here), before)
    body = (
        For(column, wide, (Let(Var("total", x.dtype), total), Store(result, here, Var("total", x.dtype)))),
    )
    kernel = Kernel("sum", (source, result), (Var("rows"), wide), (For(row, Var("rows"), body, "grid"),))
    return KernelCall(kernel, (x, y), (rows, columns), rows)


@pytest.mark.parametrize("device", ["cpu", "example"])
def test_a_kernel_is_compiled(device):
    tallow.register_op(
        "mine.sum", same, lambda arrays, a: arrays[0].cumsum(1, arrays[0].dtype), kernel=running_sum
    )
    b = Builder()
    graph = b.finish({"y": b.neg(b.emit("mine.sum", b.exp(b.input("x", "f32", ["n", "m"]))))})
    for shape in ((3, 17), (0, 4), (2, 0), (1, 1)):
        run = agree(graph, {"x": noise(*shape)}, device)
    assert ("mine.sum", device) in places(run)
    graph = one("mine.sum", (2, 2), "i32")
    agree(graph, {"x": np.arange(4, dtype=np.int32).reshape(2, 2)}, device)


def test_a_kernel_may_decline():
    tallow.register_op(
        "mine.sum", same, lambda arrays, a: arrays[0], kernel=lambda node, t: Declined("not today")
    )
    run = agree(one("mine.sum"), {"x": noise(2, 5)}, "cpu")
    assert [(s.place, s.reason) for s in run.plan.steps] == [("host", "not today")]


def test_source_of_a_backends_own_is_compiled_there_and_the_meaning_runs_elsewhere():
    def text(node):
        return f"y0[item] = x0[item] / (1 + exp(-{node.attributes.get('beta', 1.0)}f * x0[item]));"

    tallow.register_op("mine.swish", same, swish, source={"example": text})
    graph = one("mine.swish", beta=2.0)
    run = agree(graph, {"x": noise(3, 5)}, "example")
    assert places(run) == [("mine.swish", "example")]
    (step,) = agree(graph, {"x": noise(3, 5)}, "cpu").plan.steps
    assert (step.place, step.reason) == ("host", "mine.swish has kernels for example and none for cpu")


def test_source_in_opencl_c(opencl):
    tallow.register_op(
        "mine.swap",
        lambda types, attributes: list(reversed(types)),
        lambda arrays, attributes: (arrays[1], arrays[0] + 1),
        source={"opencl": "y0[item] = x1[item]; y1[item] = x0[item] + 1;"},
        arity=2,
    )
    b = Builder("net")
    x = b.input("x", "f32", ["n", 5])
    first, second = b.emit("mine.swap", b.exp(x), b.neg(x))
    graph = b.finish({"first": b.mul(first, 2.0), "second": second})
    run = agree(graph, {"x": noise(3, 5)}, opencl)
    assert [label for label, place in places(run) if place == "opencl"] == ["exp", "neg", "mine.swap", "mul"]


def test_source_knows_the_extents_and_may_have_a_grid_of_its_own():
    def infer(operands, attributes):
        return TensorType(operands[0].dtype, operands[0].shape[:1])

    tallow.register_op(
        "mine.last",
        infer,
        lambda arrays, a: arrays[0][:, -1],
        source={"example": "y0[item] = x0[item * x0_1 + x0_1 - 1];"},
        grid=lambda node: node.inputs[0].shape[0],
    )
    for shape in ((3, 4), (1, 1), (0, 2)):
        run = agree(one("mine.last", ("n", "m")), {"x": noise(*shape)}, "example")
    assert places(run) == [("mine.last", "example")]


def test_source_with_an_error_shows_the_compilers_words():
    tallow.register_op("mine.wrong", same, swish, source={"example": "y0[item] = nowhere;"})
    with pytest.raises(CompileError, match="nowhere"):
        tallow.compile(one("mine.wrong"), "example")


def test_source_of_a_dtype_that_the_language_lacks_is_refused():
    kernel = SourceKernel("odd", (Buffer("x0", DTYPES["c64"]),), (Var("grid"),), "")
    with pytest.raises(CompileError, match="kernel odd: no c64 in opencl"):
        print_kernel(kernel, OPENCL)


def test_the_cpu_refuses_source():
    tallow.register_op("mine.wrong", same, swish, source={"cpu": "y0[item] = 0;"})
    with pytest.raises(CompileError, match="mine_wrong_0: the CPU backend takes no source.*index rule"):
        tallow.compile(one("mine.wrong"), "cpu")


def test_without_a_kernel_the_numpy_meaning_runs_and_the_plan_says_so():
    tallow.register_op("mine.plain", same, lambda arrays, a: np.sort(arrays[0], 0))
    run = agree(one("mine.plain"), {"x": noise(4, 5)}, "cpu")
    assert [(s.place, s.reason) for s in run.plan.steps] == [("host", "no kernel for mine.plain")]


def test_several_results():
    def infer(operands, attributes):
        return [operands[0], TensorType(operands[0].dtype, ())]

    tallow.register_op("mine.two", infer, lambda arrays, a: (arrays[0] + 1, arrays[0].sum()))
    b = Builder()
    more, total = b.emit("mine.two", b.input("x", "f32", ["n"]))
    agree(b.finish({"more": more, "total": total}), {"x": noise(4)}, "cpu")


# Forms of a model ---------------------------------------------------------------------------------


def test_the_text_form_round_trips():
    tallow.register_op("mine.swish", same, swish, index=swish_index)
    graph = one("mine.swish", beta=2.0)
    text = print_graph(graph)
    assert "mine.swish" in text and print_graph(parse(text)) == text
    inputs = {"x": noise(2, 5)}
    np.testing.assert_array_equal(
        tallow.evaluate(parse(text), inputs)["y"], tallow.evaluate(graph, inputs)["y"]
    )


def onnx_model(save_onnx, name="Swish", outputs=("y",), operands=("x",), **attributes):
    node = helper.make_node(name, operands, outputs, name="activation", domain="mine", **attributes)
    ports = [("x", "FLOAT", ["n", 5])], [("y", "FLOAT", ["n", 5])]
    return _save(save_onnx, node, ports)


def _save(save_onnx, node, ports):
    path = save_onnx([node], *ports)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(model, path)
    return path


def test_onnx_nodes_of_its_domain_become_it(save_onnx):
    seen = {}

    def meaning(arrays, attributes):
        seen.update(attributes)
        return swish(arrays, attributes)

    tallow.register_op("mine.Swish", same, meaning, index=swish_index)
    table = helper.make_tensor("t", 1, [2], [1.0, 2.0])
    path = onnx_model(save_onnx, beta=2.0, sizes=[1, 2], mode="fast", table=table)
    model, x = tallow.load(path), noise(3, 5)
    np.testing.assert_allclose(tallow.compile(model)(x), swish([x], {"beta": 2.0}), rtol=1e-5)
    tallow.evaluate(model.graph, {"x": x})
    assert (seen["beta"], seen["sizes"], seen["mode"]) == (2.0, (1, 2), "fast")
    np.testing.assert_array_equal(seen["table"], [1.0, 2.0])


def test_an_onnx_node_of_an_unknown_domain_says_how_to_add_it(save_onnx):
    with pytest.raises(
        ImportFailed, match=r"no operator Swish in mine.*register_op adds it under the name mine\.Swish"
    ):
        tallow.load(onnx_model(save_onnx))


def test_onnx_nodes_that_do_not_fit_are_refused(save_onnx):
    tallow.register_op("mine.Swish", same, swish, arity=(1, 3))
    with pytest.raises(ImportFailed, match="has 2 results: mine.Swish gives 1"):
        tallow.load(onnx_model(save_onnx, outputs=("y", "z")))
    with pytest.raises(ImportFailed, match="operand 1 left out"):
        tallow.load(onnx_model(save_onnx, operands=("x", "", "x")))
    with pytest.raises(ImportFailed, match="attribute body, which is neither"):
        tallow.load(onnx_model(save_onnx, body=helper.make_graph([], "g", [], [])))
    with pytest.raises(ImportFailed, match="an attribute called name"):
        tallow.load(_named(save_onnx))
    assert tallow.load(onnx_model(save_onnx, operands=("x", ""))).inputs
    with pytest.raises(ImportFailed, match="takes 1 to 3 operands, got 4"):
        tallow.load(onnx_model(save_onnx, operands=("x", "x", "x", "x")))


def _named(save_onnx):
    node = helper.make_node("Swish", ["x"], ["y"], domain="mine")
    node.attribute.append(helper.make_attribute("name", "n"))
    return _save(save_onnx, node, ([("x", "FLOAT", ["n", 5])], [("y", "FLOAT", ["n", 5])]))


def test_check_lists_it(save_onnx):
    tallow.register_op("mine.Swish", same, swish, source={"example": "y0[item] = x0[item];"})
    path = onnx_model(save_onnx)
    result = CliRunner().invoke(main, ["check", str(path), "--json"])
    assert '"mine.Swish has kernels for example and none for cpu"' in result.output
    assert (
        '"host": []' in CliRunner().invoke(main, ["check", str(path), "--json", "--device", "example"]).output
    )


def run_elsewhere(path, x, tmp_path) -> subprocess.CompletedProcess:
    """A process that knows no operator of this test runs an artifact."""
    np.save(tmp_path / "x.npy", x)
    code = f"import numpy as np, tallow; np.save('y.npy', tallow.open({str(path)!r})(np.load('x.npy')))"
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)


def test_an_artifact_with_a_kernel_needs_no_registration(tmp_path):
    tallow.register_op("mine.swish", same, swish, index=swish_index)
    run = tallow.compile(one("mine.swish"))
    path, x = run.save(tmp_path / "net.tallow"), noise(3, 5)
    done = run_elsewhere(path, x, tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), run(x))


def test_an_artifact_with_a_host_step_names_what_to_register(tmp_path):
    tallow.register_op("mine.swish", same, swish)
    path = tallow.compile(one("mine.swish")).save(tmp_path / "net.tallow")
    done = run_elsewhere(path, noise(3, 5), tmp_path)
    assert "net needs the numpy meaning of mine.swish, which nobody has registered" in done.stderr
    tallow.unregister_op("mine.swish")
    with pytest.raises(Unavailable, match="tallow.register_op before opening it"):
        tallow.open(path)
    tallow.register_op("mine.swish", same, swish)
    assert tallow.open(path)(noise(3, 5)).shape == (3, 5)


def test_the_model_cache_tells_definitions_apart(save_onnx):
    target = plugins.backend("cpu").target()
    path = onnx_model(save_onnx)

    def key(**how):
        OPS.pop("mine.Swish", None)
        tallow.register_op("mine.Swish", same, how.pop("evaluate", swish), **how)
        return key_of([path], {}, [target], ())

    plain = key()
    assert plain == key()
    others = [key(index=swish_index), key(version="2"), key(evaluate=lambda arrays, a: arrays[0])]
    others += [key(source={"example": text}) for text in ("a", "b")]
    others += [key(evaluate=scaled(factor)) for factor in (2, 3)]
    assert len({plain, *others}) == 8
    x = np.ones((1, 5), np.float32)
    for factor in (2, 3):
        key(evaluate=scaled(factor))
        np.testing.assert_array_equal(tallow.compile(path)(x), factor * x)


def scaled(factor):
    return lambda arrays, attributes: arrays[0] * np.float32(factor)


def test_a_plugin_package_brings_operators():
    @hook
    def register_ops(register):
        register(tallow.custom_op("mine.swish", same, swish, index=swish_index))

    module = types.ModuleType("made_operators")
    module.TALLOW_API, module.register_ops = 1, register_ops
    sys.modules["made_operators"] = module
    for _ in range(2):  # a second host finds the same definition
        host = plugins.PluginHost([Point("operators", "made_operators", "made", "1")])
        host.complete()
        assert host.infos[0].provides == ["operator mine.swish"] and host.infos[0].error is None
    agree(one("mine.swish"), {"x": noise(2, 5)}, "cpu")


# Mistakes -----------------------------------------------------------------------------------------


def test_names_are_refused():
    with pytest.raises(PluginError, match="expected a domain and a name with a dot"):
        tallow.register_op("swish", same, swish)
    with pytest.raises(PluginError, match="'cpu.matmul' is already registered: choose another"):
        plugins.host()
        tallow.register_op("cpu.matmul", same, swish)
    tallow.register_op("mine.swish", same, swish)
    tallow.register_op("mine.swish", same, swish)  # the same again harms nothing
    with pytest.raises(PluginError, match="'mine.swish' is already registered"):
        tallow.register_op("mine.swish", same, swish, version="2")
    with pytest.raises(PluginError, match="'relu' was not added by register_op"):
        tallow.unregister_op("relu")
    with pytest.raises(PluginError, match="'mine.none' was not added"):
        tallow.unregister_op("mine.none")


def test_arguments_that_do_not_fit_together_are_refused():
    with pytest.raises(PluginError, match="give index too"):
        tallow.register_op("mine.x", same, swish, pointwise=True)
    with pytest.raises(PluginError, match="a kernel and source for example: give one"):
        tallow.register_op("mine.x", same, swish, source={"example": ""}, kernel={"example": running_sum})
    with pytest.raises(PluginError, match="cannot tell what a Meaning means: use plain functions"):

        class Meaning:
            def __call__(self, arrays, attributes):
                return arrays[0]

        tallow.register_op("mine.x", same, Meaning())

    def again(arrays, attributes):
        return again(arrays, attributes)

    with pytest.raises(PluginError, match="refer to themselves or to what is not defined yet"):
        tallow.register_op("mine.x", same, again)


def test_an_operator_that_nobody_knows_says_how_to_add_it():
    with pytest.raises(GraphError, match="no operator 'mine.x'.*added by tallow.register_op"):
        one("mine.x")


@pytest.mark.parametrize(
    "rule, message",
    [
        (lambda types, a: "f32", "expected a type or several from its type rule, got 'f32'"),
        (lambda types, a: (), r"expected a type or several from its type rule, got \(\)"),
        (lambda types, a: types[1], r"its type rule fails on f32\[n, 5\]: IndexError"),
        (lambda types, a: a["beta"], "its type rule fails on .*KeyError: 'beta'"),
    ],
)
def test_a_wrong_type_rule_is_told(rule, message):
    tallow.register_op("mine.x", rule, swish)
    with pytest.raises(GraphError, match=f"mine.x: {message}"):
        one("mine.x")


@pytest.mark.parametrize(
    "meaning, got",
    [
        (lambda arrays, a: arrays[0].astype("f8"), r"float64\[3, 5\]"),
        (lambda arrays, a: arrays[0][1:], r"float32\[2, 5\]"),
        (lambda arrays, a: (arrays[0], arrays[0]), r"float32\[3, 5\], float32\[3, 5\]"),
        (lambda arrays, a: 1.0, r"float64\[\]"),
    ],
)
def test_a_wrong_numpy_result_is_told(meaning, got):
    tallow.register_op("mine.x", same, meaning)
    graph = one("mine.x")
    message = rf"mine.x: its type rule says f32\[3, 5\], its numpy meaning gave {got}"
    with pytest.raises(VerifyError, match=message):
        tallow.evaluate(graph, {"x": noise(3, 5)})
    with pytest.raises(VerifyError, match=message):
        tallow.compile(graph)(noise(3, 5))


def test_a_numpy_meaning_that_fails_is_told():
    tallow.register_op("mine.x", same, lambda arrays, a: a["beta"] * arrays[0])
    with pytest.raises(InputError, match=r"mine.x failed on operands of shape \(3, 5\): KeyError: 'beta'"):
        tallow.evaluate(one("mine.x"), {"x": noise(3, 5)})


def test_a_wrong_kernel_is_told():
    def short(node, target):
        good = running_sum(node, target)
        return replace(good, sizes=())

    def loose(node, target):
        good = running_sum(node, target)
        body = (For(Var("row"), Var("nowhere"), (), "grid"),)
        return replace(good, kernel=replace(good.kernel, body=body))

    for write, error, message in (
        (lambda node, target: ["x"], CompileError, "mine.x: expected KernelCalls from its kernel, got str"),
        (short, CompileError, "takes 2 buffers and 2 sizes, the call gives 2 and 0"),
        (loose, VerifyError, "nowhere"),
    ):
        OPS.pop("mine.x", None)
        tallow.register_op("mine.x", same, lambda arrays, a: arrays[0], kernel=write)
        with pytest.raises(error, match=message):
            tallow.compile(one("mine.x", ("n", "m")))


def test_a_wrong_number_of_operands_is_told():
    tallow.register_op("mine.x", same, swish)
    b = Builder()
    x = b.input("x", "f32", [2])
    with pytest.raises(GraphError, match="mine.x takes 1 operands, got 2"):
        b.emit("mine.x", x, x)
