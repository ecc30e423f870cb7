"""Launches: kernels with their arguments, for one binding of sizes after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tallow.backend import BoundStep
from tallow.errors import TallowError
from tallow_opencl import discovery
from tallow_opencl.signatures import Signature, function_of

ABSOLUTE = 0  # the base whose steps' offsets are addresses


@dataclass(slots=True, eq=False)
class Kernel:
    """A kernel object of the driver, which is dear to make; `launch` is the one that its arguments are of."""

    kernel: object
    groups: Groups
    launch: Launch | None = None


class Groups(NamedTuple):
    """Threads of a kernel's work-groups: the most there can be, and how many run in step."""

    most: int
    step: int


class Buffer(NamedTuple):
    """A buffer of a launch: the numbers of the argument and of the element that it begins at, the bytes of an
    element, and where it lies."""

    number: int
    begins: int
    item: int
    base: int
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """A step with all but the addresses of its buffers known. `sizes` begin at argument `first`."""

    kernel: Kernel
    buffers: tuple[Buffer, ...]
    first: int
    sizes: tuple[int, ...]
    total: tuple[int]
    local: tuple[int]
    label: str

    def bind(self, memories, bases: Sequence[int], before: Sequence[int | None]) -> None:
        """Set the arguments that are not those of the launch before with this kernel object; `before` are
        the bases of the last run of this launch."""
        fresh = self.kernel.launch is not self
        kernel = self.kernel.kernel
        for number, begins, item, base, offset in self.buffers:
            if fresh or bases[base] != before[base]:
                if base == ABSOLUTE:
                    memory, offset = memories[offset], 0
                else:
                    memory = memories[bases[base]]
                kernel.set_arg(number, memory.buffer)
                kernel.set_arg(begins, np.int64((memory.offset + offset) // item))
        if fresh:
            for number, size in enumerate(self.sizes):
                kernel.set_arg(self.first + number, np.int64(size))
            self.kernel.launch = self


class Prepared:
    """Launches in order. Those of one module share kernel objects: runs from several threads take turns to
    launch, and their work is done in the order of the device's queue."""

    def __init__(self, module, steps: Sequence[BoundStep]):
        self.device, self.lock = module.device, module.lock
        self.bases: list[int] = []  # of the last run
        self.held = [self.device.memories[o] for s in steps for base, o in s.arguments if base == ABSOLUTE]
        uses: dict[str, int] = {}
        with self.device.errors("preparing kernels"):
            self.launches = []
            for step in steps:
                uses[step.entry] = uses.get(step.entry, 0) + 1
                kernel = module.kernel(function_of(step.entry), uses[step.entry])
                self.launches.append(self._launch(kernel, module.signatures[step.entry], step))

    def _launch(self, kernel: Kernel, signature: Signature, step: BoundStep) -> Launch:
        count = len(step.arguments)
        buffers = tuple(
            Buffer(number, count + number, signature.items[number], base, offset)
            for number, (base, offset) in enumerate(step.arguments)
        )
        local = signature.group or self.device.work_group(kernel.groups, step.grid)
        groups = step.grid if signature.group else -(-step.grid // local)
        return Launch(kernel, buffers, 2 * count, step.sizes, (groups * local,), (local,), step.label)

    def run(self, bases: Sequence[int]) -> None:
        """Launch all steps; the device runs them in order after what was asked of it before."""
        discovery.check_process()
        device = self.device
        enqueue, queue = device.cl.enqueue_nd_range_kernel, device.queue
        label = ""
        with self.lock:
            try:
                for launch in self._bound(bases):
                    label = launch.label
                    enqueue(queue, launch.kernel.kernel, launch.total, launch.local)
                queue.flush()
            except device.cl.MemoryError as error:
                raise MemoryError(f"{device.info.name} has none to run the kernels ({error})") from None
            except device.cl.Error as error:
                raise TallowError(
                    f"{label}: the driver of {device.info.name} refuses the kernel: {error}"
                ) from None

    def profile(self, bases: Sequence[int]) -> list[float]:
        """Run all steps; the seconds that each took on the device."""
        device = self.device
        with self.lock, device.errors("profiling"):
            device.queue.finish()
            queue, seconds = device.timed_queue, []
            for launch in self._bound(bases):
                event = device.cl.enqueue_nd_range_kernel(
                    queue, launch.kernel.kernel, launch.total, launch.local
                )
                event.wait()
                seconds.append((event.profile.end - event.profile.start) * 1e-9)
        return seconds

    def _bound(self, bases: Sequence[int]) -> Iterator[Launch]:
        """The launches, each with its arguments set when it comes."""
        before, self.bases = self.bases or [None] * len(bases), []  # what a failed run has set is not known
        for launch in self.launches:
            launch.bind(self.device.memories, bases, before)
            yield launch
        self.bases = list(bases)
