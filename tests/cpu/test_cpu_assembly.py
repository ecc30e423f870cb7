"""No target's register tile is too large: innermost loops of representative kernels keep nothing on the stack."""

import numpy as np
import pytest
from assembly import busiest_loops, innermost_loops

from tallow import plugins
from tallow.builder import Builder
from tallow.graph import Value
from tallow.stages import lower, prepare

BACKEND = plugins.backend("cpu")
ARCHES = ["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "znver4", "aarch64-linux-gnu", "neoverse-n1"]


def ones(b: Builder, *shape: int) -> Value:
    return b.constant(np.ones(shape, np.float32))


def conv(b: Builder, groups: int = 1, kernel: int = 3, stride: int = 1, results: int = 64) -> Value:
    pad = (kernel // 2, kernel // 2)
    x, w = b.input("x", "f32", (1, 64, 14, 14)), ones(b, results, 64 // groups, kernel, kernel)
    return b.conv(x, w, strides=(stride, stride), pads=(pad, pad), dilations=(1, 1), groups=groups)


def attention(b: Builder) -> Value:
    q, k, v = (b.input(name, "f32", (1, 4, 128, 64)) for name in "qkv")
    return b.attention(q, k, v, scale=0.125, causal=False)


def product(b: Builder, rows: int, depth: int, columns: int) -> Value:
    return b.matmul(b.input("x", "f32", (rows, depth)), b.input("w", "f32", (depth, columns)))


KERNELS = {
    "packed product": lambda b: b.relu(b.matmul(b.input("x", "f32", (64, 256)), ones(b, 256, 192))),
    "narrow packed product": lambda b: b.matmul(b.input("x", "f32", (64, 256)), ones(b, 256, 40)),
    "product in memory": lambda b: product(b, 64, 60, 64),
    "large product in memory": lambda b: product(b, 128, 1024, 1024),
    "convolution": lambda b: conv(b, stride=2),
    "grouped convolution": lambda b: conv(b, groups=4),
    "convolution of one result channel": lambda b: conv(b, results=1, kernel=5),
    "convolution of three result channels": lambda b: conv(b, results=3),
    "groups of four channels": lambda b: conv(b, groups=16),
    "groups of two channels": lambda b: conv(b, groups=32, stride=2),
    "Winograd": conv,
    "depthwise": lambda b: conv(b, groups=64),
    "wide depthwise": lambda b: conv(b, groups=64, kernel=5),
    "attention": attention,
    "softmax": lambda b: b.softmax(b.input("x", "f32", (8, 1000)), axis=1),
    "short softmax": lambda b: b.softmax(b.input("x", "f32", (80, 60)), axis=1),
    "layer_norm": lambda b: b.layer_norm(b.input("x", "f32", (8, 768)), axis=1, epsilon=1e-5),
}
# An exponential has a dozen constants, which registers cannot always hold beside four sums; of straight code
# for several short rows it is a few percent of the instructions. Twelve vectors of taps are as many as 16
# registers hold beside four sums; a spilled tap costs what reading it again would.
LEFT = {
    "softmax": 10,
    "short softmax": 25,
    "attention": 2,
    "groups of four channels": 11,
    "groups of two channels": 2,
}


def kernels(name: str, arch: str) -> list[str]:
    """The assembly of each kernel."""
    target, b = BACKEND.target(arch), Builder("g")
    graph = prepare(b.finish({"y": KERNELS[name](b)}), BACKEND, target)
    return [BACKEND.source([k], target, "assembly") for k in lower(graph, BACKEND, target).kernels.values()]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", KERNELS)
def test_innermost_loops_keep_vectors_in_registers(name, arch):
    loops = [loop for text in kernels(name, arch) for loop in busiest_loops(text)]
    assert loops and max(loop.products for loop in loops) >= 4
    for loop in loops:
        assert len(loop.spills) <= LEFT.get(name, 0), loop.spills


@pytest.mark.parametrize("arch", ARCHES)
def test_tiles_multiply_more_than_they_load(arch):
    (text,) = kernels("packed product", arch)
    busiest = max(innermost_loops(text), key=lambda loop: loop.products)
    target = BACKEND.target(arch)
    fused = any("fm" in line for line in busiest.lines)
    assert busiest.products >= (12 if fused else 8)
    others = len(busiest.lines) - busiest.products
    assert others < busiest.products * (1 if fused else 3), target


LOOPS = """K:
	movups	(%rdi), %xmm0
.LBB0_1:
	xorl	%eax, %eax
.LBB0_2:
	movaps	%xmm1, -24(%rsp)
	mulps	%xmm0, %xmm1
	mulps	32(%rsp), %xmm1
	movups	64(%rsp,%rax,4), %xmm2
	movq	8(%rsp), %rcx
	jne	.LBB0_2
	movaps	%xmm1, -24(%rsp)
	jne	.LBB0_1
.LBB0_3:
	vfmadd231ps	(%rsp){1to16}, %zmm1, %zmm2
	vmovups	%zmm2, 64(%rsp)
	jl	.LBB0_3
	retq
"""


def test_what_counts_as_a_spill():
    first, second = innermost_loops(LOOPS)
    assert (first.products, second.products) == (2, 1)
    assert first.spills == ["movaps\t%xmm1, -24(%rsp)", "mulps\t32(%rsp), %xmm1"]
    assert len(second.spills) == 2
    assert busiest_loops(LOOPS, 1.0) == [first]
    arm = LOOPS.replace("movaps\t%xmm1, -24(%rsp)", "str\tq1, [sp, #16]").replace("jne", "b.ne")
    assert "str\tq1, [sp, #16]" in next(innermost_loops(arm)).spills
