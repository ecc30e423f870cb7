"""Choices: questions that a pass or a lowering has several right answers to, and which answer is taken.

A question is about one node of known sizes. Its answer is the candidate with the least estimate, or the
one that a record of measurements names. Candidates differ in speed alone: results agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tallow.dtype import DType

if TYPE_CHECKING:
    from tallow.graph import Node

PLAIN = (bool, int, float, str, tuple, DType)  # attributes that speed may depend on

Answer = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One possible answer. `estimate`: what it costs by a model; only the order within a question counts."""

    value: Answer
    estimate: float


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What was asked: `text` names it, `constants` are the operands of the node that are weights."""

    text: str
    node: Node
    constants: tuple[int, ...]
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The first of the candidates with the least estimate."""
        return min(self.candidates, key=lambda c: c.estimate)


class Chosen(NamedTuple):
    """A question, the answer that was taken, and what the record said (None: nothing)."""

    question: str
    value: Answer
    record: Answer | None = None

    @property
    def measured(self) -> bool:
        """Whether the record decided; one whose answer is no longer offered does not."""
        return self.record == self.value

    def __str__(self) -> str:
        return f"{self.question}: {self.value} ({'measured' if self.measured else 'estimated'})"


class Choices:
    """Answers for one compilation: `record` has those that were measured; `asked` collects the questions."""

    def __init__(self, record: Mapping[str, Answer] | None = None):
        self.record = {} if record is None else record
        self.asked: dict[str, Question] = {}

    def choose(
        self, what: str, node: Node, candidates: Sequence[Candidate], constants: tuple[int, ...] = (1,)
    ) -> Answer:
        """The answer to a question about a node: `what` tells apart those about the same node."""
        question = Question(f"{what} of {described(node)}", node, constants, tuple(candidates))
        if len(candidates) == 1 or not is_static(node):
            return question.best.value
        self.asked[question.text] = question
        return self._answer(question).value

    def _answer(self, question: Question) -> Chosen:
        record = self.record.get(question.text)
        offered = any(c.value == record for c in question.candidates)
        return Chosen(question.text, record if offered else question.best.value, record)

    @property
    def made(self) -> tuple[Chosen, ...]:
        """What was chosen so far, in the order of the questions."""
        return tuple(map(self._answer, self.asked.values()))

    @property
    def open(self) -> list[Question]:
        """The questions so far that the record has no answer to."""
        return [self.asked[c.question] for c in self.made if not c.measured]


def is_static(node: Node) -> bool:
    """Whether all sizes of a node are known."""
    return all(getattr(v.type, "is_static", False) for v in (*node.inputs, *node.outputs))


def described(node: Node) -> str:
    """A node by all that its speed depends on: operator, types, attributes."""
    types = ", ".join(str(v.type) for v in node.inputs)
    plain = [
        (k, node.attributes[k]) for k in sorted(node.attributes) if isinstance(node.attributes[k], PLAIN)
    ]
    return " ".join([f"{node.op}({types})", *(f"{k}={a}" for k, a in plain)])
