"""The CUDA backend: its targets, what it compiles and the devices it opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tallow.backend import Code, DeviceInfo, GraphPass, Target
from tallow.dtype import DType
from tallow.graph import Node, TensorType
from tallow.kernel.grammar import Kernel
from tallow.lower.group import Lowering
from tallow.lower.workgroup import PASSES, WORKGROUP
from tallow_cuda import discovery, source
from tallow_cuda.device import open_device
from tallow_cuda.products import lower_matmul
from tallow_cuda.targets import is_target_name, make_target

COMPUTED = ("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool")


class CudaBackend:
    name = "cuda"
    lowerings: Mapping[str, Lowering] = {**WORKGROUP, "matmul": lower_matmul}
    passes: Sequence[GraphPass] = PASSES

    def devices(self) -> Sequence[DeviceInfo]:
        return [found.info for found in discovery.devices()]

    def target(self, arch: str | None = None) -> Target:
        """The target of a name, or of a device that is here; see `targets`."""
        if arch is not None and is_target_name(arch):
            return make_target(arch)
        return discovery.select(arch).target

    def supports(self, node: Node, target: Target) -> str | None:
        """Kernels compute with numbers up to 64 bits."""
        for value in (*node.inputs, *node.outputs):
            if not isinstance(value.type, TensorType):
                return f"{value.type} is not a tensor"
        dtypes = [value.dtype for value in (*node.inputs, *node.outputs)]
        dtypes += [a for a in node.attributes.values() if isinstance(a, DType)]
        return next((f"no kernels for {d}" for d in dtypes if d.name not in COMPUTED), None)

    def kind(self, target: Target) -> str:
        return "graphics"

    def compile(self, kernels: Sequence[Kernel], target: Target) -> Code:
        return source.compile_kernels(kernels, target)

    def source(self, kernels: Sequence[Kernel], target: Target, stage: str) -> str:
        """CUDA C, or the compiler's PTX for "assembly"."""
        text = source.source_text(kernels, target)
        return source.ptx_of(text, target) if stage == "assembly" else text

    def open(self, device: str):
        _, _, which = device.partition(":")
        return open_device(discovery.select(None if is_target_name(which) else which or None))
