"""What a run in progress holds, and what is known of its phases before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tallow.backend import Prepared
from tallow.runtime.device_array import DeviceArray
from tallow.runtime.layout import PhaseLayout
from tallow.runtime.memory import Memory


class Arena(NamedTuple):
    """Memory of a phase's temporaries."""

    size: int
    memory: object
    address: int


@dataclass(slots=True)
class Frame:
    """One run in progress: addresses by base number, and the values of slots that have owners.

    arenas, layouts: of the phases so far. placed: memory of slots that kernels know. fetched: the host's
    copies of values on a device. sent: copies of values on other devices, by slot and device.
    """

    bases: list[int]
    values: dict[int, object]
    sizes: dict[str, int]
    out: Mapping[int, np.ndarray]
    arenas: dict[int, Arena] = field(default_factory=dict)
    layouts: dict[int, PhaseLayout] = field(default_factory=dict)
    placed: dict[int, object] = field(default_factory=dict)
    fetched: dict[int, np.ndarray] = field(default_factory=dict)
    sent: dict[tuple[int, Memory], DeviceArray] = field(default_factory=dict)


class Segment(NamedTuple):
    """Consecutive steps of the device, prepared, the inputs and host results that they read, and whether some
    of them branch; or the number of one host or control step."""

    prepared: Prepared | None
    steps: tuple[int, ...]
    reads: tuple[int, ...] = ()
    branches: bool = False


class PhasePlan(NamedTuple):
    """A phase for known sizes."""

    layout: PhaseLayout
    segments: tuple[Segment, ...]
    results: tuple[
        tuple[int, int, tuple[int, ...]], ...
    ]  # slot, output position and shape of results first written here
