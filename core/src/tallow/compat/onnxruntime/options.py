"""SessionOptions and RunOptions: all that onnxruntime's have, and what each means here."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import numpy as np

from tallow.compat.onnxruntime.enumerations import ExecutionMode, ExecutionOrder, GraphOptimizationLevel
from tallow.compat.onnxruntime.errors import NotImplemented, error
from tallow.compat.onnxruntime.providers import get_all_providers
from tallow.compat.onnxruntime.said import cannot_honour
from tallow.compat.onnxruntime.values import OrtValue

PLANNED = "memory is planned before a run, and kept for the next"
IN_ORDER = "steps run one after another, each on all threads of its session"
QUIET = "messages come through the logger tallow.compat.onnxruntime"

LONGEST_KEY, LONGEST_VALUE = 1024, 8192


class Setting:
    """One attribute. `why` says why it has no effect; values in `same` mean what happens anyway."""

    def __init__(self, default: object, why: str = "", same: tuple = ()):
        self.default, self.why, self.same = default, why, (default, *same)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.__doc__ = name, self.why or None

    def __get__(self, options, owner=None):
        return self if options is None else options._values.get(self.name, self.default)

    def __set__(self, options, value) -> None:
        options._values[self.name] = self.converted(value)

    def converted(self, value: object) -> object:
        """The value as the attribute's type; TypeError as from onnxruntime."""
        kind = type(self.default)
        if isinstance(value, kind):
            return value
        if kind is bool and (value is None or hasattr(value, "__bool__")):
            return bool(value)
        if kind is int and hasattr(value, "__int__") and not isinstance(value, float):
            return int(value)
        raise TypeError(f"{self.name} = {value!r}: expected {kind.__name__}, got {type(value).__name__}")


class Options:
    """Attributes are the class's settings and no others; entries are texts by key."""

    __slots__ = ("_values", "_entries")

    def __init__(self):
        self._values: dict[str, object] = {}
        self._entries: dict[str, str] = {}

    def _add(self, key: str, value: str) -> None:
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"a configuration entry: expected two texts, got {key!r} and {value!r}")
        if not 0 < len(key) <= LONGEST_KEY:
            raise RuntimeError(f"Config key is empty or longer than maximum length {LONGEST_KEY}")
        if len(value) > LONGEST_VALUE:
            raise RuntimeError(f"Config value is longer than maximum length: {LONGEST_VALUE}")
        self._entries[key] = value

    def _get(self, key: str) -> str:
        if key not in self._entries:
            raise RuntimeError(f"{type(self).__name__} does not have configuration with key: {key}")
        return self._entries[key]

    def _say_what_has_no_effect(self, severity: int = -1) -> None:
        """A warning for each setting and entry that asks for what does not happen."""
        kind = type(self)
        for name, value in self._values.items():
            setting = getattr(kind, name)
            if setting.why and value not in setting.same:
                cannot_honour(f"{kind.__name__}.{name} = {value!s}", setting.why, severity)
        for key, value in self._entries.items():
            if (key, value) not in kind._MEANT:
                cannot_honour(
                    f"{kind.__name__} entry {key} = {value}", "Tallow has nothing like it", severity
                )


