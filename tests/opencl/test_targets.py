"""Targets by name, and what kernels may ask of them: none needs a device."""

from __future__ import annotations

import numpy as np
import pytest

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.compiler import compile_graph
from tallow.cstyle.printer import group_size
from tallow.dtype import bool_, f32
from tallow.errors import Unavailable
from tallow.kernel.build import const
from tallow.kernel.grammar import Alloc, Buffer, For, If, Kernel, Load, Store, Var
from tallow.schedule.program import HostStep
from tallow.stages import lower, prepare
from tallow_opencl.limits import excess, shared_bytes
from tallow_opencl.targets import make_target, name_of, shortcomings

WIDE = "gpu+fp64+group256+shared48"


def test_a_name_says_what_a_target_has():
    target = make_target("gpu+fp64+fp16+group128+shared16+vector0+buffers30+units7")
    assert target.features == ("gpu", "fp64", "fp16") and target.vector_bytes == 0
    assert dict(target.limits) == {"group": 128, "shared": 16 << 10, "buffers": 30, "units": 7}
    sizes = {"group": 128, "shared": 16, "vector": 0, "buffers": 30, "units": 7}
    assert name_of("gpu", ("fp64", "fp16"), sizes) == target.arch
    assert make_target("cpu+vector64").limits["registers"] == 32
    assert make_target("cpu+vector32").limits["registers"] == 16


@pytest.mark.parametrize("name", ["toaster+fp64", "gpu+fp32", "gpu+group", "gpu+groupx", "gpu+"])
def test_names_of_no_target_are_refused(name):
    with pytest.raises(Unavailable, match="no OpenCL target .*: expected generic, gpu.*fp64.*group"):
        plugins.backend("opencl").target(name)


def test_what_code_needs_and_a_device_lacks():
    less = make_target("gpu+group64+shared32+buffers48")
    assert shortcomings(make_target("generic"), less) == []
    assert shortcomings(less, make_target(WIDE)) == []
    assert shortcomings(make_target(WIDE), less) == [
        "fp64",
        "group of 256 (it has 64)",
        "shared of 49152 (it has 32768)",
    ]


def kernel(*statements, parameters=1) -> Kernel:
    buffers = tuple(Buffer(f"b{n}", f32, None, "global", n == 0) for n in range(parameters))
    item = Var("g")
    store = Store(buffers[0], item, Load(buffers[-1], item))
    return Kernel("k", buffers, (), (For(item, const(64), (*statements, store), "grid"),))


def test_a_kernel_that_needs_more_than_the_target_has_says_what():
    target = make_target("gpu+group64+shared1+buffers8")
    assert excess(kernel(parameters=8), target) is None
    assert excess(kernel(parameters=9), target) == "its kernel needs 9 buffers, and the device has 8"
    memory, thread = Buffer("m", f32, 200, "shared", True), Var("t")
    group = For(thread, const(65), (Store(memory, thread, const(0, f32)),), "group")
    wide = kernel(Alloc(memory), group)
    assert group_size(wide) == 65 and shared_bytes(wide) == 800
    assert excess(wide, target) == "its kernel needs 65 threads in a work-group, and the device has 64"
    more = Buffer("more", f32, 100, "shared", True)
    nested = kernel(Alloc(memory), If(const(True, bool_), (Alloc(more),), ()))
    assert excess(nested, target) == "its kernel needs 1200 bytes of local memory, and the device has 1024"


def plan_of(graph, target):
    return compile_graph(graph, f"opencl:{target}").program.steps


def host_steps(graph, target):
    return {s.op: s.reason for s in plan_of(graph, target) if isinstance(s, HostStep)}


@pytest.mark.parametrize("op", ["log", "sin", "asinh"])
def test_functions_that_go_by_f64_run_on_the_host_where_there_is_none(op):
    b = Builder()
    x = b.input("x", "f32", ["n"])
    graph = b.finish({"y": b.exp(b.emit(op, b.neg(x)))})
    reasons = host_steps(graph, "gpu+group256")
    assert reasons == {op: "its kernel computes in f64, which the device does not"}
    assert not host_steps(graph, WIDE)
    source = compile_graph(graph, "opencl:gpu+group256").code.blob.decode()
    assert "double" not in source and "exp" in source


def test_values_of_f64_run_on_the_host_where_there_is_none():
    b = Builder()
    x = b.input("x", "f64", ["n"])
    graph = b.finish({"y": b.add(x, x), "z": b.cast(x, dtype=f32)})
    assert set(host_steps(graph, "generic").values()) == {"no f64 on this device"}
    assert not host_steps(graph, WIDE)


def test_values_without_a_kernel_form_are_told_with_their_reason():
    b = Builder()
    x = b.input("x", "c64", ["n"])
    graph = b.finish({"y": b.add(x, x)})
    assert host_steps(graph, WIDE) == {"add": "no kernels for c64"}


def many(count: int):
    b = Builder()
    inputs = [b.input(f"x{n}", "f32", [4]) for n in range(count)]
    return b.finish({"y": b.concat(*inputs, axis=0)})


def sums(count: int):
    b = Builder()
    total, *rest = [b.input(f"x{n}", "f32", [4]) for n in range(count)]
    for value in rest:
        total = b.add(total, value)
    return b.finish({"y": b.exp(total)})


def test_more_buffers_than_a_kernel_may_have(usable):
    few = "gpu+buffers8"
    steps = plan_of(sums(40), few)
    assert len(steps) > 1 and not host_steps(sums(40), few)
    assert all(len(s.arguments) <= 8 for s in steps)
    assert len(plan_of(sums(40), WIDE)) == 1
    device = usable("opencl")
    for make in (many, sums):  # PoCL takes 48
        inputs = {f"x{n}": np.full(4, n, "f4") / 100 for n in range(100)}
        want = tallow.evaluate(make(100), inputs)
        got = tallow.compile(make(100), device).run(inputs)
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-6)


@pytest.mark.parametrize("target", ["generic", "gpu+group64+shared16", WIDE, "cpu+vector16", "cpu+vector64"])
def test_code_for_a_target_stays_within_it(target):
    """Products, convolutions, attention and rows, whatever the lowerings make of them."""
    b = Builder()
    x = b.input("x", "f32", [1, 32, 20, 20])
    weights = np.random.default_rng(0).normal(size=(64, 32, 3, 3)).astype("f4")
    window = dict(strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1)
    y = b.reshape(b.emit("conv", x, b.constant(weights), **window), shape=(1, 64, 400))
    scores = b.softmax(b.matmul(y, b.transpose(y, permutation=(0, 2, 1))), axis=2)
    graph = b.finish({"y": b.matmul(scores, y)})
    made = make_target(target)
    backend = plugins.backend("opencl")
    kernels = lower(prepare(graph, backend, made), backend, made).kernels.values()
    assert kernels
    assert [excess(k, made) for k in kernels] == [None] * len(kernels)
