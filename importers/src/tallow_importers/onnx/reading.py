"""How an ONNX file is read where there is a choice: which names of sizes are believed, which defaults are dropped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """`untied`: names of sizes that are not believed, None for all: every axis of an input that has such a name has
    a size of its own. `fed`: inputs that the file gives a default, and that are to be given all the same."""

    untied: frozenset[str] | None = frozenset()
    fed: frozenset[str] = frozenset()

    def ties(self, size: str) -> bool:
        """Whether axes whose size has this name are equal, as ONNX says."""
        return self.untied is not None and size not in self.untied

    def words(self) -> tuple[str, ...]:
        """What tells one way of reading from another."""
        untied = ("untied",) if self.untied is None else tuple(f"untied {n!r}" for n in sorted(self.untied))
        return (*untied, *(f"fed {n!r}" for n in sorted(self.fed)))


PLAIN = Reading()
