"""CUDA C to machine code by NVRTC, which needs no GPU: targets, kernels, what they take, errors, the cache."""

from __future__ import annotations

import json
import re
import struct

import numpy as np
import pytest

import tallow
from tallow import cache, plugins
from tallow.builder import Builder
from tallow.compile import open_compiled
from tallow.compiler import compile_graph
from tallow.errors import CompileError, Unavailable

ARCHITECTURES = ("sm_80", "sm_90")
CUDA_MACHINE = 190  # of ELF files


def capability_of(cubin: bytes) -> str:
    """The target that an ELF file of CUDA's says it is for."""
    assert cubin[:4] == b"\x7fELF" and struct.unpack_from("<H", cubin, 18)[0] == CUDA_MACHINE
    (flags,) = struct.unpack_from("<I", cubin, 48)
    return f"sm_{flags >> 8 & 0xFF if cubin[8] >= 8 else flags & 0xFF}"


def one(shape, dtype="f4", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def graph_of(kind: str):
    b = Builder()
    match kind:
        case "product":
            x = b.input("x", "f16", [40, 64])
            y = b.relu(b.matmul(x, b.constant(one((64, 48), "f2"))))
        case "convolution":
            x = b.input("x", "f32", ["n", 8, 14, "w"])
            spec = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}
            y = b.relu(b.conv(x, b.constant(one((12, 8, 3, 3))), groups=1, **spec))
        case "softmax":
            y = b.softmax(b.input("x", "f32", ["n", 1000]), axis=1)
        case "norm":
            x = b.input("x", "f32", ["n", 768])
            y = b.layer_norm(x, b.constant(one((768,))), b.constant(one((768,))), axis=1, epsilon=1e-5)
        case "attention":
            x = b.input("x", "f32", ["n", 4, "s", 64])
            y = b.attention(x, x, x, scale=0.125, causal=True)
        case "functions":
            x = b.input("x", "f64", ["n"])
            y = b.add(b.erf(x), b.add(b.tanh(b.exp(x)), b.sin(x)))
        case "integers":
            x = b.input("x", "i8", ["n", 33])
            y = b.reduce(b.cast(x, dtype=tallow.dtype.i32), function="add", axes=(0,), keepdims=False)
        case "bfloat":
            x = b.input("x", "bf16", ["n", 33])
            y = b.gelu(b.mul(x, x), approximate="tanh")
    return b.finish({"y": y})


KINDS = ("product", "convolution", "softmax", "norm", "attention", "functions", "integers", "bfloat")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_become_machine_code(nvrtc, kind, arch):
    code = compile_graph(graph_of(kind), f"cuda:{arch}").code
    assert code.entries and capability_of(code.blob) == arch
    for entry in json.loads(code.notes["groups"]):
        assert f".text.{entry}_\0".encode() in code.blob
    for registers, stack, spilled in json.loads(code.notes["usage"]).values():
        assert 0 < registers <= 255 and stack == 0 and spilled == 0


def test_artifacts_hold_machine_code(nvrtc, tmp_path):
    from tallow import artifact

    compiled = compile_graph(graph_of("softmax"), "cuda:sm_90")
    artifact.write(compiled, tmp_path / "m.tallow")
    again = artifact.read(tmp_path / "m.tallow")
    assert again.code == compiled.code and str(again.target) == "cuda:sm_90"


def test_the_same_source_is_compiled_once(nvrtc, tmp_path, monkeypatch):
    from tallow_cuda import libraries, source

    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path))
    first = compile_graph(graph_of("softmax"), "cuda:sm_80").code
    assert cache.folder(source.CACHE).is_dir()
    monkeypatch.setattr(libraries, "headers", lambda: pytest.fail("compiled again"))
    assert compile_graph(graph_of("softmax"), "cuda:sm_80").code == first


def test_faults_are_shown_with_their_lines(nvrtc):
    from tallow_cuda import source
    from tallow_cuda.targets import make_target

    text = "\n".join(["__global__ void k() {", *["  int a = 0;"], "  b = 1;", "}"])
    with pytest.raises(
        CompileError, match=r"does not compile the kernels for cuda:sm_90(.|\n)*> +3   b = 1;"
    ):
        source.compile_source(text, make_target("sm_90"))


def test_a_capability_that_the_compiler_lacks_is_refused(nvrtc):
    from tallow_cuda import source
    from tallow_cuda.targets import make_target

    with pytest.raises(CompileError, match="for cuda:sm_998"):
        source.compile_source("__global__ void k() {}", make_target("sm_998"))


def test_assembly_is_shown(nvrtc):
    from tallow.stages import lower, prepare

    backend = plugins.backend("cuda")
    target = backend.target("sm_90")
    kernels = list(lower(prepare(graph_of("product"), backend, target), backend, target).kernels.values())
    assert ".target sm_90" in backend.source(kernels, target, "assembly")
    assert "__global__" in backend.source(kernels, target, "source")


