"""InferenceSession: a model compiled by Tallow behind onnxruntime's interface."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

import tallow
from tallow.compat.onnxruntime import feeds, interface
from tallow.compat.onnxruntime.binding import IOBinding
from tallow.compat.onnxruntime.enumerations import OrtAllocatorType, OrtMemType
from tallow.compat.onnxruntime.errors import (
    Fail,
    InvalidArgument,
    NoSuchFile,
    OrtError,
    RuntimeException,
    error,
    loading,
    running,
)
from tallow.compat.onnxruntime.interface import ModelMetadata, NodeArg
from tallow.compat.onnxruntime.kinds import handed_out
from tallow.compat.onnxruntime.memory import OrtMemoryInfo
from tallow.compat.onnxruntime.options import RunOptions, SessionOptions
from tallow.compat.onnxruntime.private import PrivateNames
from tallow.compat.onnxruntime.providers import (
    HOST,
    check_and_normalize_provider_args,
    choose,
    provider_of,
)
from tallow.compat.onnxruntime.recorder import Recorder
from tallow.compat.onnxruntime.said import LOGGER, cannot_honour
from tallow.compat.onnxruntime.source import NONE, Source
from tallow.compat.onnxruntime.values import OrtDevice, OrtValue, OrtValueVector, of_result
from tallow.executable import Executable

HOST_MEMORY = OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)
OF_A_RUN = (ValueError, IndexError, KeyError, ArithmeticError, MemoryError)  # from host steps


class Session(PrivateNames):
    """What a session tells of itself, and running."""

    _executable: Executable
    _interface: interface.Interface
    _recorder: Recorder | None

    def _variant(self, fed: frozenset[str], untied: frozenset[str]) -> Executable:
        """What runs feeds that name these inputs with a default, and in which sizes of these names differ."""
        raise NotImplementedError

    def get_session_options(self) -> SessionOptions:
        return self._sess_options

    def get_inputs(self) -> list[NodeArg]:
        return list(self._interface.inputs)

    def get_outputs(self) -> list[NodeArg]:
        return list(self._interface.outputs)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Inputs that the model gives defaults, and that a feed may name."""
        return list(self._interface.defaults)

    def get_modelmeta(self) -> ModelMetadata:
        return self._interface.metadata

    def get_providers(self) -> list[str]:
        return list(self._providers)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return dict(self._provider_options)

    def enable_fallback(self) -> None:
        self._enable_fallback = True

    def disable_fallback(self) -> None:
        self._enable_fallback = False

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, object], run_options=None
    ) -> list:
        """Results in the order of `output_names`, of all outputs where that is empty or None."""
        feeds.check_missing(self._interface, input_feed)
        wanted = feeds.check_outputs(self._interface, output_names)
        results, types = self._results(input_feed, run_options), self._interface.output_types
        return [handed_out(results[name], types[name]) for name in wanted]

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options=None,
    ) -> list[OrtValue]:
        """As `run`, with OrtValues in and out."""
        feeds.check_missing(self._interface, input_dict_ort_values)
        wanted = feeds.check_outputs(self._interface, output_names)
        given = {name: value._get_c_value() for name, value in input_dict_ort_values.items()}
        results = self._results(given, run_options)
        return [of_result(results[name], self._interface.output_types[name]) for name in wanted]

    def run_async(self, output_names, input_feed, callback, user_data, run_options=None) -> None:
        """Runs in a thread of its own, which calls `callback(results, user_data, error)`."""
        feeds.check_missing(self._interface, input_feed)

        def work() -> None:
            try:
                results, message = self.run(output_names, input_feed, run_options), ""
            except Exception as raised:
                results, message = [], str(raised)
            callback(results, user_data, message)

        threading.Thread(target=work, daemon=True).start()

    def run_with_ortvaluevector(
        self,
        run_options: RunOptions | None,
        feed_names: Sequence[str],
        feeds: Sequence[OrtValue],
        fetch_names: Sequence[str],
        fetches: OrtValueVector,
        fetch_devices: Sequence[OrtDevice],
    ) -> None:
        """As `run_with_ort_values`, values in rows: results are added to `fetches`, or written to those in it."""
        if fetches and len(fetches) != len(fetch_names):
            raise error(InvalidArgument, f"{len(fetches)} values for {len(fetch_names)} results")
        results = self.run_with_ort_values(
            fetch_names, dict(zip(feed_names, feeds, strict=True)), run_options
        )
        for place, result in enumerate(results):
            if len(fetches) < len(results):
                fetches.push_back(result)
            else:
                fetches[place].update_inplace(result)

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def create_ortvalue_from_shape_and_type(
        self, shape: Sequence[int], element_type, device_type: str, device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """Memory for a tensor; there is one allocator, the host's."""
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id, vendor_id)

    def get_input_memory_infos(self) -> list[OrtMemoryInfo]:
        return [HOST_MEMORY for _ in self._interface.inputs]

    def get_output_memory_infos(self) -> list[OrtMemoryInfo]:
        return [HOST_MEMORY for _ in self._interface.outputs]

    def get_tuning_results(self) -> list:
        """None: what Tallow finds by measuring is part of the compiled model."""
        return []

    def set_tuning_results(self, results: Sequence, *, error_on_invalid: bool = False) -> None:
        if results:
            cannot_honour("InferenceSession.set_tuning_results", "they are of onnxruntime's kernels")

    def set_ep_dynamic_options(self, options: Mapping[str, str]) -> None:
        cannot_honour(f"InferenceSession.set_ep_dynamic_options({options})", "a backend of Tallow takes none")

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        """Runs are not captured: nothing to release."""

    def run_with_iobinding(self, iobinding: IOBinding, run_options=None) -> None:
        """Runs with what is bound; RuntimeError carries whatever is wrong."""
        if iobinding._session is not self:
            raise ValueError("IOBinding must be used with the session that created it.")
        try:
            feed, out = iobinding._for_run()
            iobinding._take(self._results(feed, run_options, out))
        except OrtError as raised:
            raise RuntimeError(f"Error in execution: {raised.message}") from raised

    def _results(
        self,
        feed: Mapping[str, object],
        run_options: RunOptions | None,
        out: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, object]:
        """Results by name; onnxruntime's exceptions."""
        if run_options is not None:
            _heed(run_options)
        given = feeds.prepare(self._interface, feed, self._source.is_artifact)
        fed = (
            NONE if given.keys() == self._interface.input_types.keys() else feeds.fed(self._interface, given)
        )
        try:
            return self._run(self._variant(fed, NONE) if fed else self._executable, given, out)
        except tallow.TallowError as raised:
            told, sizes = (of(self._interface, given) for of in (feeds.complaint, feeds.disagreeing))
            if told is not None or not sizes or self._source.is_artifact:
                raise told or error(Fail, running(raised)) from raised
        try:
            return self._run(self._variant(fed, sizes), given, out)
        except tallow.TallowError as raised:
            raise error(Fail, running(raised)) from raised

    def _run(
        self, executable: Executable, given: Mapping[str, object], out: Mapping[str, np.ndarray] | None
    ) -> dict[str, object]:
        try:
            if self._recorder is None:
                return executable.run(given, out)
            return self._recorded(executable, given, out or {})
        except OF_A_RUN as raised:
            raise error(RuntimeException, f"{type(raised).__name__}: {running(raised)}") from raised

    def _recorded(
        self, executable: Executable, given: Mapping[str, object], out: Mapping[str, np.ndarray]
    ) -> dict[str, object]:
        begin = self._recorder.now()
        results, profile = executable.run_observed(given)
        for name, array in out.items():
            array[...] = results[name]
        self._recorder.run(profile, begin)
        return results

    def end_profiling(self) -> str:
        """Writes the trace; its file's name, or "" where nothing was recorded."""
        return "" if self._recorder is None else self._recorder.end()

    def get_profiling_start_time_ns(self) -> int:
        return 0 if self._recorder is None else self._recorder.start


