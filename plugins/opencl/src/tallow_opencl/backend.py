"""The OpenCL backend: its targets, what it compiles and the devices it opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from tallow.backend import Code, DeviceInfo, GraphPass
from tallow.dtype import DType
from tallow.target import Target
from tallow.types import TensorType
from tallow_opencl.targets import is_target_name, make_target

if TYPE_CHECKING:
    from tallow.graph import Node
    from tallow.kernel.grammar import Kernel
    from tallow.lower.group import Lowering

COMPUTED = ("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool")


class OpenclBackend:
    name = "opencl"

    @cached_property
    def lowerings(self) -> Mapping[str, Lowering]:
        # Deferred here and below: running a compiled model needs no compiler.
        from tallow.lower.common import COMMON
        from tallow.lower.workgroup import WORKGROUP
        from tallow_opencl.limits import within_limits

        return within_limits({**COMMON, **WORKGROUP})

    @property
    def passes(self) -> Sequence[GraphPass]:
        from tallow.lower.workgroup import PASSES

        return PASSES

    def devices(self) -> Sequence[DeviceInfo]:
        from tallow_opencl import discovery

        return [found.info for found in discovery.devices()]

    def target(self, arch: str | None = None) -> Target:
        """The target of a name, or of a device that is here; see `targets`."""
        if arch is not None and is_target_name(arch):
            return make_target(arch)
        from tallow_opencl import discovery

        return discovery.select(arch).target

    def supports(self, node: Node, target: Target) -> str | None:
        """Kernels compute with numbers up to 64 bits, in f64 where the device does."""
        for value in (*node.inputs, *node.outputs):
            if not isinstance(value.type, TensorType):
                return f"{value.type} is not a tensor"
        dtypes = [value.dtype for value in (*node.inputs, *node.outputs)]
        dtypes += [a for a in node.attributes.values() if isinstance(a, DType)]
        for dtype in dtypes:
            if dtype.name not in COMPUTED:
                return f"no kernels for {dtype}"
            if dtype.name == "f64" and "fp64" not in target.features:
                return "no f64 on this device"
        return None

    def kind(self, target: Target) -> str:
        """A device of OpenCL has memory of its own, also where it is the host's processor."""
        return "processor" if "cpu" in target.features else "graphics"

    def compile(self, kernels: Sequence[Kernel], target: Target) -> Code:
        from tallow_opencl import source

        return source.compile_kernels(kernels, target)

    def source(self, kernels: Sequence[Kernel], target: Target, stage: str) -> str:
        """OpenCL C for any stage: what drivers make of it is theirs."""
        from tallow_opencl import source

        return source.source_text(kernels, target)

    def open(self, device: str):
        from tallow_opencl import discovery
        from tallow_opencl.device import open_device

        _, _, which = device.partition(":")
        return open_device(discovery.select(None if is_target_name(which) else which or None))
