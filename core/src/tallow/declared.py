"""What a model's file says of itself in its own words: kept as a text in a graph's metadata, and so in artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from tallow.errors import GraphError

KEY = "declared"  # the metadata entry that holds the text

Sizes = tuple[int | str | None, ...]  # of one value: a number, a name as the file writes it, or nothing


@dataclass(frozen=True, slots=True)
class Declared:
    """Names and facts of a file; Tallow's own graph may name sizes differently and knows the types.

    sizes: of each input and output that the file gives a shape. meanings: of axes that the file gives one
    ("DATA_BATCH"). defaults: inputs that may be left out, dtype and sizes of each; Tallow keeps them constant.
    properties: whatever else the file's maker noted.
    """

    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    meanings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, tuple[str, Sizes]] = field(default_factory=dict)
    producer: str = ""
    domain: str = ""
    description: str = ""
    version: int | None = None
    graph: str = ""
    graph_description: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """JSON; facts that are not there are left out."""
        return json.dumps({name: fact for name, fact in asdict(self).items() if fact not in (None, "", {})})


def read(metadata: Mapping[str, str]) -> Declared:
    """The declaration in a graph's metadata, an empty one where its importer left none; GraphError where the
    entry is something else."""
    try:
        facts = json.loads(metadata.get(KEY, "{}"))
        for name in ("sizes", "meanings"):
            facts[name] = {port: tuple(sizes) for port, sizes in facts.get(name, {}).items()}
        facts["defaults"] = {n: (dtype, tuple(s)) for n, (dtype, s) in facts.get("defaults", {}).items()}
        return Declared(**facts)
    except (ValueError, TypeError, AttributeError) as error:
        raise GraphError(
            f"metadata {KEY!r}: expected a declaration as Declared.text() writes it, got {metadata[KEY]!r} ({error})"
        ) from None
