"""Kernels compiled and run on their own: what the tests of the CPU backend share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from tallow.backend import BoundStep
from tallow.dtype import DType
from tallow.kernel.build import const, var
from tallow.kernel.grammar import Buffer, Cast, Expr, For, Kernel, Load, Stmt, Store
from tallow_cpu.backend import CpuBackend

BACKEND = CpuBackend()
HOST = BACKEND.target()
COUNT = var("n")
INDEX = var("i")


def grid(body: Sequence[Stmt], stop: Expr | int = 1, name: str = "g") -> For:
    return For(var(name), const(stop) if isinstance(stop, int) else stop, tuple(body), "grid")


def element_wise(name: str, function, inputs: Sequence[DType], output: DType, kind: str = "vector") -> Kernel:
    """out[i] = function(in0[i], in1[i], ...) for i below n."""
    buffers = tuple(Buffer(f"in{k}", dtype) for k, dtype in enumerate(inputs))
    out = Buffer("out", output, writable=True)
    value = function(*(Load(b, INDEX) for b in buffers))
    loop = For(INDEX, COUNT, (Store(out, INDEX, value),), kind)
    return Kernel(name, (*buffers, out), (COUNT,), (grid([loop]),))


def casting(source: DType, target: DType) -> Kernel:
    return element_wise(f"{source}_to_{target}", lambda x: Cast(x, target), [source], target)


class Native:
    """Kernels compiled for a target and loaded on this machine."""

    def __init__(self, kernels: Sequence[Kernel], target=HOST):
        self.kernels = {k.name: k for k in kernels}
        self.code = BACKEND.compile(kernels, target)
        self.module = BACKEND.open("cpu").load(self.code)

    def __call__(
        self, name: str, *arrays: np.ndarray, sizes: Sequence[int] = (), grid: int = 1, threads: int = 1
    ) -> None:
        """Run one kernel on arrays in the order of its parameters."""
        arguments = tuple((i, 0) for i in range(len(arrays)))
        step = BoundStep(name, arguments, tuple(sizes), grid, 1)
        self.module.prepare([step], threads).run([a.ctypes.data for a in arrays])

    def element_wise(self, name: str, *arrays: np.ndarray) -> np.ndarray:
        """The result of an `element_wise` kernel."""
        out = np.empty(arrays[0].shape, self.kernels[name].parameters[-1].dtype.numpy)
        self(name, *arrays, out, sizes=(arrays[0].size,))
        return out


@st.composite
def spans(draw, kernel: Sequence[int], longest: int):
    """Sizes of the spatial axes that a window fits into, the last up to `longest` longer, and its strides,
    dilations and pads."""
    strides = tuple(draw(st.integers(1, 3)) for _ in kernel)
    dilations = tuple(draw(st.integers(1, 2)) for _ in kernel)
    pads = tuple((draw(st.integers(0, k)), draw(st.integers(0, k))) for k in kernel)
    sizes = tuple(
        max(1, (k - 1) * d + 1 - sum(p)) + draw(st.integers(0, longest if axis == len(kernel) - 1 else 4))
        for axis, (k, d, p) in enumerate(zip(kernel, dilations, pads, strict=True))
    )
    return sizes, {"strides": strides, "dilations": dilations, "pads": pads}