class SessionOptions(Options):
    """How a model is loaded and run. Settings that have no effect are named in a warning when a session is
    made; what would change results is refused."""

    __slots__ = ("_sizes", "_meanings", "_initializers", "_providers")
    _MEANT = frozenset(
        {
            ("session.load_model_format", "ONNX"),
            ("session.load_model_format", "onnx"),
            ("session.x64quantprecision", "1"),  # 8-bit products never saturate
            ("session.use_deterministic_compute", "1"),
        }
    )

    enable_cpu_mem_arena = Setting(True, PLANNED)
    enable_mem_pattern = Setting(True, PLANNED)
    enable_mem_reuse = Setting(True, PLANNED)
    enable_profiling = Setting(False)
    execution_mode = Setting(ExecutionMode.ORT_SEQUENTIAL, IN_ORDER)
    execution_order = Setting(ExecutionOrder.DEFAULT, "steps run in the order of the plan")
    graph_optimization_level = Setting(
        GraphOptimizationLevel.ORT_ENABLE_ALL, "a model is always compiled with all its passes"
    )
    inter_op_num_threads = Setting(0, IN_ORDER, (1,))
    intra_op_num_threads = Setting(0)
    log_severity_level = Setting(-1)
    log_verbosity_level = Setting(0, QUIET)
    logid = Setting("", QUIET)
    optimized_model_filepath = Setting(
        "", "the model is written there as it came; tallow.compile(model).save(path) keeps a compiled one"
    )
    profile_file_prefix = Setting("onnxruntime_profile_")
    use_deterministic_compute = Setting(False)
    use_per_session_threads = Setting(True, "a session has threads of its own")

    def __init__(self):
        super().__init__()
        self._sizes: dict[str, int] = {}
        self._meanings: dict[str, int] = {}
        self._initializers: dict[str, np.ndarray] = {}
        self._providers: dict[str, dict[str, str]] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        if key == "session.load_model_format" and str(value).upper() == "ORT":
            raise error(NotImplemented, "models in onnxruntime's own format are not read: give the ONNX file")
        self._add(key, value)

    def get_session_config_entry(self, key: str) -> str:
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Fixes the size that the model calls `name`; names that it lacks are ignored."""
        self._sizes[name] = operator.index(size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """Fixes sizes that the model gives this meaning, such as DATA_BATCH."""
        self._meanings[denotation] = operator.index(size)

    def has_providers(self) -> bool:
        return bool(self._providers)

    def add_provider(self, name: str, options: Mapping[str, str]) -> None:
        """A provider for sessions that are given none; RuntimeError for a name that nobody knows."""
        if name not in get_all_providers():
            raise RuntimeError(f"Unknown Provider Type: {name}")
        self._providers[name] = dict(options)

    def register_custom_ops_library(self, path: str) -> None:
        raise error(
            NotImplemented,
            f"{path}: libraries of operators are machine code for onnxruntime: write a Tallow plugin that "
            "registers the operators",
        )

    def add_initializer(self, name: str, value: OrtValue) -> None:
        """A value for an initializer, whatever the model's file has; names that the model lacks are ignored."""
        if not isinstance(value, OrtValue):
            raise RuntimeError(f"initializer {name!r}: expected an OrtValue, got {type(value)}")
        self._initializers[name] = value._tensor()

    def add_external_initializers(self, names: Sequence[str], values: Sequence[OrtValue]) -> None:
        """Values for initializers, whose data the model's file may lack; names that it lacks are ignored."""
        if len(names) != len(values):
            raise RuntimeError(f"{len(names)} names of initializers and {len(values)} values")
        for name, value in zip(names, values, strict=True):
            self._initializers[name] = value._ortvalue._tensor()

    def add_external_initializers_from_files_in_memory(self, names, files, sizes) -> None:
        raise error(NotImplemented, f"files {names}: external data is read from the model's folder")

    def add_provider_for_devices(self, devices, options) -> None:
        raise error(NotImplemented, "devices are chosen by the providers of a session")

    def set_provider_selection_policy(self, policy) -> None:
        cannot_honour("SessionOptions.set_provider_selection_policy", "the first usable provider is taken")

    def set_provider_selection_policy_delegate(self, delegate) -> None:
        cannot_honour(
            "SessionOptions.set_provider_selection_policy_delegate", "the first usable provider is taken"
        )

    def set_load_cancellation_flag(self, cancel: bool) -> None:
        if cancel:
            cannot_honour("SessionOptions.set_load_cancellation_flag", "compilation cannot be interrupted")


class RunOptions(Options):
    """How one run is done. `terminate` stops a run before it starts; one that has started goes on."""

    __slots__ = ()
    _MEANT = frozenset({("disable_synchronize_execution_providers", "1")})

    log_severity_level = Setting(-1)
    log_verbosity_level = Setting(0, QUIET)
    logid = Setting("", QUIET)
    only_execute_path_to_fetches = Setting(False, "the whole compiled model runs")
    terminate = Setting(False)

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        return self._get(key)

    def add_active_adapter(self, adapter: object) -> None:
        raise error(NotImplemented, "adapters (LoRA) are not supported: merge them into the model")
