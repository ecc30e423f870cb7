"""A backend that interprets kernels: the smallest whole example of one."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tallow.backend import BoundStep, Code, DeviceInfo, Target
from tallow.errors import Unavailable
from tallow.hookspecs import hook
from tallow.types import TensorType

if TYPE_CHECKING:
    from tallow.graph import Node

TALLOW_API = 1


class FakeBackend:
    name = "fake"
    lowerings: dict = {}
    passes: tuple = ()

    def devices(self) -> Sequence[DeviceInfo]:
        return [DeviceInfo("fake", "the kernel interpreter", 1 << 30)]

    def target(self, arch: str | None = None) -> Target:
        if arch not in (None, "any"):
            raise Unavailable(f"no fake target {arch!r}: expected any")
        return Target("fake", "any")

    def supports(self, node: Node, target: Target) -> str | None:
        odd = [
            v
            for v in (*node.inputs, *node.outputs)
            if not isinstance(v.type, TensorType) or v.dtype.kind == "string"
        ]
        return f"no kernels for {odd[0].type}" if odd else None

    def compile(self, kernels, target: Target) -> Code:
        return Code(pickle.dumps({k.name: k for k in kernels}), {k.name: 0 for k in kernels})

    def source(self, kernels, target: Target, stage: str) -> str:
        from tallow.kernel.text import print_kernel

        return "\n".join(map(print_kernel, kernels))

    def open(self, device: str) -> FakeDevice:
        return FakeDevice(self.devices()[0])


class FakeDevice:
    """Host memory; addresses are real ones, looked up again by the interpreter."""

    is_host = True

    def __init__(self, info: DeviceInfo):
        self.info = info

    def load(self, code: Code) -> FakeModule:
        return FakeModule(pickle.loads(code.blob))

    def allocate(self, size: int) -> np.ndarray:
        return np.empty(size, np.uint8)

    def address(self, memory: np.ndarray) -> int:
        return memory.ctypes.data

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array)

    def download(self, memory, out=None):
        return memory


class FakeModule:
    def __init__(self, kernels: dict):
        self.kernels = kernels

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> FakePrepared:
        return FakePrepared(self, steps)


class FakePrepared:
    def __init__(self, module: FakeModule, steps: Sequence[BoundStep]):
        self.module, self.steps = module, steps

    def run(self, bases: Sequence[int]) -> None:
        self.profile(bases)

    def profile(self, bases: Sequence[int]) -> list[float]:
        from tallow.interpret import interpret  # here, so that finding the plugin costs nothing

        seconds = []
        for step in self.steps:
            start = time.perf_counter()
            kernel = self.module.kernels[step.entry]
            arrays = {
                buffer.name: _memory(bases[base] + offset, buffer.dtype.numpy)
                for buffer, (base, offset) in zip(kernel.parameters, step.arguments, strict=True)
            }
            interpret(
                kernel,
                arrays,
                {v.name: s for v, s in zip(kernel.sizes, step.sizes, strict=True)},
                0,
                step.grid,
            )
            seconds.append(time.perf_counter() - start)
        return seconds


def _memory(address: int, carrier: np.dtype) -> np.ndarray:
    """Memory from an address on, as far as anyone could index."""
    interface = {
        "data": (address, False),
        "shape": (1 << 24,),
        "typestr": f"|V{carrier.itemsize}",
        "version": 3,
    }
    holder = type("Memory", (), {"__array_interface__": interface})()
    return np.asarray(holder).view(carrier)


@hook
def register_backends(register) -> None:
    register("fake", FakeBackend)
