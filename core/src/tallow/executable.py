"""Executable: a program with its machine code and constants, opened on a device and ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tallow import artifact, plugins
from tallow.backend import Device
from tallow.compiled import Compiled
from tallow.dtype import DType
from tallow.errors import InputError
from tallow.graph import TensorType
from tallow.plan import Plan, describe
from tallow.profile import Profile, measure
from tallow.runtime.binding import bind_inputs
from tallow.runtime.machine import Machine


@dataclass(frozen=True, slots=True)
class Port:
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


class Executable:
    """A model that runs. `exe(x, y)` takes arrays in order; `exe.run({"name": x})` by name.

    Runs from several threads at once are safe. Arrays are taken as they are when they are
    C-contiguous and of the input's dtype; results are fresh arrays unless `out` gives them.
    """

    def __init__(self, compiled: Compiled, device: Device, threads: int):
        self.compiled = compiled
        self.device = device
        self.threads = threads
        program = compiled.program
        self._machine = Machine(program, device.load(compiled.code), device, compiled.constants, threads)
        self.inputs = tuple(
            port(n, program.slots[s].type) for n, s in zip(program.input_names, program.inputs, strict=True)
        )
        self.outputs = tuple(
            port(n, program.slots[s].type) for n, s in zip(program.output_names, program.outputs, strict=True)
        )

    def __call__(self, *arrays, out: Mapping[str, np.ndarray] | None = None):
        """Results for inputs in order: one array, or a tuple when the model has several results."""
        if len(arrays) != len(self.inputs):
            names = ", ".join(map(str, self.inputs))
            raise InputError(f"expected {len(self.inputs)} inputs ({names}), got {len(arrays)}")
        results = self._machine.run(bind_inputs(self.compiled.program, arrays), self._out(out))
        return results[0] if len(results) == 1 else tuple(results)

    def run(
        self, inputs: Mapping[str, object], out: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Results by name for inputs by name; InputError says which names, dtypes or sizes do not fit."""
        names = self.compiled.program.input_names
        missing = [n for n in names if n not in inputs]
        unknown = [n for n in inputs if n not in names]
        if missing or unknown:
            parts = [f"missing {', '.join(missing)}"] * bool(missing) + [
                f"unknown {', '.join(unknown)}"
            ] * bool(unknown)
            raise InputError(
                f"inputs: {'; '.join(parts)}. This model takes {', '.join(map(str, self.inputs))}"
            )
        bound = bind_inputs(self.compiled.program, [inputs[n] for n in names])
        results = self._machine.run(bound, self._out(out))
        return dict(zip(self.compiled.program.output_names, results, strict=True))

    def _out(self, out: Mapping[str, np.ndarray] | None) -> dict[int, np.ndarray] | None:
        """Result arrays that the caller gives, by the position of the output."""
        if out is None:
            return None
        names = self.compiled.program.output_names
        unknown = [n for n in out if n not in names]
        if unknown:
            raise InputError(
                f"out: unknown output {unknown[0]!r}: this model gives {', '.join(map(str, self.outputs))}"
            )
        return {names.index(n): array for n, array in out.items()}

    @property
    def plan(self) -> Plan:
        """Steps in order with where and why each runs, and the memory they need."""
        return describe(self.compiled, self.threads)

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Write a `.tallow` file that opens without importers or compiler; ArtifactError if it exists
        and `force` is not given."""
        return artifact.write(self.compiled, Path(path), force)

    def profile(self, inputs: Mapping[str, object], runs: int = 10) -> Profile:
        """Time of each step, the median of `runs` runs."""
        program = self.compiled.program
        bound = bind_inputs(program, [inputs[n] for n in program.input_names])
        return measure(program, self._machine, bound, runs)

    def __getstate__(self):
        return {"compiled": self.compiled, "device": self.device.info.name, "threads": self.threads}

    def __setstate__(self, state):
        compiled = state["compiled"]
        device = plugins.backend(compiled.target.backend).open(state["device"])
        self.__init__(compiled, device, state["threads"])

    def __repr__(self) -> str:
        return f"<Executable {self.compiled.program.name} for {self.compiled.target}, {len(self.compiled.program.steps)} steps>"
