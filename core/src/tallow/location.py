"""Location: where a node came from."""

from __future__ import annotations

from typing import NamedTuple


class Location(NamedTuple):
    """Where a node came from, in the user's own words: node name, source operator, file or line."""

    name: str = ""
    op: str = ""
    source: str = ""

    def __str__(self) -> str:
        words = [
            f"{self.op} node" if self.op else "node",
            f'"{self.name}"' if self.name else "without a name",
        ]
        return " ".join([*words, *([f"in {self.source}"] if self.source else [])])


NOWHERE = Location()
