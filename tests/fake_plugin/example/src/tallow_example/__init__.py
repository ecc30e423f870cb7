"""A backend: kernels are printed as C, compiled by the system's C compiler and called through ctypes."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tallow.backend import BoundStep, Code, DeviceInfo, Target
from tallow.cstyle.dialects import CUDA
from tallow.cstyle.printer import group_size, print_kernel
from tallow.errors import ArtifactError, CompileError, Unavailable
from tallow.graph import Node, TensorType
from tallow.hookspecs import hook
from tallow.kernel.grammar import Kernel

TALLOW_API = 1
FLAGS = ("-O2", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
C = replace(
    CUDA,  # the types of CUDA C are those of C
    name="c",
    prelude="#include <tgmath.h>\nstatic _Thread_local long long number;",
    kernel="static void",
    helper="static inline",
    parameter="{const}{type} *restrict {name}",
    everyone="number",
    half="_Float16",
    half_read="return p[i];",
    half_write="p[i] = x;",
    half_round="return (_Float16)x;",
    infinity="INFINITY",
)


def print_c(kernel: Kernel) -> str:
    """The kernel, and a function that calls it for each iteration of its grid."""
    if group_size(kernel) is not None:
        raise CompileError(f"kernel {kernel.name}: this backend has no work-groups")
    arguments = [f"(void *)p[{i}]" for i in range(len(kernel.parameters))]
    arguments += [f"s[{i}]" for i in range(len(kernel.sizes))]
    loop = f"for (number = 0; number < grid; number++) {kernel.name}_({', '.join(arguments)});"
    head = f"void {kernel.name}(long long grid, char **p, const long long *s)"
    return f"{print_kernel(kernel, C)}{head} {{ {loop} }}\n"


class ExampleBackend:
    name = "example"
    lowerings: dict = {}
    passes: tuple = ()

    def devices(self) -> Sequence[DeviceInfo]:
        if shutil.which("cc") is None:
            raise Unavailable("there is no C compiler (cc): install one, such as gcc or clang")
        return [self.open("example").info]

    def target(self, arch: str | None = None) -> Target:
        if arch not in (None, platform.machine()):
            raise Unavailable(f"there is no target example:{arch}: expected {platform.machine()}")
        return Target("example", platform.machine())

    def supports(self, node: Node, target: Target) -> str | None:
        for value in (*node.inputs, *node.outputs):
            known = isinstance(value.type, TensorType) and value.dtype.name in (*C.types, "f16", "bf16")
            if not known:
                return f"no kernels for {value.type}"
        return None

    def compile(self, kernels: Sequence[Kernel], target: Target) -> Code:
        self.devices()
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, f"{number}.c") for number in range(len(kernels) + 1)]
            for file, text in zip(files, ["", *map(print_c, kernels)], strict=True):
                file.write_text(text)
            library = Path(folder, "kernels.so")
            command = ["cc", *FLAGS, "-o", library, *files, "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise CompileError(f"cc fails:\n{done.stderr}")
            return Code(library.read_bytes(), {k.name: 0 for k in kernels}, notes={"arch": target.arch})

    def source(self, kernels: Sequence[Kernel], target: Target, stage: str) -> str:
        if stage != "source":
            raise Unavailable(f"the backend example has no {stage}: expected source")
        return "\n".join(map(print_c, kernels))

    def open(self, device: str) -> ExampleDevice:
        return ExampleDevice(self.target(device.partition(":")[2] or None))


class ExampleDevice:
    """Host memory: addresses are pointers, and arrays of the host are used where they lie."""

    is_host = True

    def __init__(self, target: Target):
        self.info = DeviceInfo("example", f"C on {target.arch}, one thread", 0)

    def load(self, code: Code) -> ExampleModule:
        if code.notes.get("arch") != platform.machine():
            raise ArtifactError(f"compiled for {code.notes.get('arch')}: compile it for {platform.machine()}")
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(code.blob)
            file.flush()
            return ExampleModule(ctypes.CDLL(file.name))

    def allocate(self, size: int) -> np.ndarray:
        memory = np.empty(size + 64, np.uint8)
        return memory[-memory.ctypes.data % 64 :][:size]

    def address(self, memory: np.ndarray) -> int:
        return memory.ctypes.data

    def part(self, memory: np.ndarray, offset: int, size: int) -> np.ndarray:
        return memory[offset : offset + size]

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(-1).view(np.uint8).copy()

    def download(self, memory: np.ndarray, out: np.ndarray) -> None:
        out.reshape(-1).view(np.uint8)[:] = memory[: out.nbytes]

    def export(self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        return None


class ExampleModule:
    def __init__(self, library: ctypes.CDLL):
        self.library = library

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> ExamplePrepared:
        return ExamplePrepared([(getattr(self.library, step.entry), step) for step in steps])


class ExamplePrepared:
    def __init__(self, calls: list[tuple]):
        self.calls = calls

    def run(self, bases: Sequence[int]) -> None:
        self.profile(bases)

    def profile(self, bases: Sequence[int]) -> list[float]:
        seconds = []
        for function, step in self.calls:
            start = time.perf_counter()
            addresses = [bases[base] + offset for base, offset in step.arguments]
            pointers = (ctypes.c_void_p * len(addresses))(*addresses)
            sizes = (ctypes.c_longlong * len(step.sizes))(*step.sizes)
            function(ctypes.c_longlong(step.grid), pointers, sizes)
            seconds.append(time.perf_counter() - start)
        return seconds


@hook
def register_backends(register) -> None:
    register("example", ExampleBackend)
