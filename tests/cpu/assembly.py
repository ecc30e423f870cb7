"""Reading assembly: the innermost loops of a kernel, their arithmetic, and vectors that they keep on the stack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.L\w+|K\w*(?:\.body)?):")
_JUMP = re.compile(r"^\s+(?:j\w+|b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,)\s+(\.L\w+)")
_MULTIPLY = re.compile(r"^\s+(?:vfn?m\w+p[sd]|v?mulp[sd]|fml[as]|fmul)\s")
# a vector at a fixed place of the stack: an index would make it an element of a buffer
_SPILL_X86 = re.compile(
    r"^\s+v?mov[a-z0-9]+\s.*-?\d*\(%rsp\).*%[xyz]mm|^\s+v?mov[a-z0-9]+\s+%[xyz]mm\d+, -?\d*\(%rsp\)"
)
_OPERAND_X86 = re.compile(r"^\s+v?\w+\s+-?\d*\(%rsp\)(?:\{1to\d+\})?, %[xyz]mm")
_SPILL_ARM = re.compile(r"^\s+(?:ld|st)(?:r|p|ur)\s+q\d+,.*\[sp(?:, #-?\d+)?\]")


@dataclass(frozen=True, slots=True)
class Loop:
    """The lines of an innermost loop."""

    lines: tuple[str, ...]

    @property
    def products(self) -> int:
        """Vector multiplications, fused with an addition or not."""
        return sum(bool(_MULTIPLY.match(line)) for line in self.lines)

    @property
    def spills(self) -> list[str]:
        """Instructions that store a vector to the stack or load one from there."""
        forms = (_SPILL_X86, _OPERAND_X86, _SPILL_ARM)
        return [line.strip() for line in self.lines if any(form.match(line) for form in forms)]


def innermost_loops(assembly: str) -> Iterator[Loop]:
    """Loops that contain no other, in order: from a label to the last jump back to it."""
    lines = assembly.splitlines()
    labels = {m.group(1): number for number, line in enumerate(lines) if (m := _LABEL.match(line))}
    jumps = [(number, m.group(1)) for number, line in enumerate(lines) if (m := _JUMP.match(line))]
    spans = {}
    for number, label in jumps:
        if labels.get(label, number) < number:
            spans[labels[label]] = max(number, spans.get(labels[label], 0))
    for first, last in sorted(spans.items()):
        if not any(first < other <= last for other in spans):
            yield Loop(tuple(lines[first : last + 1]))


def busiest_loops(assembly: str, share: float = 0.5) -> list[Loop]:
    """Innermost loops with at least a share of the multiplications of the one that has most."""
    loops = list(innermost_loops(assembly))
    most = max((loop.products for loop in loops), default=0)
    return [loop for loop in loops if most and loop.products >= share * most]
