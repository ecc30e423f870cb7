"""Control flow laid open: regions of an `if` or `loop` that are kernels become steps of the program around
them, with branches between, so that a device that branches goes through them without the host.

Both branches of an `if` write its results where they are. A loop's results are its carried values: what an
iteration makes of them is copied there at its end. Rows of scanned results are copied to where they belong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tallow.dim import Dim, maximum
from tallow.dtype import bool_, i64
from tallow.graph import Node, Value
from tallow.location import Location
from tallow.schedule.program import (
    ControlStep,
    FlowStep,
    HostStep,
    KernelStep,
    Program,
    Slot,
    Step,
    root_among,
)
from tallow.types import TensorType, Type

MOST_ROWS = 1 << 16  # rows of scanned results for which memory is held whether a loop makes so many or not
ROOM = 256  # iterations at a stretch where nothing bounds the rows of scanned results
WHERE = "sizes that only the run can tell"


def refusal(node: Node, regions: Mapping[str, Program]) -> str | None:
    """Why the regions of a node cannot be laid open, or None. Scanned results are for `rows_of` to judge."""
    for region in regions.values():
        for step in region.steps:
            if isinstance(step, ControlStep):
                return f"{step.op} in it runs in Python: {step.reason}"
            if isinstance(step, HostStep):
                if step.defines:
                    return f"{step.op} in it gives {WHERE}"
                if step.op != "fail" or len(region.steps) > 1:
                    return f"{step.op} in it runs on the host: {step.reason}"
            elif not isinstance(step, (KernelStep, FlowStep)):
                return f"{step.op} in it is no kernel of this device"
        for slot in region.slots:
            if not isinstance(slot.type, TensorType) or slot.type.dtype.kind == "string":
                return f"{slot.type} is no tensor of numbers"
    results = [value.type for value in node.outputs]
    decides = [(bool_, node.inputs[0].type)]
    if node.op == "loop":
        body = regions["body"]
        number, going, kept = _types(body, (*body.inputs[:2], body.outputs[0]))
        decides = [(bool_, node.inputs[1].type), (bool_, going), (bool_, kept)]
        decides += [(i64, node.inputs[0].type), (i64, number)]
    for dtype, type_ in decides:
        if type_.dtype != dtype or type_.size != 1:
            return f"{type_} is no {dtype} that decides"
    if node.op == "if":
        fits = all(_types(region, region.outputs) == results for region in regions.values())
        return None if fits and not node.defines else f"its results have {WHERE}"
    carried = [value.type for value in node.inputs[2:]]
    rows = [value.type.shape[1:] for value in node.outputs[len(carried) :]]
    if rows != [type_.shape for type_ in _types(body, body.outputs[1 + len(carried) :])]:
        return f"rows of its scanned results have {WHERE}"
    inside = [
        results[: len(carried)],
        _types(body, body.inputs[2 : 2 + len(carried)]),
        _types(body, body.outputs[1 : 1 + len(carried)]),
    ]
    return None if all(types == carried for types in inside) else "carried values change their sizes"


def rows_of(node: Node, makers: Mapping[Value, Node]) -> Dim | None:
    """The rows of a loop's scanned results; at most so many, where the node defines their number. None where
    only the run can tell."""
    scanned = [value.type.shape[0] for value in node.outputs[len(node.inputs) - 2 :]]
    if not node.defines:
        return scanned[0] if len(set(scanned)) == 1 else None if scanned else 0
    if len(node.defines) > 1 or {str(dim) for dim in scanned} != set(node.defines):
        return None
    most = _most_trips(node.inputs[0], makers)
    return None if isinstance(most, int) and most > MOST_ROWS else most


def _most_trips(trips: Value, makers: Mapping[Value, Node]) -> Dim | None:
    node = makers.get(trips)
    while node is not None and node.op == "reshape":
        node = makers.get(node.inputs[0])
    match node:
        case Node(op="dims", attributes={"values": (most,)}):
            return maximum(most, 0)
        case Node(op="constant"):
            return max(int(node["value"].reshape(())), 0)
    return None


def is_endless(node: Node, makers: Mapping[Value, Node]) -> bool:
    """Whether no condition ends a loop before its last iteration."""

    def holds(value: Value) -> bool:
        maker = makers.get(value)
        return maker is not None and maker.op == "constant" and bool(np.all(maker["value"]))

    body = node["body"]
    return holds(node.inputs[1]) and (body.outputs[0] is body.inputs[1] or holds(body.outputs[0]))


def stretch_of(body: Program, carried: int, key: Callable[[np.ndarray], str]) -> Program:
    """A program of up to `ROOM` iterations of a loop whose scanned results have a length that only the run can
    tell, for who calls it again and again. Its inputs: the number of the first iteration, whether to go on,
    carried values, trips, and what the body captures; its results: the first three, then the rows made.
    `key` is that of a constant."""
    own, outside = body.inputs[: 2 + carried], body.inputs[2 + carried :]
    rows = body.outputs[1 + carried :]
    trips = Slot("trips", TensorType(i64, ()), "input")
    inputs = [*(body.slots[s]._replace(kind="input") for s in own), trips, *(body.slots[s] for s in outside)]
    results = [body.slots[s]._replace(kind="output", view_of=None) for s in own]
    scans = [
        Slot(slot.name, TensorType(slot.type.dtype, (ROOM, *slot.type.shape)), "output")
        for slot in (body.slots[s] for s in rows)
    ]
    zero = Slot("zero", TensorType(i64, ()), "constant")
    slots = [*inputs, *results, *scans, zero, zero._replace(name="room")]
    at_results, at_zero = len(inputs), len(slots) - 2
    constants = {at_zero: key(np.zeros((), np.int64)), at_zero + 1: key(np.array(ROOM))}
    outputs = tuple(range(at_results, at_zero))
    opening = Opening(slots, constants, [], "loop", Location())
    opening.stretch(
        (len(own), *range(len(own))),
        body,
        range(len(own) + 1, len(inputs)),
        outputs[: len(own)],
        outputs[len(own) :],
        at_zero + 1,
        at_zero,
    )
    return body._replace(
        slots=tuple(opening.slots),
        inputs=tuple(range(len(inputs))),
        outputs=outputs,
        input_names=tuple(slot.name for slot in inputs),
        output_names=tuple(slots[slot].name for slot in outputs),
        constants=opening.constants,
        steps=tuple(opening.steps),
        checks=(),
    )


def _types(program: Program, slots: Sequence[int]) -> list[Type]:
    return [program.slots[slot].type for slot in slots]


@dataclass(slots=True, eq=False)
class Opening:
    """The program that regions are laid open in: its slots, constants and steps so far, which grow."""

    slots: list[Slot]
    constants: dict[int, str]
    steps: list[Step]
    op: str
    location: Location

    def branch(
        self, flag: int, regions: Mapping[str, Program], captured: Mapping, results: Sequence[int]
    ) -> None:
        """The steps of an `if` that leave its results in slots."""
        unless = self._flow("unless", (flag,))
        self._arm(regions["then"], captured["then"], results)
        jump = self._flow("jump")
        self._lead(unless)
        self._arm(regions["otherwise"], captured["otherwise"], results)
        self._lead(jump)

    def loop(
        self,
        inputs: Sequence[int],
        body: Program,
        captured: Sequence[int],
        results: Sequence[int],
        scans: Sequence[int],
        rows: Dim,
        zero: int,
        always: bool,
    ) -> int:
        """The steps of a loop that leave its carried values in `results` and rows in `scans`, which have
        room for so many; the slot of the number of iterations. `zero` is a slot with that number; `always`
        says that no condition ends the loop."""
        trips, condition, *starts = inputs
        count = self._new("count", TensorType(i64, ()))
        going = condition if always else self._new("going", TensorType(bool_, ()))
        self._set([(zero, count), (condition, going), *zip(starts, results, strict=True)])
        ends = [("until", (count, trips)), *([] if always else [("unless", (going,))])]
        given = (count, going, *results)
        self._repeat(body, (*given, *captured), given, count, scans, rows, ends, always)
        return count

    def stretch(
        self,
        inputs: Sequence[int],
        body: Program,
        captured: Sequence[int],
        results: Sequence[int],
        scans: Sequence[int],
        room: int,
        zero: int,
    ) -> None:
        """The steps of at most so many iterations as the i64 slot `room` says and `scans` have rows for. Of
        the inputs, trips and then the number of the first iteration, whether to go on, and carried values;
        the last three are left in `results`."""
        trips, *starts = inputs
        number, going, *_ = results
        count = self._new("count", TensorType(i64, ()))
        self._set([(zero, count), *zip(starts, results, strict=True)])
        ends = [("until", (number, trips)), ("until", (count, room)), ("unless", (going,))]
        self._repeat(body, (*results, *captured), results, count, scans, ROOM, ends, False)

    def _set(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies to slots of their own."""
        for start, result in pairs:
            if start != result:
                self._flow("copy", (start,), (result,))

    def _repeat(self, body: Program, given, state, count: int, scans, rows: Dim, ends, always: bool) -> None:
        """Iterations until one of the `ends`. `state`: the number of the iteration, whether to go on, and
        carried values; `count` is that of the rows so far."""
        number, going, *carried = state
        head = len(self.steps)
        leaving = [self._flow(kind, reads) for kind, reads in ends]
        kept, *made = self._splice(body, given, {})
        for row, scan in zip(made[len(carried) :], scans, strict=True):
            self._flow("row", (row, count), (scan,), rows=rows)
        after = [*([] if always else [(kept, going)]), *zip(made, carried, strict=False)]
        self._assign([(a, b) for a, b in after if self._root(a) != self._root(b)])
        if number != count:
            self._lead(self._flow("again", (), (number,)))
        self._flow("again", (), (count,), head)
        for end in leaving:
            self._lead(end)

    def exactly(self, count: int, rows: Dim) -> None:
        """A stop where a loop had not so many iterations."""
        self._flow("exactly", (count,), rows=rows)

    def _flow(self, kind: str, reads=(), writes=(), target: int = 0, rows: Dim = 0) -> int:
        """Append a step; its number."""
        self.steps.append(FlowStep(kind, self.op, self.location, tuple(reads), tuple(writes), target, rows))
        return len(self.steps) - 1

    def _lead(self, number: int) -> None:
        """Make a step lead to the next one that is appended."""
        self.steps[number] = self.steps[number]._replace(target=len(self.steps))

    def _new(self, name: str, type_: Type, kind: str = "temporary", view_of: int | None = None) -> int:
        self.slots.append(Slot(name, type_, kind, view_of))
        return len(self.slots) - 1

    def _root(self, slot: int) -> int:
        return root_among(self.slots, slot)

    def _arm(self, region: Program, captured: Sequence[int], results: Sequence[int]) -> None:
        """One branch: what it makes itself is made in the results, all else is copied there."""
        placed: dict[int, int] = {}
        for made, result in zip(region.outputs, results, strict=True):
            root = root_among(region.slots, made)
            if region.slots[root].kind in ("temporary", "output"):
                placed.setdefault(root, result)
        for made, result in zip(self._splice(region, captured, placed), results, strict=True):
            if self._root(made) != result:
                self._flow("copy", (made,), (result,))

    def _assign(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies as if all at once: what another copy overwrites is first put aside."""
        overwritten = {result for _, result in pairs}
        safe = []
        for made, result in pairs:
            if self._root(made) in overwritten:
                aside = self._new(self.slots[made].name, self.slots[made].type)
                self._flow("copy", (made,), (aside,))
                made = aside
            safe.append((made, result))
        for made, result in safe:
            self._flow("copy", (made,), (result,))

    def _splice(self, region: Program, given: Sequence[int], placed: Mapping[int, int]) -> tuple[int, ...]:
        """Append a region's steps on slots of this program: its inputs are those given, `placed` says what
        becomes of some others. The slots of its results."""
        names = dict(zip(region.inputs, given, strict=True))
        for number, slot in enumerate(region.slots):
            if number not in names:
                names[number] = self._slot(region, number, slot, names, placed)
        guard = None
        if region.checks or not all(_is_static(slot.type) for slot in region.slots):
            guard = self._flow("guard")
            self.steps[guard] = self.steps[guard]._replace(checks=region.checks)
        start = len(self.steps)
        self.steps += [_moved(step, names, start) for step in region.steps]
        if guard is not None:
            self._lead(guard)
        return tuple(names[slot] for slot in region.outputs)

    def _slot(self, region: Program, number: int, slot: Slot, names, placed: Mapping[int, int]) -> int:
        if number in placed:
            place = placed[number]
            same = self.slots[place].type == slot.type
            return place if same else self._new(slot.name, slot.type, "temporary", place)
        if slot.view_of is not None:
            return self._new(slot.name, slot.type, "temporary", names[slot.view_of])
        if slot.kind == "constant":
            key = region.constants[number]
            known = next((s for s, k in self.constants.items() if k == key), None)
            if known is None:
                known = self._new(slot.name, slot.type, "constant")
                self.constants[known] = key
            return known
        return self._new(slot.name, slot.type)


def _is_static(type_: Type) -> bool:
    return isinstance(type_, TensorType) and type_.is_static


def _moved(step: Step, names: Mapping[int, int], start: int) -> Step:
    """A region's step on other slots, where its first step has a number of its own."""

    def each(slots: Sequence[int]) -> tuple[int, ...]:
        return tuple(names[slot] for slot in slots)

    match step:
        case KernelStep():
            return step._replace(arguments=each(step.arguments), writes=each(step.writes))
        case FlowStep():
            reads, writes = each(step.reads), each(step.writes)
            return step._replace(reads=reads, writes=writes, target=step.target + start)
    return FlowStep("stop", step.op, step.location, message=step.attributes["message"])
