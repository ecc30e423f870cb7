"""What a backend is: it names targets, compiles kernels for them without a device, and opens devices.

A backend is any object with the members of `Backend`; plugins register a factory for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np

    from tallow.graph import Graph, Node
    from tallow.kernel.grammar import Kernel
    from tallow.lower.group import Lowering

API_VERSION = 1


@dataclass(frozen=True, slots=True)
class Target:
    """What code is made for: `backend:arch` plus what that implies. No device is needed to have one.

    vector_bytes: width of a vector register, 0 where the compiler vectorises for itself.
    limits: sizes a lowering may want, such as "l1", "l2" (bytes) or "registers".
    """

    backend: str
    arch: str
    features: tuple[str, ...] = ()
    vector_bytes: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.backend}:{self.arch}"


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
    """

    entry: str
    arguments: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    grid: int
    grain: int = 1


class Prepared(Protocol):
    """A sequence of bound steps, ready to run again and again, from several threads at once."""

    def run(self, bases: Sequence[int]) -> None:
        """Run all steps; `bases` are device addresses. Returns when the results may be read."""

    def profile(self, bases: Sequence[int]) -> list[float]:
        """As run; returns seconds per step."""


class Module(Protocol):
    """Code loaded on a device."""

    def prepare(self, steps: Sequence[BoundStep], threads: int) -> Prepared: ...


class Device(Protocol):
    """An opened device: loads code and owns memory. On a host device an address is a pointer to
    host memory, and `upload` and `download` may return the very array they are given."""

    info: DeviceInfo
    is_host: bool

    def load(self, code: Code) -> Module: ...
    def allocate(self, size: int) -> object:
        """At least `size` bytes, aligned to 64; freed with the object. `address(object)` is where."""

    def address(self, memory: object) -> int: ...
    def upload(self, array: np.ndarray) -> object: ...
    def download(self, memory: object, out: np.ndarray) -> None: ...


GraphPass = Callable[["Graph", Target], "Graph"]


class Backend(Protocol):
    """The protocol of a backend plugin.

    lowerings: operator name -> Lowering, tried before the common ones; may decline with a reason.
    passes: graph passes for its targets (layout, weight packing), run after the common ones.
    """

    name: str
    lowerings: Mapping[str, Lowering]
    passes: Sequence[GraphPass]

    def devices(self) -> Sequence[DeviceInfo]:
        """The devices that are here; Unavailable with the reason when there are none."""

    def target(self, arch: str | None = None) -> Target:
        """The target of that name, or this host's; Unavailable with the known names if there is none."""

    def supports(self, node: Node, target: Target) -> str | None:
        """None if the node can run there, else the reason why not."""

    def compile(self, kernels: Sequence[Kernel], target: Target) -> Code:
        """Machine code for the kernels; CompileError. Needs no device."""

    def source(self, kernels: Sequence[Kernel], target: Target, stage: str) -> str:
        """The text of a stage: "source" or "assembly"."""

    def open(self, device: str) -> Device:
        """The device of that name."""


def split_device(device: str) -> tuple[str, str | None]:
    """Backend and architecture of `cpu` or `cpu:x86-64-v3`."""
    name, _, arch = device.partition(":")
    return name, arch or None
