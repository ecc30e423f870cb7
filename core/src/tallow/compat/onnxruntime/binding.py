"""IOBinding: inputs and outputs of a session tied to memory before it runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tallow.compat.onnxruntime.errors import InvalidArgument, error
from tallow.compat.onnxruntime.kinds import element_dtype, handed_out, type_word
from tallow.compat.onnxruntime.values import OrtValue, OrtValueVector, at_address, need_host, of_result
from tallow.graph import TensorType


class IOBinding:
    """Bound values of one session. An output that is bound to memory is written there; others get memory
    of their own at every run."""

    def __init__(self, session):
        self._session = session
        self._inputs: dict[str, OrtValue] = {}
        self._targets: dict[str, OrtValue | None] = {}
        self._results: list[OrtValue] = []

    def bind_cpu_input(self, name: str, arr_on_cpu: np.ndarray) -> None:
        """Binds an array, whose elements are read when the session runs."""
        if not isinstance(arr_on_cpu, np.ndarray):
            raise RuntimeError(
                f"Unable to create OrtValue from the given python object: expected an array, got {type(arr_on_cpu)}"
            )
        self._bind(name, OrtValue._of(arr_on_cpu, element_dtype(arr_on_cpu.dtype)))

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Binds the tensor at an address of the host's memory."""
        need_host(device_type, device_id)
        kind = element_dtype(element_type)
        self._bind(name, OrtValue._of(at_address(buffer_ptr, shape, kind), kind))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        self._bind(name, ortvalue._get_c_value())

    def _bind(self, name: str, value: OrtValue) -> None:
        if name not in self._session._interface.input_types:
            raise RuntimeError(f"Failed to find NodeArg with name: {name} in the def list")
        self._inputs[name] = value

    def bind_output(
        self, name: str, device_type="cpu", device_id=0, element_type=None, shape=None, buffer_ptr=None
    ) -> None:
        """Asks for an output; with an address it is written there, which must fit exactly."""
        need_host(device_type, device_id)
        if buffer_ptr is None:
            self._targets[name] = None
            return
        if element_type is None or shape is None:
            raise ValueError(
                "`element_type` and `shape` are to be provided if pre-allocated memory is provided"
            )
        kind = element_dtype(element_type)
        self._targets[name] = OrtValue._of(at_address(buffer_ptr, shape, kind), kind)

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        self._targets[name] = ortvalue._get_c_value()

    def synchronize_inputs(self) -> None:
        """Nothing to wait for: memory is the host's."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for: a run returns when its results may be read."""

    def get_outputs(self) -> list[OrtValue]:
        """Results of the last run, in the order in which outputs were bound."""
        return list(self._results)

    def get_outputs_as_ortvaluevector(self) -> OrtValueVector:
        return OrtValueVector(self._results)

    def copy_outputs_to_cpu(self) -> list:
        """Results of the last run as arrays of their own."""
        return [handed_out(_copy(value._value), value._type) for value in self._results]

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._targets.clear()
        self._results = []

    @property
    def _iobinding(self) -> IOBinding:
        return self

    def _for_run(self) -> tuple[dict[str, OrtValue], dict[str, np.ndarray]]:
        """The feed, and arrays that results are written straight into: those that share no memory with an
        input or with each other."""
        known = {o.name for o in self._session.get_outputs()}
        if not self._targets:
            raise RuntimeError("Error in execution: At least one output should be requested.")
        for name in self._targets:
            if name not in known:
                raise error(InvalidArgument, f"Invalid output name:{name}")
        for name, target in self._targets.items():
            self._check_type(name, target)
        arrays = {n: t._value for n, t in self._targets.items() if t is not None and t.is_tensor()}
        taken = [v._value for v in self._inputs.values() if isinstance(v._value, np.ndarray)]
        return dict(self._inputs), {n: a for n, a in arrays.items() if not self._overlaps(a, arrays, taken)}

    @staticmethod
    def _overlaps(array: np.ndarray, outputs: dict[str, np.ndarray], inputs: list[np.ndarray]) -> bool:
        others = [*inputs, *(other for other in outputs.values() if other is not array)]
        return any(np.may_share_memory(array, other) for other in others)

    def _check_type(self, name: str, target: OrtValue | None) -> None:
        of = self._session._interface.output_types[name]
        if target is not None and isinstance(of, TensorType) and target._tensor().dtype != of.dtype.numpy:
            raise error(
                InvalidArgument,
                f"Unexpected output data type. Actual: ({target.data_type()}) , expected: ({type_word(of)})",
            )

    def _take(self, results: dict[str, object]) -> None:
        """Keeps the bound results; those bound to memory that an input shares are copied there now."""
        types = self._session._interface.output_types
        self._results = []
        for name, target in self._targets.items():
            value = results[name]
            if target is not None:
                _fill(name, target, value)
            self._results.append(of_result(value, types[name]) if target is None else target)


def _fill(name: str, target: OrtValue, value: np.ndarray) -> None:
    array = target._tensor()
    if array is value:
        return
    if array.shape != value.shape:
        raise error(
            InvalidArgument,
            f"output {name}: the bound memory is of shape {list(array.shape)}, the result of {list(value.shape)}",
        )
    array[...] = value


def _copy(value: object) -> object:
    return value.copy() if isinstance(value, np.ndarray) else value
