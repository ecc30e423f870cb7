"""What a run in progress holds, and what is known of its phases before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tallow.backend import Prepared
from tallow.runtime.layout import PhaseLayout


class Arena(NamedTuple):
    """Memory of a phase's temporaries."""

    size: int
    memory: object
    address: int


@dataclass(slots=True)
class Frame:
    """One run in progress: addresses by base number, and the arrays behind them."""

    bases: list[int]
    arrays: dict[int, np.ndarray]
    sizes: dict[str, int]
    arenas: dict[int, Arena]
    out: Mapping[int, np.ndarray]


class Segment(NamedTuple):
    """Consecutive kernel steps, prepared; or the number of one host or control step."""

    prepared: Prepared | None
    steps: tuple[int, ...]


class PhasePlan(NamedTuple):
    """A phase for known sizes."""

    layout: PhaseLayout
    segments: tuple[Segment, ...]
    results: tuple[
        tuple[int, int, tuple[int, ...]], ...
    ]  # slot, output position and shape of results first written here
