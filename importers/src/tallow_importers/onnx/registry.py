"""The table of ONNX operators: a function for each operator and the opset versions it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Handler = Callable[["object", "object"], object]


@dataclass(frozen=True, slots=True)
class Row:
    """A handler and the opset version from which on it applies."""

    since: int
    handler: Handler


@dataclass(slots=True)
class Registry:
    rows: dict[tuple[str, str], list[Row]] = field(default_factory=dict)

    def find(self, domain: str, name: str, opset: int) -> Handler | None:
        """The newest handler that is not newer than the model's opset."""
        fitting = [row for row in self.rows.get((domain, name), ()) if row.since <= opset]
        return max(fitting, key=lambda row: row.since).handler if fitting else None


REGISTRY = Registry()


def onnx_op(*names: str, since: int = 1, domain: str = ""):
    """Register a function `(context, node) -> Value or tuple of Values` for operators of a domain."""

    def register(handler: Handler) -> Handler:
        for name in names:
            REGISTRY.rows.setdefault((domain, name), []).append(Row(since, handler))
        return handler

    return register
