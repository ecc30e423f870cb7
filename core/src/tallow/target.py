"""A target: what code is made for, by name and by what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Target:
    """What code is made for: `backend:arch` plus what that implies. No device is needed to have one.

    vector_bytes: width of a vector register, 0 where the compiler vectorises for itself.
    limits: sizes a lowering may want. "l1", "l2": bytes of caches. "registers": vector registers of a
    thread. "group": threads that a work-group may have, "shared": bytes of memory that it shares, "units":
    work-groups that run at once.
    """

    backend: str
    arch: str
    features: tuple[str, ...] = ()
    vector_bytes: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.backend}:{self.arch}"
