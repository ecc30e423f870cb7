"""The CPU backend: its targets, what it compiles and the device it opens."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

import numpy as np

from tallow.backend import Code, DeviceInfo, Target
from tallow.dtype import DType
from tallow.errors import ArtifactError, Unavailable
from tallow.graph import Node, TensorType
from tallow.kernel.grammar import Kernel
from tallow_cpu import compile as compiler
from tallow_cpu.lowerings import LOWERINGS
from tallow_cpu.passes import PASSES
from tallow_cpu.runtime.module import Module, aligned
from tallow_cpu.runtime.threads import usable_cores

# x86-64 micro-architecture levels (System V ABI), and the vector width that goes with each.
LEVELS = {
    "x86-64": ((), 16),
    "x86-64-v2": (("sse4.2", "popcnt"), 16),
    "x86-64-v3": (("avx2", "fma", "f16c", "bmi2"), 32),
    "x86-64-v4": (("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "fma", "f16c", "bmi2", "avx2"), 64),
}
COMPUTED = ("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool")


class CpuBackend:
    name = "cpu"
    lowerings = LOWERINGS
    passes = PASSES

    def devices(self) -> Sequence[DeviceInfo]:
        """This machine."""
        flags = _cpu_flags()
        known = tuple(f for f in ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16") if f in flags)
        return [DeviceInfo("cpu", f"{_cpu_model()}, {usable_cores()} cores", _memory(), known)]

    def target(self, arch: str | None = None) -> Target:
        """An x86-64 level by name, or the highest that this machine has."""
        if platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux":
            if arch is None:
                raise Unavailable(f"tallow-cpu runs on x86-64 Linux for now, and this is {platform.machine()} {sys.platform}")
        name = arch or _host_level()
        if name not in LEVELS:
            raise Unavailable(f"no CPU target {name!r}: expected one of {', '.join(LEVELS)}")
        features, width = LEVELS[name]
        return Target("cpu", name, features, width)

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
        return compiler.compile_kernels(kernels, target)

    def source(self, kernels: Sequence[Kernel], target: Target, stage: str) -> str:
        return compiler.source_text(kernels, target, stage)

    def open(self, device: str) -> CpuDevice:
        if device != "cpu":
            raise Unavailable(f"no device {device!r}: the CPU backend has one, cpu")
        return CpuDevice(self.devices()[0])


class CpuDevice:
    """Host memory and this process's threads."""

    is_host = True

    def __init__(self, info: DeviceInfo):
        self.info = info

    def load(self, code: Code) -> Module:
        """Maps the code; ArtifactError when this machine lacks an instruction set it needs."""
        needs = [f for f in code.notes.get("features", "").split(",") if f]
        have = _cpu_flags()
        missing = [f for f in needs if _FLAG.get(f, f) not in have]
        if missing:
            raise ArtifactError(
                f"compiled for a CPU with {', '.join(missing)}, which this one lacks: compile for this machine's target"
            )
        return Module(code)

    def allocate(self, size: int) -> np.ndarray:
        return aligned(size)

    def address(self, memory: np.ndarray) -> int:
        return memory.__array_interface__["data"][0]

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def download(self, memory: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        return memory


_FLAG = {"sse4.2": "sse4_2"}


def _cpu_lines(key: str) -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(key)), "")
    except OSError:
        return ""


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpu_lines("flags").split())


def _cpu_model() -> str:
    return _cpu_lines("model name") or platform.processor() or "x86-64"


def _memory() -> int:
    try:
        with open("/proc/meminfo") as file:
            return int(file.readline().split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0


def _host_level() -> str:
    """The highest level all of whose features this machine has."""
    flags = _cpu_flags()
    fitting = [name for name, (features, _) in LEVELS.items() if all(_FLAG.get(f, f) in flags for f in features)]
    return fitting[-1] if fitting else "x86-64"
