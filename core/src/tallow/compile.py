"""compile: a model and a device's name in, an Executable out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tallow import artifact, declared, model_cache, plugins
from tallow.choices import Choices
from tallow.compiled import Compiled, aligned
from tallow.errors import CompileError, InputError, Unavailable
from tallow.executable import Executable, port
from tallow.graph import Graph, TensorType, walk
from tallow.passes.bind import bind_dims, normal_dims
from tallow.tuning import Progress, build, tune_graph, unseen
from tallow.verify import checked, verify_after
from tallow.workbench import Workbench

LARGEST = 1 << 47  # bytes that a process can address


@dataclass(frozen=True, slots=True)
class Model:
    """An imported model: its Graph, and its inputs and outputs as users name them."""

    graph: Graph
    path: Path | None = None

    @property
    def inputs(self):
        return tuple(port(v.name, v.type) for v in self.graph.inputs)

    @property
    def outputs(self):
        return tuple(
            port(n, v.type) for n, v in zip(self.graph.output_names, self.graph.outputs, strict=True)
        )

    @property
    def metadata(self) -> Mapping[str, str]:
        return {key: text for key, text in self.graph.metadata.items() if key != declared.KEY}


def load(
    source: str | Path | bytes,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    *,
    format: str | None = None,
) -> Model:
    """The model in a file or folder, or in the bytes of a file, with sizes named in `dims` fixed or bounded
    as in `compile`. `format` names the importer where the file's name does not tell; ImportFailed says
    what is wrong."""
    sizes = normal_dims(dims or {})
    fixed = {n: s for n, s in sizes.items() if isinstance(s, int)}
    bounds = {n: s for n, s in sizes.items() if n not in fixed}
    path = None if isinstance(source, bytes) else Path(source)
    importer = find_importer(source, format)
    graph = importer.load_bytes(source, fixed) if path is None else importer.load(path, fixed)
    graph = verify_after(f"importer {importer.name}", graph)
    return Model(checked(bind_dims, graph, bounds), path)


def find_importer(source: str | Path | bytes, format: str | None) -> plugins.Importer:
    """The importer of that format, or the one that reads such a model."""
    if isinstance(source, bytes):
        return plugins.importer_of_bytes(format)
    return plugins.importer_for(source, format)


def split_device(device: str) -> tuple[str, str | None]:
    """Backend and architecture of `cpu` or `cpu:x86-64-v3`."""
    name, _, arch = device.partition(":")
    return name, arch or None


def compile_graph(
    graph: Graph, device: str = "cpu", threads: int | None = None, tune: Progress | bool = False
) -> Compiled:
    """Everything a device needs to run the graph; opens none unless `tune` asks to measure on it."""
    name, arch = split_device(device)
    backend = plugins.backend(name)
    bench = Workbench.of(backend, backend.target(arch), threads_or_default(threads))
    refuse_impossible(graph)
    if tune:
        scheduled, choices = tune_graph(graph, bench, tune if callable(tune) else unseen)
    else:
        choices = Choices(bench.record())
        scheduled = build(bench, graph, choices)
    code = backend.compile(list(scheduled.kernels.values()), bench.target)
    constants = {key: aligned(np.asarray(a)) for key, a in scheduled.constants.items()}
    tuning = bench.report(choices)
    return Compiled(scheduled.program, bench.target, code, constants, dict(graph.metadata), tuning)


def refuse_impossible(graph: Graph) -> None:
    """CompileError for a tensor larger than any address space: a damaged or hostile model."""
    made = [(v, str(node.location)) for node in walk(graph) for v in node.outputs]
    for value, where in (*((v, f'input "{v.name}"') for v in graph.inputs), *made):
        type_ = value.type
        if isinstance(type_, TensorType) and type_.is_static and type_.size * type_.dtype.itemsize > LARGEST:
            raise CompileError(f"{type_} is larger than any memory ({where})")


def open_compiled(compiled: Compiled, threads: int | None = None, device: str | None = None) -> Executable:
    """Load compiled code on a device of its backend, by default the one that is here."""
    wanted = device or compiled.target.backend
    if split_device(wanted)[0] != compiled.target.backend:
        raise Unavailable(
            f"code for {compiled.target} cannot run on {wanted!r}: expected a device of {compiled.target.backend}"
        )
    backend = plugins.backend(compiled.target.backend)
    return Executable(compiled, backend.open(wanted), threads_or_default(threads))


def open(
    path: str | Path, threads: int | None = None, *, device: str | None = None, thorough: bool = False
) -> Executable:
    """The Executable in a `.tallow` file, its constants mapped; needs neither importers nor a compiler.

    device: one of the backend that the file is made for (`opencl:0`), needed where several are here.
    Machine code is always checked against its digest; `thorough` reads the constants and checks them too.
    Raises ArtifactError when the file is damaged, of another version, or made for a CPU that this is not,
    Unavailable when its backend is not installed. Open files of people you trust: they hold machine code.
    """
    return open_compiled(artifact.read(Path(path), thorough), threads, device)


def threads_or_default(threads: int | None) -> int:
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads = {threads!r}: expected 1 or more")
    return threads or default_threads()


def default_threads() -> int:
    """All cores; backends use no more than they may."""
    given = os.environ.get("TALLOW_THREADS") or str(os.cpu_count() or 1)
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"TALLOW_THREADS = {given!r}: expected a number of 1 or more")
    return int(given)


def compile(
    model: Model | Graph | str | Path | bytes,
    device: str = "cpu",
    *,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    threads: int | None = None,
    format: str | None = None,
    tune: Progress | bool = False,
) -> Executable:
    """An Executable of a model for a device; a path, or the bytes of a file, are read as by `load`.

    dims fixes sizes ({"batch": 8}) or bounds them ({"batch": (1, 8)}; None is no limit). threads: at most
    so many, by default TALLOW_THREADS or all cores. tune: measure what estimates would decide, and keep
    it for later compilations; a function is told how far that is: tune(done, all, what).
    Raises ImportFailed, CompileError (also where `tune` has no device to measure on), GraphError for dims
    that the model does not have, or Unavailable when the backend is not installed.
    """
    sizes = normal_dims(dims or {})
    if isinstance(model, (str, Path, bytes)):
        return open_compiled(compile_source(model, device, sizes, format, threads, tune), threads, device)
    graph = model.graph if isinstance(model, Model) else model
    if not isinstance(graph, Graph):
        raise CompileError(f"expected a Model, a Graph or a path, got {type(model).__name__}")
    compiled = compile_graph(checked(bind_dims, graph, sizes), device, threads, tune)
    return open_compiled(compiled, threads, device)


def compile_source(
    source: str | Path | bytes,
    device: str,
    dims: Mapping[str, int | tuple[int, int]],
    format: str | None = None,
    threads: int | None = None,
    tune: Progress | bool = False,
) -> Compiled:
    """What a model's files, or bytes, compile to, from the cache when they did before and nothing was
    measured since."""
    importer = find_importer(source, format)
    name, arch = split_device(device)
    backend = plugins.backend(name)
    files = [source] if isinstance(source, bytes) else importer.files(Path(source))
    target = backend.target(arch)
    key = model_cache.key_of(files, dims, target, (importer, backend))
    compiled = model_cache.recall(key)
    bench = Workbench.of(backend, target, threads_or_default(threads))
    if compiled is None or not bench.agrees(compiled.tuning, bool(tune)):
        compiled = compile_graph(load(source, dims, format=format).graph, device, threads, tune)
        model_cache.remember(key, compiled)
    return compiled
