"""The engines that are compared: how each loads a model, runs it at its best honest settings, and saves it.

Each loads in one or more *ways*: `cold` from the model's file with nothing kept from before, `warm` from
the cache that a cold load filled, `saved` from the file that `save` wrote, each as the engine offers it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

Way = Literal["cold", "warm", "saved"]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Job:
    """A model for an engine to load. `folder` is the engine's own, for caches and saved files."""

    engine: str
    way: Way
    model: str
    threads: int
    folder: str
    outputs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model: `run` does the work of a call, `results` names what it gave."""

    run: Callable[[], Any]
    results: Callable[[Any], Arrays]


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine.

    module, package: what is imported, and the distribution that has it.
    ways: how it can load; `timed` is the one after which latency is measured.
    load: gets a Job and inputs.
    save: writes what is kept of a cold load, and returns where that lies.
    """

    name: str
    title: str
    module: str
    package: str
    ways: tuple[Way, ...]
    timed: Way
    load: Callable[[Job, Arrays], Session]
    save: Callable[[Job], Path]

    def version(self) -> str | None:
        """The installed version, or None when it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None


def _tallow(job: Job, inputs: Arrays) -> Session:
    cache = Path(job.folder) / "cache"
    os.environ["TALLOW_CACHE"] = str(cache)
    import tallow

    if job.way == "cold":
        shutil.rmtree(cache, ignore_errors=True)
    if job.way == "saved":
        executable = tallow.open(_tallow_file(job), threads=job.threads)
    else:
        executable = tallow.compile(job.model, threads=job.threads)
    return Session(lambda: executable.run(inputs), dict)


def _tallow_file(job: Job) -> Path:
    return Path(job.folder) / "model.tallow"


def _save_tallow(job: Job) -> Path:
    import tallow

    return tallow.compile(job.model, threads=job.threads).save(_tallow_file(job), force=True)


def _onnxruntime(job: Job, inputs: Arrays) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    model = job.model
    if job.way == "saved":
        model = str(_onnxruntime_file(job))
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Session(
        lambda: session.run(None, inputs), lambda results: dict(zip(job.outputs, results, strict=True))
    )


def _onnxruntime_file(job: Job) -> Path:
    return Path(job.folder) / "optimised.onnx"


def _save_onnxruntime(job: Job) -> Path:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3  # it warns that the file is for this machine, which it is
    options.optimized_model_filepath = str(_onnxruntime_file(job))
    onnxruntime.InferenceSession(job.model, options, providers=["CPUExecutionProvider"])
    return _onnxruntime_file(job)


def _openvino(job: Job, inputs: Arrays) -> Session:
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    cache = Path(job.folder) / "cache"
    if job.way == "warm":
        core.set_property({"CACHE_DIR": str(cache)})
    request = core.compile_model(job.model, "CPU", settings).create_infer_request()

    def results(found) -> Arrays:
        return dict(zip(job.outputs, (np.array(array) for array in found.values()), strict=True))

    return Session(lambda: request.infer(inputs, share_inputs=True, share_outputs=True), results)


def _save_openvino(job: Job) -> Path:
    """Fill the cache of the way "warm", which is the only file it keeps."""
    _openvino(Job(job.engine, "warm", job.model, job.threads, job.folder, job.outputs), {})
    return Path(job.folder) / "cache"


def _mnn(job: Job, inputs: Arrays) -> Session:
    from MNN import expr, nn

    if job.way == "cold":
        _save_mnn(job)
    kinds = {"f": expr.float, "i": expr.int, "u": expr.int, "b": expr.int}
    carriers = {"f": np.float32}
    settings = {"precision": "high", "backend": "CPU", "numThread": job.threads}
    manager = nn.create_runtime_manager((settings,))
    module = nn.load_module_from_file(
        str(_mnn_file(job)), list(inputs), list(job.outputs), runtime_manager=manager
    )
    arrays = {n: np.ascontiguousarray(a, carriers.get(a.dtype.kind, np.int32)) for n, a in inputs.items()}
    places = [expr.placeholder(list(a.shape), expr.NCHW, kinds[a.dtype.kind]) for a in arrays.values()]

    def run() -> list:
        for place, array in zip(places, arrays.values(), strict=True):
            place.write(array)
        found = module.forward(places)
        plain = (expr.convert(v, expr.NCHW) if v.data_format == expr.NC4HW4 else v for v in found)
        return [v.read() for v in plain]

    return Session(run, lambda results: dict(zip(job.outputs, results, strict=True)))


def _mnn_file(job: Job) -> Path:
    return Path(job.folder) / "model.mnn"


def _save_mnn(job: Job) -> Path:
    """Convert. The native converter is called, because its script reports each use to its makers."""
    import _tools

    _mnn_file(job).unlink(missing_ok=True)
    words = ["mnnconvert", "-f", "ONNX", "--modelFile", job.model, "--MNNModel", str(_mnn_file(job))]
    _tools.mnnconvert([*words, "--bizCode", "benchmarks", "--useOriginRNNImpl"])
    if not _mnn_file(job).is_file():
        raise RuntimeError("its converter refuses the model")
    return _mnn_file(job)


_ROWS = (
    Engine("tallow", "Tallow", "tallow", "tallow", ("cold", "warm", "saved"), "warm", _tallow, _save_tallow),
    Engine(
        "onnxruntime",
        "onnxruntime",
        "onnxruntime",
        "onnxruntime",
        ("cold", "saved"),
        "cold",
        _onnxruntime,
        _save_onnxruntime,
    ),
    Engine(
        "openvino", "OpenVINO", "openvino", "openvino", ("cold", "warm"), "cold", _openvino, _save_openvino
    ),
    Engine("mnn", "MNN", "MNN", "MNN", ("cold", "saved"), "saved", _mnn, _mnn_file),
)
ENGINES = {engine.name: engine for engine in _ROWS}
