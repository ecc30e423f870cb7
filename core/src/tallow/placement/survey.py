"""Survey: what a device makes of single nodes, found by compiling each alone as far as its program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tallow.backend import Backend, Target
from tallow.graph import OUTER_SIZES, Graph, Node, Value, used_symbols
from tallow.ops import OPS
from tallow.placement.rates import Rates, rates_of, usual, usual_bytes
from tallow.schedule.program import HostStep, KernelStep, Program, programs_of
from tallow.stages import lower, specialise

SMALL = 64  # elements of a constant that a lowering may look at; what larger ones hold is not looked at


class Site(NamedTuple):
    """One device of a list, as compiling knows it, by the name that plans call it."""

    name: str
    backend: Backend
    target: Target

    @property
    def rates(self) -> Rates:
        return rates_of(self.backend, self.target)


class Finding(NamedTuple):
    """Why a device cannot run a node, or the seconds that it takes with sizes as they usually are."""

    refusal: str | None
    seconds: float = 0.0


class Survey:
    """Findings of one device, remembered: nodes that differ in the contents of weights alone are one."""

    def __init__(self, site: Site):
        self.site, self.rates = site, site.rates
        self._found: dict[tuple, Finding] = {}

    def find(self, node: Node, constants: Mapping[Value, Node]) -> Finding:
        """What the device makes of a node that is no control flow; `constants`: who makes those it reads."""
        key = _key(node, constants)
        if key not in self._found:
            self._found[key] = self._try(node, constants)
        return self._found[key]

    def _try(self, node: Node, constants: Mapping[Value, Node]) -> Finding:
        reason = self.site.backend.supports(node, self.site.target)
        if reason is not None and OPS[node.op].decompose is None:
            return Finding(reason)
        held = {v: constants[v] for v in node.inputs if v in constants}
        small = {v: c for v, c in held.items() if c["value"].size <= SMALL}
        found = self._compiled(alone(node, small))
        if found.refusal is not None and len(small) < len(held):
            return self._compiled(alone(node, held))  # it may need weights to be constants
        return found

    def _compiled(self, graph: Graph) -> Finding:
        backend, target = self.site.backend, self.site.target
        program = lower(specialise(graph, backend, target), backend, target).program
        (op,) = (node.op for node in graph.nodes if node.op != "constant")
        reasons = {
            step.reason if step.op == op else f"{step.op}: {step.reason}"
            for _, part in programs_of(program)
            for step in part.steps
            if isinstance(step, HostStep)
        }
        return Finding("; ".join(sorted(reasons)) or None, self._seconds(program))

    def _seconds(self, program: Program) -> float:
        total = 0.0
        for _, part in programs_of(program):
            for step in part.steps:
                if isinstance(step, KernelStep):
                    moved = sum(usual_bytes(part.slots[slot].type) for slot in set(step.arguments))
                    total += self.rates.seconds(usual(step.flops), moved)
        return total


def alone(node: Node, constants: Mapping[Value, Node]) -> Graph:
    """A graph of a node and these of its constants, everything else an input."""
    read = dict.fromkeys(node.inputs)
    inputs = tuple(v for v in read if v not in constants)
    kept = [constants[v] for v in read if v in constants]
    sizes = {OUTER_SIZES: " ".join(sorted(used_symbols(node) - set(node.defines)))}
    return Graph("alone", inputs, node.outputs, (*kept, node), metadata=sizes)


def _key(node: Node, constants: Mapping[Value, Node]) -> tuple:
    attributes = tuple(
        (key, _content(a) if isinstance(a, np.ndarray) else repr(a))
        for key, a in sorted(node.attributes.items())
        if key != "defines"
    )
    held = (_content(constants[v]["value"]) if v in constants else None for v in node.inputs)
    return node.op, attributes, tuple(str(v.type) for v in node.inputs), tuple(held)


def _content(array: np.ndarray) -> tuple:
    """A small array by its elements, a larger one by its type."""
    head = (str(array.dtype), array.shape)
    return head if array.size > SMALL or array.dtype == object else (*head, array.tobytes())
