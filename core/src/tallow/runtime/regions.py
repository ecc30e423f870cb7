"""Regions run from Python: branches and iterations of control flow that the device does not decide itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from tallow.evaluate import bind_sizes, stack_scan
from tallow.runtime.binding import Bound
from tallow.runtime.device_array import DeviceArray
from tallow.runtime.frame import Frame
from tallow.runtime.layout import is_temporary, root_of
from tallow.schedule.program import ControlStep, Program


class Machine(Protocol):
    """What runs a program, as its control steps see it: `regions` by step and name, and by slot what is
    `sent` to them without being looked up at each run."""

    program: Program
    regions: Mapping[tuple[int, str], Machine]
    sent: Mapping[int, object]

    def value(self, frame: Frame, slot: int): ...
    def view(self, frame: Frame, slot: int): ...
    def run(self, bound: Bound, *, stay: bool, around: tuple[int, ...]) -> list: ...
    def run_direct(self, arrays: Sequence, around: tuple[int, ...]) -> list | None: ...


def run_control(machine: Machine, frame: Frame, number: int, step: ControlStep) -> tuple:
    """The results of an `if` or `loop`, the step of that number of the machine's program."""
    if step.op == "if":
        flag = bool(np.reshape(machine.view(frame, step.inputs[0]), ()))
        return tuple(_region(machine, frame, number, "then" if flag else "otherwise")(()))
    return _run_loop(machine, frame, number, step)


def _region(machine: Machine, frame: Frame, number: int, name: str) -> Callable[[Sequence], list]:
    """What runs a region on values of its own inputs; what it captures is looked up once."""
    step, inner = machine.program.steps[number], machine.regions[number, name]
    taken = [
        _contiguous(machine.sent[slot] if slot in machine.sent else machine.value(frame, slot))
        for slot in step.captured[name]
    ]
    passed = _passed(machine.program, step.captured[name], inner.program)
    types = [inner.program.slots[slot].type for slot in inner.program.inputs]
    around = tuple(frame.sizes.values())

    def run(values: Sequence) -> list:
        given = [*map(_contiguous, values), *taken]
        results = inner.run_direct(given, around)
        if results is None:
            sizes = dict(frame.sizes)
            bind_sizes(types, given, sizes, step.location)
            results = inner.run(Bound(tuple(given), sizes), stay=True, around=around)
        for position in passed:
            results[position] = _copied(results[position])
        return results

    return run


def _passed(program: Program, captured: Sequence[int], region: Program) -> list[int]:
    """Which results of a region are temporaries that it captures, whose memory is used again after the step."""
    given = region.inputs[len(region.inputs) - len(captured) :]
    lent = {slot for slot, outer in zip(given, captured, strict=True) if is_temporary(program, outer)}
    return [n for n, slot in enumerate(region.outputs) if root_of(region, slot) in lent]


def _run_loop(machine: Machine, frame: Frame, number: int, step: ControlStep) -> tuple:
    trips = int(np.reshape(machine.view(frame, step.inputs[0]), ()))
    going = bool(np.reshape(machine.view(frame, step.inputs[1]), ()))
    carried = [machine.value(frame, slot) for slot in step.inputs[2:]]
    run = _run_stretches if "stretch" in step.regions else _run_iterations
    lent = [
        v for v, slot in zip(carried, step.inputs[2:], strict=True) if is_temporary(machine.program, slot)
    ]
    carried, scans = run(machine, frame, number, trips, going, carried)
    carried = [_copied(v) if any(_is_in(v, other) for other in lent) else v for v in carried]
    types = [machine.program.slots[slot].type for slot in step.outputs[len(carried) :]]
    stacked = [
        np.concatenate(rows) if rows else stack_scan((), type_, frame.sizes)
        for rows, type_ in zip(scans, types, strict=True)
    ]
    return (*carried, *stacked)


def _run_iterations(machine, frame, number: int, trips: int, going: bool, carried: list):
    """The carried values and the rows of each scanned result, of a body that runs once for an iteration."""
    run = _region(machine, frame, number, "body")
    outputs = machine.program.steps[number].regions["body"].outputs
    scans: list[list] = [[] for _ in range(len(outputs) - 1 - len(carried))]
    iteration = 0
    while going and iteration < trips:
        keep, *results = run([np.array(iteration, np.int64), np.array(going), *carried])
        going = bool(np.reshape(_on_host(keep), ()))
        carried = results[: len(carried)]
        for scan, element in zip(scans, results[len(carried) :], strict=True):
            scan.append(np.expand_dims(_on_host(element), 0))
        iteration += 1
    return carried, scans


def _run_stretches(machine, frame, number: int, trips: int, going: bool, carried: list):
    """As `_run_iterations`, where each run does as many iterations as there is room for."""
    run = _region(machine, frame, number, "stretch")
    outputs = machine.program.steps[number].regions["stretch"].outputs
    scans: list[list] = [[] for _ in range(len(outputs) - 2 - len(carried))]
    last = np.array(trips, np.int64)
    iteration = 0
    while going and iteration < trips:
        at, keep, *results = run([np.array(iteration, np.int64), np.array(going), *carried, last])
        going, done = bool(np.reshape(_on_host(keep), ())), int(np.reshape(_on_host(at), ())) - iteration
        carried = results[: len(carried)]
        for scan, rows in zip(scans, results[len(carried) :], strict=True):
            scan.append(_on_host(rows)[:done])
        iteration += done
    return carried, scans


def _is_in(value, other) -> bool:
    """Whether a value lies in the memory of another."""
    if isinstance(value, DeviceArray) and isinstance(other, DeviceArray):
        return value.memory is other.memory
    arrays = isinstance(value, np.ndarray) and isinstance(other, np.ndarray)
    return arrays and np.may_share_memory(value, other)


def _copied(value) -> np.ndarray:
    """A value on the host, in memory of its own."""
    return value.numpy(np.empty(value.shape, value.dtype)) if isinstance(value, DeviceArray) else value.copy()


def _contiguous(value):
    """An array of the host as kernels take it; any other value as it is."""
    return np.ascontiguousarray(value).reshape(np.shape(value)) if isinstance(value, np.ndarray) else value


def _on_host(value):
    """A value that a region made, on the host."""
    return value.numpy() if isinstance(value, DeviceArray) else value
