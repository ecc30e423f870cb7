"""A target: what code is made for, by name and by what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from tallow.choices import Choices


@dataclass(frozen=True, slots=True)
class Target:
    """What code is made for: `backend:arch` plus what that implies. No device is needed to have one.

    vector_bytes: width of a vector register, 0 where the compiler vectorises for itself.
    limits: sizes a lowering may want. "l1", "l2": bytes of caches. "registers": vector registers of a
    thread. "group": threads that a work-group may have, "shared": bytes of memory that it shares,
    "subgroup": neighbouring threads that exchange values and multiply matrices together, "units": work-groups
    that run at once. choices: answers to what passes and lowerings ask; no part of what the
    target is.
    """

    backend: str
    arch: str
    features: tuple[str, ...] = ()
    vector_bytes: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    choices: Choices = field(default_factory=Choices, compare=False, repr=False)

    @property
    def facts(self) -> dict[str, object]:
        """What the target is, as JSON can say it."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        return {**known, "limits": dict(self.limits)}

    def __str__(self) -> str:
        return f"{self.backend}:{self.arch}"