def product_and_convolution(dtype: str):
    b = Builder()
    carrier = tallow.dtype.dtype(dtype).numpy
    x, w = b.input("x", dtype, [2, 40, 64]), b.constant(one((64, 48), carrier))
    image = b.input("image", dtype, [2, 16, 9, 9])
    spec = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
    y = b.conv(image, b.constant(one((24, 16, 3, 3), carrier)), **spec)
    return b.finish({"product": b.gelu(b.matmul(x, w), approximate="none"), "y": b.relu(y)})


@pytest.mark.parametrize(
    "arch, dtype, words",
    [
        ("sm_75", "f16", "m16n16k16.f32.f32"),
        ("sm_80", "f16", "m16n16k16.f32.f32"),
        ("sm_80", "bf16", "m16n16k16.f32.bf16.bf16.f32"),
        ("sm_90+tf32", "f32", "m16n16k8.f32.tf32.tf32.f32"),
        ("sm_75", "bf16", None),
        ("sm_75+tf32", "f32", None),
        ("sm_90", "f32", None),
    ],
)
def test_products_go_to_tensor_cores(nvrtc, arch, dtype, words):
    """Of products and of convolutions, each with what follows it, and no register is spilled."""
    from tallow.stages import lower, prepare

    backend = plugins.backend("cuda")
    target, graph = backend.target(arch), product_and_convolution(dtype)
    lowered = lower(prepare(graph, backend, target), backend, target)
    for name, kernel in lowered.kernels.items():
        if name.startswith(("matmul", "conv")):
            text = backend.source([kernel], target, "assembly")
            found = set(re.findall(r"wmma\.mma\.sync\.aligned\.row\.row\.(\S+)", text))
            assert found == ({words} if words else set()), name
    usage = json.loads(compile_graph(graph, f"cuda:{arch}").code.notes["usage"])
    assert usage and all(stack == spilled == 0 for _, stack, spilled in usage.values())


def test_targets_by_name():
    pytest.importorskip("tallow_cuda")
    from tallow_cuda.targets import make_target, runs_on

    assert make_target("sm_90a").features == ("f16", "bf16")
    assert make_target("sm_75+relu+tf32").features == ("f16", "relu")
    assert make_target("sm_80+relu+tf32").features == ("f16", "bf16", "tf32", "relu")
    for name in ("sm_9", "sm_61", "compute_90", "sm_90x", "sm_90+fast"):
        with pytest.raises(Unavailable, match=re.escape(f"no CUDA target '{name}': expected sm_XY")):
            make_target(name)
    assert runs_on("sm_80", "sm_86") and runs_on("sm_90a", "sm_90")
    assert not runs_on("sm_86", "sm_80") and not runs_on("sm_80", "sm_90") and not runs_on("sm_90a", "sm_91")


def test_without_a_gpu_the_reason_is_told(nvrtc):
    backend = plugins.backend("cuda")
    try:
        backend.devices()
    except Unavailable as reason:
        assert "no CUDA device is here" in str(reason) and "cuda:sm_90" in str(reason)
        with pytest.raises(Unavailable, match="no CUDA device is here"):
            open_compiled(compile_graph(graph_of("softmax"), "cuda:sm_90"))
        with pytest.raises(Unavailable, match="no CUDA device is here"):
            tallow.compile(graph_of("softmax"), "cuda")
        return
    pytest.skip("a GPU is here")


def test_products_are_fused_into_sums_and_only_they():
    pytest.importorskip("tallow_cuda")
    from tallow.dtype import f16, f32
    from tallow.kernel import build
    from tallow.kernel.grammar import Buffer, Const, For, Kernel, Load, Store, Update, Var
    from tallow_cuda.source import with_fma

    x, y = Buffer("x", f32), Buffer("y", f32, writable=True)
    at = Var("i")
    product = build.call("mul", Load(x, at), Load(x, at))
    body = (Update(y, at, "add", product), Update(y, at, "max", product), Update(y, at, "add", Load(x, at)))
    first, *rest = with_fma(Kernel("k", (x, y), (), (For(at, Const(4), body, "grid"),))).grid.body
    assert first == Store(y, at, build.call("fma", Load(x, at), Load(x, at), Load(y, at)))
    assert tuple(rest) == body[1:]
    narrow = Buffer("h", f16, writable=True)
    halves = (Update(narrow, at, "add", build.call("mul", Load(narrow, at), Load(narrow, at))),)
    assert with_fma(Kernel("k", (narrow,), (), (For(at, Const(4), halves, "grid"),))).grid.body == halves
