"""Executable: a program with its machine code and constants, opened on a device and ready to run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tallow import artifact, plugins
from tallow.backend import Device
from tallow.compiled import Compiled, Part, with_aligned_constants
from tallow.dtype import DType
from tallow.errors import InputError, Unavailable
from tallow.runtime.binding import Bound, as_array, bind_inputs
from tallow.runtime.device_array import DeviceArray
from tallow.runtime.machine import Machine
from tallow.runtime.memory import Constants, memory_of
from tallow.runtime.placed import Place
from tallow.schedule.program import operators_of
from tallow.sizes import check_names
from tallow.types import TensorType

if TYPE_CHECKING:
    from tallow.plan import Plan
    from tallow.profile import Profile


class Port(NamedTuple):
    """A named input or output: dtype and shape, symbolic sizes as strings."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def port(name: str, type_: TensorType) -> Port:
    if not isinstance(type_, TensorType):
        return Port(name, None, (str(type_),))
    return Port(name, type_.dtype, tuple(d if isinstance(d, int) else str(d) for d in type_.shape))


def _require_operators(compiled: Compiled) -> None:
    """Unavailable when a run would need operators that this process does not know."""
    needed = operators_of(compiled.program)
    if not needed:
        return
    from tallow.ops import OPS  # running kernels needs no operator table

    missing = sorted(needed - OPS.keys())
    if missing:
        raise Unavailable(
            f"{compiled.program.name} needs the numpy meaning of {', '.join(missing)}, which nobody has registered: "
            "call tallow.register_op before opening it, or install the plugin that brings it"
        )


