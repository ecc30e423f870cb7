"""AArch64 kernels, run by qemu where it is installed (Debian's qemu-user-static), against their numpy meaning."""

import numpy as np
import pytest
from emulator import emulator, run_emulated

import tallow
from tallow.builder import Builder

pytestmark = pytest.mark.skipif(emulator() is None, reason="needs qemu-aarch64 (qemu-user-static)")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


def product(b: Builder):
    return b.relu(b.add(b.matmul(b.input("x", "f32", (37, 70)), b.constant(noise(70, 53))), 0.5))


def product_in_memory(b: Builder):
    return b.matmul(b.input("x", "f32", (29, 40)), b.input("w", "f32", (40, 33)))


def conv(b: Builder, groups: int = 1, stride: int = 1):
    x, w = b.input("x", "f32", (1, 32, 11, 9)), b.constant(noise(32, 32 // groups, 3, 3))
    spec = {"strides": (stride, stride), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}
    return b.conv(x, w, groups=groups, **spec)


def few_results(b: Builder):
    x, w = b.input("x", "f32", (1, 5, 11, 19)), b.constant(noise(2, 5, 3, 5))
    spec = {"strides": (1, 2), "pads": ((1, 1), (2, 2)), "dilations": (1, 1)}
    return b.conv(x, w, groups=1, **spec)


def attention(b: Builder):
    q, k, v = (b.input(name, "f32", (1, 2, 21, 24)) for name in "qkv")
    return b.attention(q, k, v, scale=0.2, causal=True)


def softmax(b: Builder, length: int):
    return b.softmax(b.input("x", "f32", (5, length)), axis=1)


def norm(b: Builder):
    x = b.input("x", "f32", (6, 70))
    return b.gelu(
        b.layer_norm(x, b.constant(noise(70)), b.constant(noise(70)), axis=1, epsilon=1e-5),
        approximate="none",
    )


CASES = {
    "product": product,
    "product in memory": product_in_memory,
    "strided convolution": lambda b: conv(b, stride=2),
    "Winograd": conv,
    "depthwise": lambda b: conv(b, groups=32),
    "convolution of two result channels": few_results,
    "attention": attention,
    "short softmax": lambda b: softmax(b, 30),
    "softmax": lambda b: softmax(b, 777),
    "long softmax": lambda b: softmax(b, 5001),
    "layer_norm and gelu": norm,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("arch", ["aarch64-linux-gnu", "neoverse-n1"])
def test_kernels_of_aarch64(name, arch, tmp_path):
    b = Builder("g")
    graph = b.finish({"y": CASES[name](b)})
    inputs = {v.name: noise(*v.shape) for v in graph.inputs}
    (got,) = run_emulated(graph, inputs, tmp_path, arch)
    want = tallow.evaluate(graph, inputs)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1, np.abs(want).max()))
