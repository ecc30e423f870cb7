"""A backend that interprets kernels: the smallest whole example of one."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from tallow.backend import BoundStep, Code, DeviceInfo, Target
from tallow.errors import CompileError, Unavailable
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
        return [
            DeviceInfo("fake", "the kernel interpreter", 1 << 30),
            DeviceInfo("fake:apart", "the kernel interpreter with memory of its own", 1 << 30),
        ]

    def target(self, arch: str | None = None) -> Target:
        if arch not in (None, "any", "apart"):
            raise Unavailable(f"no fake target {arch!r}: expected any or apart")
        return Target("fake", "any")

    def supports(self, node: Node, target: Target) -> str | None:
        odd = [
            v
            for v in (*node.inputs, *node.outputs)
            if not isinstance(v.type, TensorType) or v.dtype.kind == "string"
        ]
        return f"no kernels for {odd[0].type}" if odd else None

    def compile(self, kernels, target: Target) -> Code:
        from tallow.kernel.grammar import SourceKernel

        foreign = [k.name for k in kernels if isinstance(k, SourceKernel)]
        if foreign:
            raise CompileError(f"kernel {foreign[0]}: the interpreter takes no source of an operator's own")
        return Code(pickle.dumps({k.name: k for k in kernels}), {k.name: 0 for k in kernels})

    def source(self, kernels, target: Target, stage: str) -> str:
        from tallow.kernel.text import print_kernel

        return "\n".join(map(print_kernel, kernels))

    def open(self, device: str) -> FakeDevice | ApartDevice:
        self.target(device.partition(":")[2] or None)
        host, apart = self.devices()
        return _apart(apart) if device == apart.name else FakeDevice(host)


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

    def part(self, memory: np.ndarray, offset: int, size: int) -> np.ndarray:
        return memory[offset : offset + size]

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.frombuffer(array.tobytes(), np.uint8)

    def download(self, memory: np.ndarray, out: np.ndarray) -> None:
        out.reshape(-1).view(np.uint8)[:] = memory[: out.nbytes]

    def export(self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        return None

    def adopt(self, value: object) -> None:
        return None


class Apart:
    """Memory that only its device can read."""

    def __init__(self, content: np.ndarray):
        self.content = content


class ApartDevice(FakeDevice):
    """A device with memory of its own; `moved` counts the bytes that cross, by direction."""

    is_host = False

    def __init__(self, info: DeviceInfo):
        super().__init__(info)
        self.moved = {"up": 0, "down": 0}

    def allocate(self, size: int) -> Apart:
        return Apart(np.full(size, 0xAB, np.uint8))

    def address(self, memory: Apart) -> int:
        return memory.content.ctypes.data

    def part(self, memory: Apart, offset: int, size: int) -> Apart:
        return Apart(memory.content[offset : offset + size])

    def upload(self, array: np.ndarray) -> Apart:
        self.moved["up"] += array.nbytes
        return Apart(super().upload(array))

    def download(self, memory: Apart, out: np.ndarray) -> None:
        self.moved["down"] += out.nbytes
        super().download(memory.content, out)


@cache
def _apart(info: DeviceInfo) -> ApartDevice:
    return ApartDevice(info)


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
    """Memory from an address on, as far as anyone could index; at no address there is none."""
    if not address:
        return np.empty(0, carrier)
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