def _heed(run_options: RunOptions) -> None:
    if not isinstance(run_options, RunOptions):
        raise TypeError(
            f"run(): incompatible function arguments: run_options is a RunOptions, got {run_options!r}"
        )
    if run_options.terminate:
        raise error(Fail, "Exiting due to terminate flag being set to true.")
    run_options._say_what_has_no_effect(run_options.log_severity_level)


class InferenceSession(Session):
    """A model that runs, from a file, the bytes of one, or a `.tallow` artifact.

    Models are compiled when the session is made, or come from Tallow's cache. Raises NoSuchFile,
    InvalidProtobuf for what is no model, InvalidGraph for one that cannot be imported, and warns of
    options that have no effect.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence | None = None,
        provider_options: Sequence | None = None,
        **kwargs,
    ):
        if sess_options is not None and not isinstance(sess_options, SessionOptions):
            raise TypeError(f"sess_options: expected SessionOptions, got {sess_options!r}")
        self._sess_options = sess_options or SessionOptions()
        self._source = Source(path_or_bytes, self._sess_options)
        self._enable_fallback = int(kwargs.pop("enable_fallback", 1)) == 1
        for name in kwargs:
            cannot_honour(f"InferenceSession({name}=...)", "it steers onnxruntime's own optimiser or files")
        severity = self._sess_options.log_severity_level
        self._sess_options._say_what_has_no_effect(severity)
        try:
            self._create(providers, provider_options)
        except (ValueError, RuntimeError) as raised:
            self._retry(raised, providers)

    def _retry(self, raised: Exception, providers: object) -> None:
        """Makes the session on the host where the providers were at fault, as onnxruntime does and says."""
        if not self._enable_fallback:
            raise raised
        fallback = [provider_of(HOST)]
        print("*************** EP Error ***************")
        print(f"EP Error {raised} when using {providers}")
        print(f"Falling back to {fallback} and retrying.")
        print("****************************************")
        self._create(fallback, None)
        self._enable_fallback = False

    def set_providers(
        self, providers: Sequence | None = None, provider_options: Sequence | None = None
    ) -> None:
        """Compiles the model again, for these providers in order of preference."""
        self._create(providers, provider_options)

    def _create(self, providers: Sequence | None, provider_options: Sequence | None) -> None:
        names, options = check_and_normalize_provider_args(providers, provider_options)
        if not names:
            names, options = list(self._sess_options._providers), list(self._sess_options._providers.values())
        devices, reported = choose(names, options)
        begin = time.perf_counter()
        self._executable, self._devices, self._providers = self._made(devices, reported)
        self._variants: dict[tuple[frozenset[str], frozenset[str]], Executable] = {}
        self._disbelieved, self._recorder = NONE, None
        self._provider_options = {name: {} for name in self._providers}
        with loading(self._source.given):
            self._interface = interface.describe(self._executable)
        self._source.write(self._sess_options.optimized_model_filepath)
        if self._sess_options.enable_profiling:
            prefix = self._sess_options.profile_file_prefix
            self._recorder = Recorder(self, prefix, self._providers[0], begin)
            self._recorder.session_event("session_initialization", 0.0)

    def _made(self, devices: list[str], reported: list[str]) -> tuple[Executable, list[str], list[str]]:
        """The executable, and the devices and providers that it runs on."""
        if self._source.is_artifact:
            made = self._source.opened()
            backends = dict.fromkeys([*(target.backend for target in made.compiled.targets), HOST])
            return made, [], [provider_of(backend) for backend in backends]
        try:
            return self._source.compiled(devices), devices, reported
        except OrtError as raised:
            if devices == [HOST] or not self._enable_fallback or isinstance(raised, NoSuchFile):
                raise
            LOGGER.warning("%s cannot run this model, falling back to the host: %s", reported[0], raised)
        return self._source.compiled([HOST]), [HOST], [provider_of(HOST)]

    def _variant(self, fed: frozenset[str], untied: frozenset[str]) -> Executable:
        """The model for feeds that onnxruntime takes and Tallow's own reading of it does not: made when first needed,
        which is said. A name of sizes that differed once is not believed again."""
        self._disbelieved |= untied
        key = fed, self._disbelieved if untied else NONE
        if key not in self._variants:
            reasons = [
                f"{what} {', '.join(map(repr, sorted(names)))} {why}"
                for what, names, why in (
                    ("sizes named", key[1], "differ"),
                    ("inputs", fed, "are given that have a default"),
                )
                if names
            ]
            LOGGER.warning("%s: compiling the model again for that", " and ".join(reasons))
            self._variants[key] = self._source.compiled(self._devices, *key)
        return self._variants[key]
