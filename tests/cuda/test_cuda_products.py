"""Products as calls of cuBLASLt: which become one, what it is asked for, and that results are right.

The library is a double that computes with numpy from the very descriptors; the real one is asked whether it
takes them, where it is installed.
"""

from __future__ import annotations

import ctypes
import json

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.compiler import compile_graph
from tallow.dtype import DTYPES
from tallow.errors import TallowError

M, K, N = 96, 130, 100
TOLERANCE = {"f64": 1e-12, "f32": 1e-5, "f16": 2e-3, "bf16": 2e-2}


def one(shape, dtype="f32", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(DTYPES[dtype].numpy)


def graph_of(kind: str, dtype: str = "f32"):
    """Rows are symbolic throughout."""
    b = Builder()
    right = b.constant(one((K, N), dtype, 1))
    bias = b.constant(one((N,), dtype, 2))
    left = {"items": ["n", 3, M, K], "rows": ["n", M, K], "turned left": [K, "n"]}.get(kind, ["n", K])
    x = b.input("x", dtype, left)
    match kind:
        case "plain" | "rows":
            y = b.matmul(x, right)
        case "bias":
            y = b.add(b.matmul(x, right), bias)
        case "relu":
            y = b.relu(b.matmul(x, right))
        case "bias_relu":
            y = b.relu(b.add(bias, b.matmul(x, right)))
        case "bias_gelu":
            y = b.gelu(b.add(b.matmul(x, right), bias), approximate="tanh")
        case "items":
            y = b.matmul(x, b.transpose(b.tanh(x), permutation=(0, 1, 3, 2)))
        case "turned left":
            y = b.matmul(b.transpose(x, permutation=(1, 0)), right)
        case "residual":
            y = b.matmul(x, right)
            y = b.add(y, b.tanh(b.input("z", dtype, ["n", N])))
        case "erf":
            y = b.gelu(b.add(b.matmul(x, right), bias), approximate="none")
    return b.finish({"y": y})


EPILOGUES = {
    "plain": "default",
    "rows": "default",
    "items": "default",
    "turned left": "default",
    "bias": "bias",
    "relu": "relu",
    "bias_relu": "relu_bias",
    "bias_gelu": "default",
    "residual": "default",
    "erf": "default",
}


def calls_of(compiled) -> list[dict]:
    return list(json.loads(compiled.code.notes["calls"]).values())


@pytest.mark.parametrize("kind", EPILOGUES)
def test_products_are_calls_and_right(device, kind, monkeypatch):
    from tallow_cuda import discovery, targets

    asked = targets.make_target("sm_80+relu")
    monkeypatch.setattr(discovery, "make_target", lambda name: asked)
    graph = graph_of(kind)
    (call,) = calls_of(compile_graph(graph, device))
    assert call["epilogue"] == EPILOGUES[kind]
    n = 5 if kind in ("items", "rows") else M
    inputs = {v.name: one(tuple(n if not isinstance(d, int) else d for d in v.shape)) for v in graph.inputs}
    program = tallow.compile(graph, device)
    want = tallow.evaluate(graph, inputs)["y"]
    for _ in range(3):  # launched, captured, launched as a graph
        got = program.run(inputs)["y"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes_of_calls(device, dtype):
    from tallow_cuda import libraries

    graph = graph_of("bias", dtype)
    x = one((M, K), dtype)
    want = tallow.evaluate(graph, {"x": x})["y"].astype("f8")
    got = tallow.compile(graph, device)(x).astype("f8")
    np.testing.assert_allclose(got, want, atol=TOLERANCE[dtype] * np.abs(want).max())
    ((compute, epilogue, *_),) = libraries.cublaslt().calls
    assert compute == (70 if dtype == "f64" else 68) and epilogue == (1 if dtype == "f64" else 4)


def test_relu_of_the_library_is_only_for_those_who_ask(device):
    assert [c["epilogue"] for c in calls_of(compile_graph(graph_of("bias_relu"), "cuda:sm_80"))] == [
        "default"
    ]
    x = one((M, K))
    x[3, 5] = np.nan
    want = tallow.evaluate(graph_of("bias_relu"), {"x": x})["y"]
    np.testing.assert_allclose(tallow.compile(graph_of("bias_relu"), device)(x), want, atol=1e-4)


def test_tf32_is_only_for_those_who_ask(device):
    assert [c["tf32"] for c in calls_of(compile_graph(graph_of("plain"), "cuda:sm_80"))] == [False]
    assert [c["tf32"] for c in calls_of(compile_graph(graph_of("plain"), "cuda:sm_80+tf32"))] == [True]


@pytest.mark.parametrize(
    "shape,right", [((4, 8), (8, 8)), ((64, 0), (0, 64)), ((1, 300, 200), (7, 200, 300))]
)
def test_products_that_stay_kernels(device, shape, right):
    """Small ones, sums of nothing, and items that share an operand."""
    b = Builder()
    y = b.matmul(b.input("x", "f32", shape), b.constant(one(right, seed=1)))
    compiled = compile_graph(b.finish({"y": y}), device)
    assert not calls_of(compiled) and len(compiled.code.entries) == 1


@pytest.mark.parametrize(
    "depth, dtype, arch, called",
    [
        (256, "f16", "sm_80", False),
        (257, "f16", "sm_80", True),
        (256, "f16", "sm_90", False),
        (256, "bf16", "sm_75", True),
        (256, "f32", "sm_80", True),
        (256, "f32", "sm_80+tf32", False),
    ],
)
def test_short_sums_on_tensor_cores_keep_what_follows(device, depth, dtype, arch, called):
    """Where the library has no such epilogue; one that it has stays its own."""
    b = Builder()
    x = b.input("x", dtype, ["n", depth])
    y = b.matmul(x, b.constant(one((depth, 64), dtype)))
    residual = b.input("residual", dtype, ["n", 64])
    compiled = compile_graph(b.finish({"y": b.relu(b.add(y, residual))}), f"cuda:{arch}")
    assert len(calls_of(compiled)) == called and len(compiled.code.entries) == 1 + called
    b = Builder()
    y = b.matmul(b.input("x", dtype, ["n", depth]), b.constant(one((depth, 64), dtype)))
    assert calls_of(compile_graph(b.finish({"y": y}), f"cuda:{arch}"))


def test_failures_of_the_library_are_told(device, monkeypatch):
    from tallow_cuda import libraries

    program = tallow.compile(graph_of("plain"), device)
    library = libraries.cublaslt()
    monkeypatch.setattr(library, "cublasLtMatmul", lambda *arguments: 13, raising=False)
    with pytest.raises(TallowError, match=r"matmul.*: cuBLASLt failed with status 13"):
        program(one((M, K)))
    monkeypatch.setattr(library, "cublasLtMatmulAlgoGetHeuristic", lambda *arguments: 15, raising=False)
    with pytest.raises(TallowError, match="matmul.*: choosing an algorithm: cuBLASLt failed with status 15"):
        program(one((M + 1, K)))
    monkeypatch.setattr(library, "cublasLtMatmulAlgoGetHeuristic", lambda *arguments: 0, raising=False)
    with pytest.raises(TallowError, match="cuBLASLt has no algorithm for this product"):
        program(one((M + 2, K)))


def test_the_real_library_takes_the_descriptors(nvrtc):
    from tallow_cuda import cublaslt, libraries

    try:
        library = libraries.cublaslt()
    except tallow.Unavailable as reason:
        pytest.skip(str(reason))
    layout = cublaslt._matrix(cublaslt.DATA_TYPES["f16"], 5, 7, 3)
    written, value = ctypes.c_size_t(), ctypes.c_int64()
    for attribute, expected in {2: 5, 3: 7, 4: 5, cublaslt.BATCH_OFFSET: 35}.items():
        status = library.cublasLtMatrixLayoutGetAttribute(
            layout.pointer, attribute, ctypes.byref(value), ctypes.c_size_t(8), ctypes.byref(written)
        )
        assert (status, value.value) == (0, expected)
    operation = cublaslt._Object("cublasLtMatmulDesc", cublaslt.COMPUTE_F32, cublaslt.DATA_TYPES["f32"])
    for epilogue in cublaslt.EPILOGUES.values():
        operation.set(cublaslt.EPILOGUE, ctypes.c_uint32(epilogue))
    operation.set(cublaslt.BIAS_POINTER, ctypes.c_void_p(64))
    with pytest.raises(TallowError, match="cublasLtMatmulDesc: cuBLASLt failed with status 7"):
        operation.set(cublaslt.TRANSA, ctypes.c_int8(1))
