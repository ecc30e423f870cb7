"""What a backend is: it names targets, compiles kernels for them without a device, and opens devices.

A backend is any object with the members of `Backend`; plugins register a factory for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tallow.errors import InputError
from tallow.target import Target

if TYPE_CHECKING:
    import numpy as np

    from tallow.graph import Graph, Node
    from tallow.kernel.grammar import Kernel
    from tallow.lower.group import Lowering

API_VERSION = 1


class DeviceInfo(NamedTuple):
    """One device that is here: its `name` is what users write (`cpu`, `opencl:0`)."""

    name: str
    description: str
    memory: int  # bytes
    features: tuple[str, ...] = ()


class Code(NamedTuple):
    """Compiled kernels: one blob, where each kernel starts in it, and what the device needs beside it."""

    blob: bytes
    entries: Mapping[str, int]
    support: Mapping[str, bytes] = {}
    notes: Mapping[str, str] = {}  # JSON-able facts the device checks on opening


class BoundStep(NamedTuple):
    """One kernel call with everything known but the addresses.

    arguments: (base number, byte offset) of each kernel parameter; bases are given at each run.
    grid: iterations of the grid loop; a thread should take at least `grain` of them at a time.
    label: what errors call it: its operators and the user's nodes.
    """

    entry: str
    arguments: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    grid: int
    grain: int = 1
    label: str = ""


class BoundFlow(NamedTuple):
    """What goes between kernels on a device that branches. `kind` says what happens, by its arguments:

    jump: goes on at step `target`. unless (flag): does so where the bool is false. until (count, limit): does
    so unless the i64 count is less than the limit. again (count): adds 1 to the count, then jumps.
    copy (from, to): copies `size` bytes. row (from, count, to): copies them to byte `count * size` of `to`,
    or stops where the count is not less than `rows`. exactly (count): stops unless the count is `rows`.
    stop: the run ends here.
    """

    kind: str
    arguments: tuple[tuple[int, int], ...]
    target: int = 0
    size: int = 0
    rows: int = 0
    label: str = ""


class Prepared(Protocol):
    """A sequence of bound steps, ready to run again and again, from several threads at once."""

    def run(self, bases: Sequence[int]) -> None:
        """Run all steps; `bases` are device addresses. Returns when the results may be read; on a device
        that is not the host, when they are sure to be there for what is asked of the device next."""

    def profile(self, bases: Sequence[int]) -> list[float]:
        """As run; returns seconds per step."""


class PreparedFlow(Prepared, Protocol):
    """Bound steps some of which branch; prepared by the modules of a backend with `branches`."""

    def run(self, bases: Sequence[int]) -> int | None:
        """As `Prepared.run`; the number of the step that ended the run before its end."""

    def observe(self, bases: Sequence[int]) -> tuple[int | None, list[tuple[float, int]]]:
        """As run; also the seconds that each step took in all, and how often it ran."""


class Module(Protocol):
    """Code loaded on a device."""

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> Prepared: ...


class Device(Protocol):
    """An opened device: loads code and owns memory.

    Memory is any object of the device's; its address is a number that the device's `Prepared` finds it by.
    On a host device memory is a numpy array of bytes and the address a pointer to it; only there may an
    array be used as memory, and `upload` is never called. Other devices run what is asked of them in the
    order asked, whichever thread asks, so that only `download` waits. MemoryError where there is none left.
    """

    info: DeviceInfo
    is_host: bool

    def load(self, code: Code) -> Module: ...
    def allocate(self, size: int) -> object:
        """At least `size` bytes, aligned to 64; freed with the object."""

    def address(self, memory: object) -> int: ...
    def part(self, memory: object, offset: int, size: int) -> object:
        """Memory that is `size` bytes of another from `offset` on, a multiple of 64."""

    def upload(self, array: np.ndarray) -> object:
        """Fresh memory with the bytes of a C-contiguous array, which may change as soon as this returns."""

    def download(self, memory: object, out: np.ndarray) -> None:
        """Fill a C-contiguous array from the memory, when all that was asked before is done."""

    def export(self, memory: object, shape: tuple[int, ...], dtype: np.dtype) -> object | None:
        """The memory as an object that speaks dlpack, or None where the device has none."""

    def adopt(self, value: object) -> tuple[object, tuple[int, ...], np.dtype] | None:
        """The memory, shape and dtype of another library's array that lies on this device, to be used where
        it is; None for any other object. Never called on the host."""


GraphPass = Callable[["Graph", Target], "Graph"]


class Backend(Protocol):
    """The protocol of a backend plugin.

    lowerings: operator name -> Lowering, tried before the common ones; may decline with a reason. That of
        "pointwise" is for groups that are index rules all through.
    passes: graph passes for its targets (layout, weight packing), run after the common ones.
    """

    name: str
    lowerings: Mapping[str, Lowering]
    passes: Sequence[GraphPass]

    def devices(self) -> Sequence[DeviceInfo]:
        """The devices that are here; Unavailable with the reason when there are none."""

    def target(self, arch: str | None = None) -> Target:
        """The target of an architecture's or a device's name (what stands after `cpu:` or `opencl:`), or of
        the device here; Unavailable with the known names if there is none."""

    def supports(self, node: Node, target: Target) -> str | None:
        """None if the node can run there, else the reason why not."""

    def compile(self, kernels: Sequence[Kernel], target: Target) -> Code:
        """Machine code for the kernels; CompileError. Needs no device."""

    def source(self, kernels: Sequence[Kernel], target: Target, stage: str) -> str:
        """The text of a stage: "source" or "assembly"."""

    def open(self, device: str) -> Device:
        """The device of a name that users write, `backend` or `backend:which`; where the latter names an
        architecture, the device here. Unavailable, with what is here, if it is not one device. Opening a
        device again gives the same object, unless the device is the host."""


class Branching(Protocol):
    """What a backend has besides if its devices decide control flow without the host: `Module.prepare` of its
    host devices then takes `BoundFlow` among the steps, and gives a `PreparedFlow`."""

    branches: bool


class Tunable(Protocol):
    """What a backend has besides if its passes and lowerings ask `target.choices`."""

    def machine(self, target: Target) -> str:
        """The model of the processor here that runs code of the target, by which measurements are kept;
        Unavailable says why none does."""


class Placeable(Protocol):
    """What a backend has besides if placement on a list of devices is to know what they are like."""

    def kind(self, target: Target) -> str:
        """What its devices are: "host" where they work on the host's memory, "processor" on memory of their
        own as fast as a processor, "graphics". A backend that does not say is taken for a processor."""


def split_devices(device: str | Sequence[str]) -> tuple[str, ...]:
    """The devices of a list in order of preference, or of names with commas between; InputError for none,
    or for one that comes twice."""
    names = device.split(",") if isinstance(device, str) else list(device)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f'device = {device!r}: expected a name such as "cpu", or a list of them')
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        raise InputError(
            f"device = {device!r}: it names a device twice: name each once, in order of preference"
        )
    return tuple(names)


def device_names(targets: Sequence[Target]) -> list[str]:
    """What plans call the devices of a list: their backends, numbered where several are of one."""
    backends = [target.backend for target in targets]
    return [b if backends.count(b) == 1 else f"{b}#{number}" for number, b in enumerate(backends)]


def split_device(device: str) -> tuple[str, str | None]:
    """Backend and architecture of `cpu` or `cpu:x86-64-v3`."""
    name, _, arch = device.partition(":")
    return name, arch or None
