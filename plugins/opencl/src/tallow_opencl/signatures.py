"""What compiled kernels take, as programs read it: needs no compiler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tallow.backend import Code

INTERFACE = "1"  # of notes and of what kernels take; a change makes older code unreadable


@dataclass(frozen=True, slots=True)
class Signature:
    """What a kernel takes: bytes of an element of each buffer, and the threads of its work-groups where it
    fixes them."""

    items: tuple[int, ...]
    group: int | None


def signatures_of(code: Code) -> Mapping[str, Signature]:
    found = json.loads(code.notes["signatures"])
    return {name: Signature(tuple(items), group) for name, (items, group) in found.items()}


def function_of(entry: str) -> str:
    """The name of a kernel's function, as the printer writes it."""
    return f"{entry}_"
