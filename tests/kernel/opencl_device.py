"""An OpenCL device that runs printed kernels on arrays: what tests of kernels on devices share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tallow.cstyle.dialects import OPENCL
from tallow.cstyle.printer import group_size, print_kernel
from tallow.kernel.grammar import Kernel


class Device:
    """Runs printed kernels on arrays in place, on the first platform that can compile for its device."""

    def __init__(self, cl):
        refusals = []
        for platform in sorted(cl.get_platforms(), key=lambda p: "Portable Computing" not in p.name):
            context = cl.Context(platform.get_devices())
            try:
                cl.Program(context, "__kernel void k(__global int *x) { x[0] = 1; }").build()
            except cl.RuntimeError as error:
                refusals.append(f"{platform.name}: {' '.join(str(error).split())[-160:]}")
                continue
            self.cl, self.context, self.queue = cl, context, cl.CommandQueue(context)
            return
        pytest.skip(f"no OpenCL platform compiles an empty kernel here: {'; '.join(refusals) or 'none'}")

    def run(
        self,
        kernel: Kernel,
        arrays: dict[str, np.ndarray],
        sizes: Sequence[int],
        count: int,
        vector_bytes: int = 0,
    ) -> None:
        cl, group = self.cl, group_size(kernel)
        program = cl.Program(self.context, print_kernel(kernel, OPENCL, vector_bytes)).build(["-w"])
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        memory = [cl.Buffer(self.context, flags, hostbuf=arrays[b.name]) for b in kernel.parameters]
        alone = (1,) if vector_bytes else None
        threads, local = (count, alone) if group is None else (count * group, (group,))
        program.all_kernels()[0](self.queue, (threads,), local, *memory, *map(np.int64, sizes))
        for b, where in zip(kernel.parameters, memory, strict=True):
            if b.writable:
                cl.enqueue_copy(self.queue, arrays[b.name].view("u1"), where)
        self.queue.finish()
