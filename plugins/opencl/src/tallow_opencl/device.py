"""An opened OpenCL device: its memory, and the one queue that all its work goes through in order."""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from contextlib import contextmanager
from functools import cached_property

import numpy as np

from tallow.backend import Code
from tallow.errors import ArtifactError, TallowError
from tallow_opencl import discovery
from tallow_opencl.launching import Groups
from tallow_opencl.program import Module
from tallow_opencl.signatures import INTERFACE
from tallow_opencl.targets import make_target, shortcomings

_opened: dict[str, OpenclDevice] = {}
_lock = threading.Lock()


def open_device(found: discovery.Found) -> OpenclDevice:
    """The process's one opened device of that name."""
    with _lock:
        if found.info.name not in _opened:
            _opened[found.info.name] = OpenclDevice(found)
        return _opened[found.info.name]


class Memory:
    """Part of a buffer; the whole of it is there for as long as one part is."""

    __slots__ = ("buffer", "offset", "address", "__weakref__")

    def __init__(self, buffer, offset: int, address: int):
        self.buffer, self.offset, self.address = buffer, offset, address


class OpenclDevice:
    """One device with a context of its own. What is asked of it goes through one in-order queue; only
    `download` waits."""

    is_host = False

    def __init__(self, found: discovery.Found):
        self.cl = discovery.pyopencl()
        self.info, self.target, self.device = found.info, found.target, found.device
        self.largest = found.device.max_mem_alloc_size  # bytes of one buffer
        with self.errors("opening"):
            self.context = self.cl.Context([found.device])
            self.queue = self.cl.CommandQueue(self.context)
        self.memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self._addresses = itertools.count()
        self.nothing = self.allocate(0)  # at address 0, where values without elements are said to lie

    @cached_property
    def timed_queue(self):
        """A queue whose events know when they ran."""
        return self.cl.CommandQueue(
            self.context, properties=self.cl.command_queue_properties.PROFILING_ENABLE
        )

    @contextmanager
    def errors(self, what: str):
        """Errors of the driver in Tallow's words: `what` was being done."""
        discovery.check_process()
        try:
            yield
        except self.cl.MemoryError as error:
            raise MemoryError(f"{self.info.name} has no memory for {what} ({error})") from None
        except self.cl.Error as error:
            raise TallowError(f"{what}: {self.info.name} ({self.info.description}) failed: {error}") from None

    def load(self, code: Code) -> Module:
        """The code's program on this device; ArtifactError when it needs more than the device has."""
        if code.notes.get("interface") != INTERFACE:
            raise ArtifactError(
                f"compiled by a tallow-opencl with interface {code.notes.get('interface')}, and this one has "
                f"{INTERFACE}: compile again"
            )
        lacking = shortcomings(make_target(code.notes["target"]), self.target)
        if lacking:
            raise ArtifactError(
                f"compiled for opencl:{code.notes['target']}, and {self.info.name} lacks {', '.join(lacking)}: "
                "compile for it"
            )
        return Module(self, code)

    def allocate(self, size: int) -> Memory:
        return self._memory(self._buffer(max(size, 1)), 0)

    def address(self, memory: Memory) -> int:
        return memory.address

    def part(self, memory: Memory, offset: int, size: int) -> Memory:
        return self._memory(memory.buffer, memory.offset + offset)

    def upload(self, array: np.ndarray) -> Memory:
        if not array.nbytes:
            return self.allocate(0)
        return self._memory(self._buffer(array.nbytes, array.reshape(-1).view(np.uint8)), 0)

    def download(self, memory: Memory, out: np.ndarray) -> None:
        if not out.nbytes:
            return
        with self.errors("the kernels before a result, or its copy to the host"):
            self.cl.enqueue_copy(
                self.queue, out.reshape(-1).view(np.uint8), memory.buffer, src_offset=memory.offset
            )

    def export(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """No library takes OpenCL's memory through dlpack."""
        return None

    def adopt(self, value: object) -> None:
        """No library says of its arrays that they are OpenCL's."""
        return None

    def _buffer(self, size: int, content: np.ndarray | None = None):
        if size > self.largest:
            raise MemoryError(
                f"{self.info.name} has no memory for {size} bytes in one piece, but for {self.largest}"
            )
        flags = self.cl.mem_flags
        with self.errors(f"{size} bytes"):
            if content is None:
                return self.cl.Buffer(self.context, flags.READ_WRITE, size)
            return self.cl.Buffer(self.context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=content)

    def _memory(self, buffer, offset: int) -> Memory:
        memory = Memory(buffer, offset, next(self._addresses))
        self.memories[memory.address] = memory
        return memory

    def groups(self, kernel) -> Groups:
        """What the device says of a kernel that takes any number of threads. On a processor each is worth a
        core."""
        if self.target.features[0] == "cpu":
            return Groups(1, 1)
        info = self.cl.kernel_work_group_info
        asked = info.WORK_GROUP_SIZE, info.PREFERRED_WORK_GROUP_SIZE_MULTIPLE
        return Groups(*(kernel.get_work_group_info(each, self.device) for each in asked))

    def work_group(self, groups: Groups, grid: int) -> int:
        """Threads of a work-group: whole multiples of what runs in step, and enough groups to fill the device."""
        wanted = min(256, math.ceil(grid / self.device.max_compute_units))
        return min(groups.most, max(groups.step, wanted // groups.step * groups.step))