class Executable:
    """A model that runs. `exe(x, y)` takes arrays in order; `exe.run({"name": x})` by name.

    Runs from several threads at once are safe. Arrays are taken as they are when they are
    C-contiguous and of the input's dtype; results are fresh arrays unless `out` gives them. With
    keep="device" results are `DeviceArray`s, which stay on the device; these are inputs without a copy.
    """

    def __init__(
        self,
        compiled: Compiled,
        device: Device,
        threads: int,
        others: Mapping[int, Device] | None = None,
    ):
        """`others`: by number, the devices of the list besides the first that the program needs."""
        self.devices = {0: device, **(others or {})}
        if device.is_host:
            compiled = with_aligned_constants(compiled)
        if others:
            compiled = replace(compiled, others=tuple(map(self._aligned, count(1), compiled.others)))
        self.compiled = compiled
        self.device = device
        self.threads = threads
        program = compiled.program
        if operators_of(program):
            plugins.host()  # steps on the host may evaluate operators of plugins
            _require_operators(compiled)
        places = {number: self._place(number, part) for number, part in enumerate(compiled.parts)}
        self._machine = Machine(program, *places[0], threads, places)
        self.inputs = tuple(
            port(n, program.slots[s].type) for n, s in zip(program.input_names, program.inputs, strict=True)
        )
        self.outputs = tuple(
            port(n, program.slots[s].type) for n, s in zip(program.output_names, program.outputs, strict=True)
        )

    def _aligned(self, number: int, part: Part) -> Part:
        device = self.devices.get(number)
        return with_aligned_constants(part) if device is not None and device.is_host else part

    def _place(self, number: int, part: Part) -> Place | None:
        """Where steps of a device run, or None of one that has no part in the program."""
        if number not in self.devices:
            return None
        device = self.devices[number]
        memory = memory_of(device)
        return Place(device.load(part.code), memory, Constants(memory, part.constants))

    def __call__(
        self,
        *arrays,
        out: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray] | None = None,
        keep: str | None = None,
    ):
        """Results for inputs in order: one array, or a tuple when the model has several results.

        `out`: arrays to write results into, by name, in order, or one for a model with one result.
        `keep`: "device" leaves tensors on the device.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(map(str, self.inputs))
            raise InputError(f"expected {len(self.inputs)} inputs ({names}), got {len(arrays)}")
        results = self._machine.run_direct(arrays) if out is None and keep is None else None
        if results is None:
            results = self._run(bind_inputs(self.compiled.program, arrays, self.device), out, keep)
        return results[0] if len(results) == 1 else tuple(results)

    def run(
        self,
        inputs: Mapping[str, object],
        out: Mapping[str, np.ndarray] | None = None,
        keep: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Results by name for inputs by name; InputError says which names, dtypes or sizes do not fit.
        `keep`: "device" leaves tensors on the device."""
        program, results = self.compiled.program, None
        if (
            out is None
            and keep is None
            and isinstance(inputs, Mapping)
            and len(inputs) == len(program.input_names)
        ):
            with contextlib.suppress(KeyError):
                results = self._machine.run_direct([inputs[name] for name in program.input_names])
        if results is None:
            results = self._run(self._bind(inputs), out, keep)
        return dict(zip(program.output_names, results, strict=True))

    def upload(self, array: np.ndarray) -> DeviceArray:
        """A copy of an array in the device's memory, to be an input of any number of runs."""
        host = as_array(array, "upload")
        if host.dtype == object:
            raise InputError(f"upload: expected numbers, got dtype {host.dtype}: strings stay on the host")
        return DeviceArray(self.device, self.device.upload(np.array(host, order="C")), host.shape, host.dtype)

    def _run(self, bound: Bound, out, keep: str | None) -> list:
        if keep not in (None, "device"):
            raise InputError(f'keep = {keep!r}: expected "device", or None for arrays of the host')
        if keep is not None and out is not None:
            raise InputError('keep = "device" and out are both given: results can only be in one place')
        given = self._out(out)
        for position, array in given.items():
            others = [*bound.arrays, *(a for p, a in given.items() if p != position)]
            if any(isinstance(a, np.ndarray) and np.may_share_memory(array, a) for a in others):
                name = self.compiled.program.output_names[position]
                raise InputError(
                    f'out "{name}": it overlaps an input or another output: give memory of its own'
                )
        try:
            results = self._machine.run(bound, given, stay=keep is not None)
            return results if keep is None else [self._kept(value) for value in results]
        except MemoryError as error:
            sizes = ", ".join(f"{n} = {size}" for n, size in bound.sizes.items()) or "these inputs"
            raise InputError(f"there is not enough memory to run with {sizes}: {error}") from None

    def _kept(self, value):
        """A result on the device; strings and sequences, which are the host's, as they are."""
        tensor = isinstance(value, (np.ndarray, DeviceArray)) and value.dtype != object
        return self._machine.memory.keep(value) if tensor else value

    def _bind(self, inputs: Mapping[str, object]) -> Bound:
        """Inputs by name, checked."""
        if not isinstance(inputs, Mapping):
            raise InputError(
                f"expected inputs by name, got {type(inputs).__name__}: say run({{name: array}}), or call the "
                "executable with arrays in order"
            )
        names = self.compiled.program.input_names
        missing = [n for n in names if n not in inputs]
        unknown = [str(n) for n in inputs if n not in names]
        if missing or unknown:
            parts = [f"missing {', '.join(missing)}"] * bool(missing)
            parts += [f"unknown {', '.join(unknown)}"] * bool(unknown)
            raise InputError(
                f"inputs: {'; '.join(parts)}. This model takes {', '.join(map(str, self.inputs))}"
            )
        return bind_inputs(self.compiled.program, [inputs[n] for n in names], self.device)

    def _out(self, out) -> dict[int, np.ndarray]:
        """Result arrays that the caller gives, by the position of the output."""
        if out is None:
            return {}
        names = self.compiled.program.output_names
        if isinstance(out, np.ndarray) or not isinstance(out, (Mapping, Sequence)):
            out = [out]
        if not isinstance(out, Mapping):
            if len(out) != len(names):
                raise InputError(f"out: expected {len(names)} arrays ({', '.join(names)}), got {len(out)}")
            out = dict(zip(names, out, strict=True))
        for name, array in out.items():
            if name not in names:
                raise InputError(
                    f"out: unknown output {name!r}: this model gives {', '.join(map(str, self.outputs))}"
                )
            if not isinstance(array, np.ndarray):
                raise InputError(f'out "{name}": expected a numpy array, got {type(array).__name__}')
        return {names.index(n): array for n, array in out.items()}

    @property
    def plan(self) -> Plan:
        """Steps in order with where and why each runs, and the memory they need."""
        from tallow.plan import describe  # here and below: runs need neither plans nor profiles

        return describe(self.compiled, self.threads, {}, self._hosts)

    def plan_for(self, dims: Mapping[str, int]) -> Plan:
        """The plan when sizes are these: the arena and each step's arithmetic as numbers."""
        have = self.compiled.program.symbols
        from tallow.plan import describe

        check_names(dims, have)
        sizes = {n: int(size) for n, size in dims.items()}
        return describe(self.compiled, self.threads, sizes, self._hosts)

    @property
    def _hosts(self) -> frozenset[int]:
        """Numbers of the devices that work on the host's memory."""
        return frozenset(number for number, device in self.devices.items() if device.is_host)

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Write a `.tallow` file that opens without importers or compiler; ArtifactError if it exists
        and `force` is not given."""
        return artifact.write(self.compiled, Path(path), force)

    def profile(self, inputs: Mapping[str, object], runs: int = 10, roofline: bool = True) -> Profile:
        """Time of each step, the median of `runs` runs, beside what this machine could reach: `roofline`
        measures that once for each number of threads, in about a second; other devices have none."""
        from tallow.profile import measure, names_of
        from tallow.roofline import measure_roofline

        if runs < 1:
            raise InputError(f"runs = {runs}: expected 1 or more")
        limits = measure_roofline(self.threads) if roofline and self.device.is_host else None
        return measure(
            self.compiled.program, self._machine, self._bind(inputs), runs, limits, names_of(self.compiled)
        )

    def run_observed(self, inputs: Mapping[str, object]) -> tuple[dict[str, np.ndarray], Profile]:
        """As `run`, with the time that each step of this one run took."""
        from tallow.profile import names_of, observe

        bound = self._bind(inputs)
        results, profile = observe(self.compiled.program, self._machine, bound, names_of(self.compiled))
        return dict(zip(self.compiled.program.output_names, results, strict=True)), profile

    def __getstate__(self):
        names = {number: device.info.name for number, device in self.devices.items()}
        return {"compiled": self.compiled, "devices": names, "threads": self.threads}

    def __setstate__(self, state):
        compiled, found = state["compiled"], plugins.installed()
        opened = {
            number: found.get("backend", compiled.targets[number].backend).open(name)
            for number, name in state["devices"].items()
        }
        self.__init__(compiled, opened.pop(0), state["threads"], opened)

    def __repr__(self) -> str:
        targets, steps = ", ".join(map(str, self.compiled.targets)), len(self.compiled.program.steps)
        return f"<Executable {self.compiled.program.name} for {targets}, {steps} steps>"
