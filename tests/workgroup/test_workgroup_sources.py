"""Sources of work-group kernels: golden in both dialects, and CUDA C that its own compiler takes."""

from __future__ import annotations

import numpy as np
import pytest
from nvrtc import nvrtc, usage
from test_workgroup_attention import attention_graph
from test_workgroup_products import conv_graph, product_graph
from workgroup_support import LARGE, SMALL, VECTORS, kernels_of

from tallow.builder import Builder
from tallow.cstyle.dialects import CUDA, OPENCL
from tallow.cstyle.printer import group_size, print_kernel
from tallow.target import Target

GPU = Target(
    "groups", "gpu", ("f16", "bf16"), 0, {"group": 256, "shared": 48 << 10, "units": 108, "subgroup": 32}
)
CONV = (8, 12, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, (9, 7))


def one_operator(op: str, shape, dtype: str = "f32", **attributes):
    g = Builder()
    x = g.input("x", dtype, shape)
    return g.finish({"y": g.emit(op, x, **attributes)})


def norm_graph(width: int):
    g = Builder()
    x = g.input("x", "f32", ["n", width])
    scale, shift = (g.constant(np.ones(width, "f4")) for _ in range(2))
    return g.finish({"y": g.layer_norm(x, scale, shift, axis=1, epsilon=1e-5)})


POOL = {"kernel": (3, 3), "strides": (2, 2), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "function": "max"}
GRAPHS = {
    "matmul": lambda: product_graph(("m", 24), (24, 20)),
    "conv": lambda: conv_graph(CONV, True, False)[0],
    "attention": lambda: attention_graph((1, 2, 2, 9, 20, 8, 8), causal=True),
    "softmax": lambda: one_operator("softmax", ["n", 40], axis=1),
    "norm": lambda: norm_graph(40),
    "reduce": lambda: one_operator("reduce", [5, "n"], function="add", axes=(1,), keepdims=False),
    "argmax": lambda: one_operator("argmax", [5, "n"], axis=1, keepdims=False, last=False),
    "pool": lambda: one_operator("pool", [1, 3, 9, 9], **POOL),
    "pointwise": lambda: one_operator("tanh", ["n", 7], "f16"),
}


def main_kernel(name: str, target: Target):
    """The kernel of the family; layout passes may put others beside it."""
    kernels = kernels_of(GRAPHS[name](), target)
    return next((k for n, k in kernels.items() if n.startswith(name)), next(iter(kernels.values())))


@pytest.mark.parametrize("name", GRAPHS)
def test_golden_group_sources(name, golden):
    kernel = main_kernel(name, SMALL)
    golden(f"opencl_group_{name}", print_kernel(kernel, OPENCL))
    golden(f"cuda_group_{name}", print_kernel(kernel, CUDA))


@pytest.mark.parametrize("name", ["matmul", "conv", "attention", "softmax", "pool"])
def test_golden_vector_tiles(name, golden):
    golden(
        f"opencl_vectors_{name}_tile", print_kernel(main_kernel(name, VECTORS), OPENCL, VECTORS.vector_bytes)
    )


@pytest.mark.parametrize("name", ["softmax", "reduce"])
def test_golden_sources_of_neighbours(name, golden):
    """Lines of 40 elements, and of any number of them, by threads that exchange values."""
    golden(f"cuda_neighbours_{name}", print_kernel(main_kernel(name, GPU), CUDA))


def test_golden_source_of_matrix_units(golden):
    (kernel,) = kernels_of(product_graph((200, 24), (24, 20), "f16"), GPU).values()
    golden("cuda_units_matmul", print_kernel(kernel, CUDA))


LARGE_GRAPHS = {
    "matmul of 4096": lambda: product_graph((4096, 4096), (4096, 4096)),
    "matmul of f16": lambda: product_graph((512, 512), (512, 512), "f16"),
    "matmul of one row": lambda: product_graph((1, 4096), (4096, 4096)),
    "matmul of f64": lambda: product_graph((300, 300), (300, 300), "f64"),
    "matmul of symbolic sizes": lambda: product_graph(("m", "k"), ("k", "n")),
    "conv": lambda: conv_graph((64, 64, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, (56, 56)), True, False)[
        0
    ],
    "depthwise": lambda: conv_graph(
        (64, 64, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 64, (28, 28)), True, False
    )[0],
    "attention": lambda: attention_graph((1, 12, 12, 128, 128, 64, 64)),
    "attention of 128": lambda: attention_graph((1, 8, 8, "q", "k", 128, 128), causal=True),
    "matmul of bf16": lambda: product_graph(("m", 768), (768, 3072), "bf16"),
    "matmul of odd sizes": lambda: product_graph((301, 77), (77, 203), "f16"),
    "matmul of pairs": lambda: product_graph((301, 50), (50, 204), "f16"),
    "matmul of transposed f16": lambda: product_graph((64, 197), (64, 197), "f16", "a"),
    "conv of f16": lambda: conv_graph(
        (64, 64, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, (56, 56)), True, False, "f16"
    )[0],
    "conv of few pixels": lambda: conv_graph(
        (512, 512, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, (7, 7)), True, False, "f16"
    )[0],
    "conv of variable weights": lambda: conv_graph(
        (32, 64, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 2, (28, 28)), False, True, "bf16"
    )[0],
    "attention of f16": lambda: attention_graph((1, 12, 12, 128, 128, 64, 64), dtype="f16"),
    "attention of 128 bf16": lambda: attention_graph(
        (1, 8, 8, "q", "k", 128, 128), causal=True, dtype="bf16", symbolic=True, turned=True
    ),
    "attention of odd sizes": lambda: attention_graph((1, 4, 2, 77, 50, 36, 20), dtype="f16"),
    "norm of 768": lambda: norm_graph(768),
    "softmax of 1000": lambda: one_operator("softmax", [8, 1000], axis=1),
}


def all_cases():
    return {**GRAPHS, **LARGE_GRAPHS}


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", all_cases())
def test_cuda_compiles(name, arch, record_property):
    """Nothing is spilled, and what the kernel says of its memory is what the compiler finds."""
    for kernel in kernels_of(all_cases()[name](), GPU).values():
        code, log = nvrtc().compile(print_kernel(kernel, CUDA), arch)
        used = usage(log)
        record_property(kernel.name, f"{used['registers']} registers, {used['shared']} bytes shared")
        assert code[:4] == b"\x7fELF"
        assert 0 < used["registers"] <= 255 and used["spilled"] == used["stack"] == 0, log
        assert used["shared"] <= GPU.limits["shared"] and (group_size(kernel) or 1) <= GPU.limits["group"]


def test_groups_keep_within_the_target():
    """Threads and shared memory of every kernel are no more than a target has, however small it is."""
    for limits in (
        {"group": 1, "shared": 1024},
        {"group": 32, "shared": 8 << 10},
        {"group": 100, "shared": 16 << 10},
    ):
        target = Target("groups", "tiny", (), 0, limits)
        for make in (GRAPHS | {"attention": lambda: attention_graph((1, 1, 1, 9, 20, 4, 4))}).values():
            for kernel in kernels_of(make(), target).values():
                assert (group_size(kernel) or 1) <= limits["group"]


def test_large_target_differs_from_small_in_sizes_alone():
    assert group_size(main_kernel("matmul", LARGE)) == 256 and group_size(main_kernel("matmul", SMALL)) == 16
