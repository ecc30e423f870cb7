"""Compiled: what compiling makes and a `.tallow` file holds; nothing of it belongs to a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tallow.backend import Code, Target
from tallow.schedule.program import Program


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program for a target, its machine code, and its constants by key."""

    program: Program
    target: Target
    code: Code
    constants: Mapping[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)
