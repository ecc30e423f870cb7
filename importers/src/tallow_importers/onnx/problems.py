"""What keeps a model from being imported: collected, so that all of it is reported at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from tallow_importers.onnx.registry import REGISTRY

_LAYOUTS = {
    "com.microsoft.nchwc": "onnxruntime laid the model out for one processor: "
    "save it with ORT_ENABLE_EXTENDED, not ORT_ENABLE_ALL"
}


@dataclass(slots=True)
class Problems:
    """What Tallow does not support, and what breaks the rules of ONNX or of its operators; each once."""

    source: str
    unsupported: dict[str, None] = field(default_factory=dict)
    faults: dict[str, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.unsupported or self.faults)

    def lacks(self, what: object) -> None:
        """Note what Tallow does not support."""
        self.unsupported[str(what)] = None

    def breaks(self, what: object, where: object = "") -> None:
        """Note what is wrong with the model, and the place unless the text names it."""
        text = str(what).removeprefix(f"{self.source}: ")
        self.faults[text if not where or str(where) in text else f"{where}: {text}"] = None

    def report(self) -> str:
        """All of it, a line each."""
        if not self.unsupported and len(self.faults) == 1:
            return f"{self.source}: {next(iter(self.faults))}"
        parts = (
            (f"{self.source} uses what Tallow does not support:", self.unsupported),
            (f"{self.source} is damaged or malformed:", self.faults),
        )
        return "\n".join("\n".join([head, *(f"  {p}" for p in found)]) for head, found in parts if found)


def unknown_operator(domain: str, name: str, opset: int) -> str:
    """What there is to say of an operator without a handler, with what was meant or can be done."""
    known = {other for d, other in REGISTRY.rows if d == domain}
    near = difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean {near[0]}?)" if near and name not in known else ""
    if domain in _LAYOUTS:
        hint = f" ({_LAYOUTS[domain]})"
    elif domain and not known:
        hint = f" (tallow.register_op adds it under the name {domain}.{name})"
    return f"no operator {name} in {domain or 'ai.onnx'} opset {opset}{hint}"
