"""Machine: runs a compiled program on an opened device, one native call for each run of kernel steps."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import numpy as np

from tallow.backend import Module
from tallow.dim import evaluate
from tallow.errors import InputError, TallowError
from tallow.evaluate import bind_sizes, evaluate_node, read_sizes
from tallow.runtime.binding import Bound
from tallow.runtime.device_array import DeviceArray
from tallow.runtime.direct import Direct
from tallow.runtime.frame import Arena, Frame, PhasePlan, Segment
from tallow.runtime.layout import kernel_reads, lives_of, phases_of, root_of, sent_to_regions, shape_of
from tallow.runtime.memory import Constants, Memory
from tallow.runtime.placed import Places, Values, run_placed
from tallow.runtime.regions import run_control
from tallow.runtime.results import arrays_in, carrier, check_out, fresh, shares_memory
from tallow.runtime.template import Template
from tallow.schedule.program import ControlStep, HostStep, PlacedStep, Program
from tallow.types import TensorType

REMEMBERED, STEPS = (
    32,
    1 << 15,
)  # size bindings whose prepared steps are kept, and steps of more where they are few
ABSOLUTE = 0  # the base whose address is 0: offsets from it are addresses of constants

# A step, or one inside a placed step; the seconds that it took in all, and how often it ran.
Observer = Callable[[int | tuple[int, int], float, int], None]


_MACHINES: weakref.WeakSet[Machine] = weakref.WeakSet()


def _renew_after_fork() -> None:
    """A forked child has none of the threads that may have held a lock."""
    for machine in _MACHINES:
        machine._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_after_fork)


class Machine:
    """Runs one program; regions of its control steps have machines of their own."""

    def __init__(
        self,
        program: Program,
        module: Module,
        memory: Memory,
        constants: Constants,
        threads: int,
        places: Places | None = None,
    ):
        self.program, self.module, self.threads = program, module, threads
        self.memory, self.device = memory, memory.device
        self.placed = constants  # holds the memory that `addresses` are of
        self.constants = {slot: np.asarray(constants.arrays[key]) for slot, key in program.constants.items()}
        read = kernel_reads(program)
        self.addresses = {s: constants.address(key) for s, key in program.constants.items() if s in read}
        sent = sent_to_regions(program)
        self.sent = {s: constants.value(key) for s, key in program.constants.items() if s in sent}
        self.phases = phases_of(program)
        self.lives = lives_of(program)
        self.base_of = self._number_bases()
        self.regions = {
            (number, name): Machine(region, module, memory, constants, threads, places)
            for number, step in enumerate(program.steps)
            if isinstance(step, ControlStep)
            for name, region in step.regions.items()
        }
        self.placed_steps = {
            number: Machine(step.program, *places[step.device], threads)
            for number, step in enumerate(program.steps)
            if isinstance(step, PlacedStep)
        }
        self._most_plans = max(REMEMBERED, STEPS // max(1, len(program.steps)))
        self._templates: dict[int, Template] = {}
        self._plans: OrderedDict[tuple, PhasePlan] = OrderedDict()
        self._direct: OrderedDict[tuple, Direct] = OrderedDict()
        self._dtypes = [carrier(program.slots[slot].type) for slot in program.inputs]
        self._arenas: list[list[Arena]] = [[] for _ in self.phases]
        self._lock = threading.Lock()
        _MACHINES.add(self)

    def _number_bases(self) -> dict[int, int]:
        owners = [s for s, slot in enumerate(self.program.slots) if slot.kind in ("input", "output", "host")]
        owners = [s for s in owners if self.program.slots[s].view_of is None]
        return {slot: 1 + len(self.phases) + i for i, slot in enumerate(owners)}

    def run(
        self,
        bound: Bound,
        out: Mapping[int, np.ndarray] | None = None,
        observe: Observer | None = None,
        stay: bool = False,
        around: tuple[int, ...] = (),
        learn: dict[str, int] | None = None,
    ) -> list:
        """The results in order; `out` gives arrays for some of them by output slot. With `stay`, results on
        a device of its own memory stay there. `around`: as for `run_direct`. `learn` gets the sizes that the
        run binds."""
        bases = [0] * (1 + len(self.phases) + len(self.base_of))
        frame = Frame(
            bases, dict(zip(self.program.inputs, bound.arrays, strict=True)), dict(bound.sizes), out or {}
        )
        for number, phase in enumerate(self.phases):
            self._run_phase(frame, number, phase, observe)
        if learn is not None:
            learn.update(frame.sizes)
        results = [
            self._result(frame, slot, position, stay) for position, slot in enumerate(self.program.outputs)
        ]
        self._give_back(frame)
        if observe is None:
            self._remember_direct(bound, around)
        return results

    def run_direct(self, arrays: Sequence, around: tuple[int, ...] = ()) -> list[np.ndarray] | None:
        """The results, if inputs of these very shapes have run before and kernels are all there is to do;
        None leaves every check to `run`. `around` are the sizes that a region sees besides."""
        for array, dtype in zip(arrays, self._dtypes, strict=True):
            if type(array) is not np.ndarray or array.dtype is not dtype:
                return None
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned):
                return None
        shapes = tuple([array.shape for array in arrays])
        direct = self._direct.get((shapes, around) if around else shapes)
        if direct is None:
            return None
        if not direct.arena:
            return direct.run(arrays, 0)
        arena = self._take_arena(0, direct.arena)
        results = direct.run(arrays, arena.address)
        with self._lock:
            self._arenas[0].append(arena)
        return results

    def _remember_direct(self, bound: Bound, around: tuple[int, ...]) -> None:
        """Note what `run_direct` needs for these shapes, when the program is kernels alone."""
        program = self.program
        if not self.device.is_host or len(self.phases) != 1 or None in self._dtypes:
            return
        plan = self._plan(0, self.phases[0], Frame([], {}, dict(bound.sizes), {}))
        kernels = [segment.prepared for segment in plan.segments]
        kept = self._kept(bound)
        if len(kernels) > 1 or None in kernels or len(plan.results) + len(kept) != len(program.outputs):
            return
        outputs = sorted((position, slot, shape) for slot, position, shape in plan.results)
        direct = Direct(
            kernels[0] if kernels else None,
            1 + len(self.phases) + len(self.base_of),
            tuple(self.base_of[slot] for slot in program.inputs),
            tuple(
                (self.base_of[slot], shape, program.slots[slot].type.dtype.numpy)
                for _, slot, shape in outputs
            ),
            plan.layout.arena,
            kept,
        )
        with self._lock:
            shapes = tuple([array.shape for array in bound.arrays])
            self._direct[(shapes, around) if around else shapes] = direct
            while len(self._direct) > self._most_plans:
                self._direct.popitem(last=False)

    def _kept(self, bound: Bound) -> tuple:
        """The results that are inputs or constants, as `Direct` has them."""
        kept = []
        for position, slot in enumerate(self.program.outputs):
            root = root_of(self.program, slot)
            kind = self.program.slots[root].kind
            if kind in ("input", "constant"):
                source = self.program.inputs.index(root) if kind == "input" else self.constants[root]
                kept.append((position, shape_of(self.program, slot, bound.sizes), source))
        return tuple(kept)

    def _run_phase(self, frame: Frame, number: int, phase: tuple[int, ...], observe: Observer | None) -> None:
        plan = self._plan(number, phase, frame)
        frame.layouts[number] = plan.layout
        if plan.layout.arena:
            frame.arenas[number] = arena = self._take_arena(number, plan.layout.arena)
            frame.bases[1 + number] = arena.address
        for slot, position, shape in plan.results:
            given = frame.out.get(position)
            dtype = self.program.slots[slot].type.dtype.numpy
            if given is not None:
                check_out(self.program.output_names[position], given, shape, dtype)
            frame.values[slot], frame.bases[self.base_of[slot]] = self.memory.empty(shape, dtype, given)
        for segment in plan.segments:
            for slot in segment.reads:
                if slot not in frame.placed:
                    placed = self.memory.place(self._here(frame, slot))
                    frame.placed[slot], frame.bases[self.base_of[slot]] = placed
            if segment.prepared is None:
                self._run_other(frame, segment.steps[0], observe)
            elif segment.branches:
                self._run_branching(frame, segment, plan, observe)
            elif observe is None:
                segment.prepared.run(frame.bases)
            else:
                for step, seconds in zip(segment.steps, segment.prepared.profile(frame.bases), strict=True):
                    observe(step, seconds, 1)

    def _run_branching(
        self, frame: Frame, segment: Segment, plan: PhasePlan, observe: Observer | None
    ) -> None:
        if observe is None:
            stopped = segment.prepared.run(frame.bases)
        else:
            stopped, taken = segment.prepared.observe(frame.bases)
            for number, (seconds, runs) in zip(segment.steps, taken, strict=True):
                if runs:
                    observe(number, seconds, runs)
        if stopped is not None:
            self._stop(frame, segment.steps[stopped], plan.layout.stops)

    def _stop(self, frame: Frame, number: int, stops: Mapping[int, TallowError | MemoryError]) -> NoReturn:
        """Raises what a run that ended at a step has to say."""
        step = self.program.steps[number]
        if number in stops:
            raise type(stops[number])(str(stops[number]))
        if step.kind == "stop":
            evaluate_node(step.op, {"message": step.message}, (), frame.sizes, step.location)
        rows, count = evaluate(step.rows, frame.sizes), int(self.view(frame, step.reads[-1]))
        raise InputError(
            f"{step.op}: its results are for {step.rows} = {rows} iterations, got "
            f"{'more' if step.kind == 'row' else count} ({step.location})"
        )

    # Memory ------------------------------------------------------------------------------------

    def _take_arena(self, phase: int, size: int) -> Arena:
        with self._lock:
            free = self._arenas[phase]
            for position, arena in enumerate(free):
                if arena.size >= size:
                    return free.pop(position)
            free.clear()  # all too small: give them back rather than keep one for each size seen
        memory = self.device.allocate(size)
        return Arena(size, memory, self.device.address(memory))

    def _give_back(self, frame: Frame) -> None:
        with self._lock:
            for phase, arena in frame.arenas.items():
                self._arenas[phase].append(arena)

    def _plan(self, number: int, phase: tuple[int, ...], frame: Frame) -> PhasePlan:
        key = (number, *frame.sizes.values())
        plan = self._plans.get(key)
        if plan is None:
            plan = self._make_plan(number, phase, frame)
            with self._lock:
                self._plans[key] = plan
                while len(self._plans) > self._most_plans * len(self.phases):
                    self._plans.popitem(last=False)
        return plan

    def _make_plan(self, number: int, phase: tuple[int, ...], frame: Frame) -> PhasePlan:
        template = self._templates.get(number)
        if template is None:
            template = Template(self.program, self.lives, phase, number, self._fixed, frame.sizes.keys())
            self._templates[number] = template
        earlier = {before: frame.layouts[before] for before in range(number)}
        return template.bind(frame.sizes, earlier, self.module, self.threads)

    def _fixed(self, root: int) -> tuple[int, int] | None:
        """Where a slot lies that is no temporary."""
        match self.program.slots[root].kind:
            case "constant":
                return ABSOLUTE, self.addresses[root]
            case "temporary":
                return None
        return self.base_of[root], 0

    # Steps that are not kernels ----------------------------------------------------------------

    def value(self, frame: Frame, slot: int):
        """The slot's value where it lies: an array of the host or of the device, or no array at all."""
        root = root_of(self.program, slot)
        kind = self.program.slots[root].kind
        if kind == "constant":
            value = self.constants[root]
        elif kind == "temporary":
            return self._temporary(frame, root, slot)
        else:
            value = frame.values[root]
        if slot == root and kind != "output":
            return value
        shape = shape_of(
            self.program, slot, frame.sizes
        )  # an output's array has the shape of its first result
        return value if value.shape == shape else value.reshape(shape)

    def _temporary(self, frame: Frame, root: int, slot: int) -> np.ndarray | DeviceArray:
        """A slot in memory of a temporary, which has more rows where a loop did not need them all."""
        number = next(n for n, phase in enumerate(self.phases) if self.lives.first[root] in phase)
        offset = frame.layouts[number].offsets[root]
        shape = shape_of(self.program, slot, frame.sizes)
        dtype = self.program.slots[root].type.dtype.numpy
        arena = frame.arenas.get(number)
        if arena is None or 0 in shape:
            return np.empty(shape, dtype)
        return self.memory.part(arena.memory, offset, shape, dtype)

    def view(self, frame: Frame, slot: int):
        """The slot's value on the host."""
        value = self.value(frame, slot)
        if not isinstance(value, DeviceArray):
            return value
        if slot not in frame.fetched:
            frame.fetched[slot] = value.numpy()
        return frame.fetched[slot]

    def _here(self, frame: Frame, slot: int):
        """A value for kernels of this machine's device: of other devices' values, the host's copy."""
        value = frame.values[slot]
        foreign = isinstance(value, DeviceArray) and value.device is not self.device
        return self.view(frame, slot) if foreign else value

    def _run_other(self, frame: Frame, number: int, observe: Observer | None) -> None:
        step = self.program.steps[number]
        start = time.perf_counter()
        if isinstance(step, HostStep):
            arrays = [self.view(frame, slot) for slot in step.inputs]
            results = evaluate_node(step.op, step.attributes, arrays, frame.sizes, step.location)
            if step.defines and not step.outputs:
                read_sizes(step.defines, arrays[0], frame.sizes, step.location)
        elif isinstance(step, PlacedStep):
            values = Values(frame, self.value, self.view)
            results, inside = run_placed(self.placed_steps[number], values, step, number, observe)
            start += inside
        else:
            results = run_control(self, frame, number, step)
        types = [self.program.slots[slot].type for slot in step.outputs]
        bind_sizes(types, results, frame.sizes, step.location)
        for slot, type_, value in zip(step.outputs, types, results, strict=True):
            if isinstance(type_, TensorType) and not isinstance(value, DeviceArray):
                value = np.ascontiguousarray(value).reshape(np.shape(value))
            frame.values[slot] = value
        if observe is not None:
            observe(number, time.perf_counter() - start, 1)

    def _borrowed(self, frame: Frame) -> list[np.ndarray]:
        """Arrays that are not this run's to give away: inputs, and elements of sequences."""
        inputs = set(self.program.inputs)
        held = (v for s, v in frame.values.items() if s in inputs or not isinstance(v, np.ndarray))
        return [array for value in held for array in arrays_in(value)]

    def _result(self, frame: Frame, slot: int, position: int, stay: bool):
        root = root_of(self.program, slot)
        kind = self.program.slots[root].kind
        given = frame.out.get(position)
        value = self.value(frame, slot)
        if isinstance(value, DeviceArray):
            if stay and kind != "temporary":
                return value
            if given is not None:
                check_out(self.program.output_names[position], given, value.shape, value.dtype)
            if slot not in frame.fetched:
                return value.numpy(given)
            result = np.empty_like(frame.fetched[slot]) if given is None else given
            np.copyto(result, frame.fetched[slot])
            return result
        if not isinstance(value, np.ndarray):
            if given is not None:
                name, type_ = self.program.output_names[position], self.program.slots[root].type
                raise InputError(f'out "{name}": expected no array for a result of type {type_}')
            return fresh(value)
        if given is not None and value is not given:
            check_out(self.program.output_names[position], given, value.shape, value.dtype)
            np.copyto(given, value)
            return given
        first = (
            next(p for p, s in enumerate(self.program.outputs) if root_of(self.program, s) == root)
            == position
        )
        if kind == "output" and first:
            return value
        mine = kind == "host" and not shares_memory(value, self._borrowed(frame))
        return value if mine and root in self.program.outputs else value.copy()
