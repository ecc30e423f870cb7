"""The CPU backend: its targets, what it compiles and the device it opens."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tallow.backend import Code, DeviceInfo, GraphPass, Target
from tallow.dtype import DType
from tallow.errors import ArtifactError, Unavailable
from tallow.types import TensorType
from tallow_cpu.runtime.module import Module, aligned
from tallow_cpu.runtime.source import INTERFACE
from tallow_cpu.runtime.threads import usable_cores
from tallow_cpu.targets import (
    base_of,
    cpuinfo,
    host_flags,
    host_model,
    machine_of,
    make_target,
    missing_features,
)

if TYPE_CHECKING:
    from tallow.graph import Node
    from tallow.kernel.grammar import Kernel
    from tallow.lower.group import Lowering

SHOWN = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "asimd", "asimddp", "i8mm", "bf16")
COMPUTED = ("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool")


class CpuBackend:
    name = "cpu"
    branches = True

    @property
    def lowerings(self) -> Mapping[str, Lowering]:
        # Deferred here and below: running a compiled model needs no compiler.
        from tallow_cpu.lowerings import LOWERINGS

        return LOWERINGS

    @property
    def passes(self) -> Sequence[GraphPass]:
        from tallow_cpu.passes import PASSES

        return PASSES

    def devices(self) -> Sequence[DeviceInfo]:
        """This machine."""
        flags = tuple(f for f in SHOWN if f in host_flags())
        model = cpuinfo("model name", "Model") or platform.machine()
        return [DeviceInfo("cpu", f"{model}, {usable_cores()} cores", _memory(), flags)]

    def target(self, arch: str | None = None) -> Target:
        """A target by name, or the widest base that this machine has; see `targets`."""
        return make_target(arch)

    def kind(self, target: Target) -> str:
        return "host"

    def machine(self, target: Target) -> str:
        """This machine's processor, or Unavailable when it is none of the target's."""
        machine = machine_of(base_of(target).triple)
        missing = missing_features(target.features)
        if machine != platform.machine():
            raise Unavailable(f"{target} is for {machine}, and this machine is {platform.machine()}")
        if missing:
            raise Unavailable(f"{target} needs {', '.join(missing)}, which this machine lacks")
        return host_model()

    def supports(self, node: Node, target: Target) -> str | None:
        """Kernels compute with numbers up to 64 bits; other dtypes run as host steps."""
        for value in (*node.inputs, *node.outputs):
            if not isinstance(value.type, TensorType):
                return f"{value.type} is not a tensor"
            if value.dtype.name not in COMPUTED:
                return f"no kernels for {value.dtype}"
        unable = [a for a in node.attributes.values() if isinstance(a, DType) and a.name not in COMPUTED]
        return f"no kernels for {unable[0]}" if unable else None

    def compile(self, kernels: Sequence[Kernel], target: Target) -> Code:
        from tallow_cpu import compile as compiler

        return compiler.compile_kernels(kernels, target)

    def source(self, kernels: Sequence[Kernel], target: Target, stage: str) -> str:
        from tallow_cpu import compile as compiler

        return compiler.source_text(kernels, target, stage)

    def open(self, device: str) -> CpuDevice:
        name, _, arch = device.partition(":")
        if name != "cpu":
            raise Unavailable(f"no device {device!r}: the CPU backend has one, cpu")
        self.target(arch or None)
        return CpuDevice(self.devices()[0])


class CpuDevice:
    """Host memory and this process's threads."""

    is_host = True

    def __init__(self, info: DeviceInfo):
        self.info = info

    def load(self, code: Code) -> Module:
        """Maps the code; ArtifactError when this machine lacks an instruction set it needs, or this version
        speaks with code otherwise."""
        machine = code.notes.get("machine", "x86_64")
        if machine != platform.machine():
            raise ArtifactError(
                f"compiled for {machine}, and this machine is {platform.machine()}: compile for it"
            )
        interface = code.notes.get("interface")
        if interface != INTERFACE:
            raise ArtifactError(
                f"compiled by a tallow-cpu with interface {interface}, and this one has {INTERFACE}: compile again"
            )
        missing = missing_features(f for f in code.notes.get("features", "").split(",") if f)
        if missing:
            raise ArtifactError(
                f"compiled for a CPU with {', '.join(missing)}, which this one lacks: compile for this machine's target"
            )
        return Module(code)

    def allocate(self, size: int) -> np.ndarray:
        return aligned(size)

    def address(self, memory: np.ndarray) -> int:
        return memory.__array_interface__["data"][0]

    def part(self, memory: np.ndarray, offset: int, size: int) -> np.ndarray:
        return memory[offset : offset + size]

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C")

    def download(self, memory: np.ndarray, out: np.ndarray) -> None:
        out.reshape(-1).view(np.uint8)[:] = memory.reshape(-1).view(np.uint8)[: out.nbytes]

    def export(self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        return memory.reshape(-1).view(np.uint8)[:size].view(dtype).reshape(shape)


def _memory() -> int:
    try:
        with open("/proc/meminfo") as file:
            return int(file.readline().split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
