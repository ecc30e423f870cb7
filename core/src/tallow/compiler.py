"""The compiler: a Graph in, a Compiled out; no device is opened, and running what it made needs none of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tallow import declared, plugins
from tallow.backend import split_device
from tallow.choices import Choices
from tallow.compiled import Compiled
from tallow.errors import CompileError
from tallow.executable import port
from tallow.graph import Graph, TensorType, walk
from tallow.passes.bind import bind_dims
from tallow.schedule.memory import LARGEST
from tallow.stages import lower, prepare
from tallow.tuning import Progress, tune_graph, unseen
from tallow.verify import checked, verify_after
from tallow.workbench import Workbench, threads_or_default

MOST_AXES = 64  # of a numpy array


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


def import_graph(
    source: str | Path | bytes,
    sizes: Mapping[str, int | tuple[int, int | None]],
    format: str | None = None,
) -> Graph:
    """The Graph of a model's files, or bytes, with sizes fixed or bounded; ImportFailed says what is wrong."""
    fixed = {n: s for n, s in sizes.items() if isinstance(s, int)}
    bounds = {n: s for n, s in sizes.items() if n not in fixed}
    importer = plugins.host().importer_of(source, format)
    if isinstance(source, bytes):
        graph = importer.load_bytes(source, fixed)
    else:
        graph = importer.load(Path(source), fixed)
    graph = verify_after(f"importer {importer.name}", graph)
    return checked(bind_dims, graph, bounds)


def compile_model(
    model: Model | Graph,
    device: str,
    sizes: Mapping[str, int | tuple[int, int | None]],
    threads: int | None = None,
    tune: Progress | bool = False,
) -> Compiled:
    """What a model compiles to with sizes fixed or bounded; CompileError for what is none."""
    graph = model.graph if isinstance(model, Model) else model
    if not isinstance(graph, Graph):
        raise CompileError(f"expected a Model, a Graph or a path, got {type(model).__name__}")
    try:
        return compile_graph(checked(bind_dims, graph, sizes), device, threads, tune)
    except MemoryError as error:
        raise CompileError(f"there is not enough memory to compile the model: {error}") from None


def compile_graph(
    graph: Graph, device: str = "cpu", threads: int | None = None, tune: Progress | bool = False
) -> Compiled:
    """Everything a device needs to run the graph; opens none unless `tune` asks to measure on it."""
    name, arch = split_device(device)
    backend = plugins.backend(name)
    bench = Workbench.of(backend, backend.target(arch), threads_or_default(threads))
    refuse_impossible(graph)
    metadata, given = dict(graph.metadata), [graph]
    del graph  # so that its constants go as soon as passes replace them
    if tune:
        scheduled, choices = tune_graph(given.pop(), bench, tune if callable(tune) else unseen)
    else:
        choices = Choices(bench.record())
        target = replace(bench.target, choices=choices)
        scheduled = lower(prepare(given.pop(), backend, target), backend, target)
    code = backend.compile(list(scheduled.kernels.values()), bench.target)
    constants = {key: np.asarray(a) for key, a in scheduled.constants.items()}
    return Compiled(scheduled.program, bench.target, code, constants, metadata, bench.report(choices))


def refuse_impossible(graph: Graph) -> None:
    """CompileError for a tensor larger than any address space or of more axes than arrays have: a damaged or
    hostile model."""
    made = [(v, str(node.location)) for node in walk(graph) for v in node.outputs]
    for value, where in (*((v, f'input "{v.name}"') for v in graph.inputs), *made):
        type_ = value.type
        if isinstance(type_, TensorType) and type_.rank > MOST_AXES:
            raise CompileError(f"expected tensors of at most {MOST_AXES} axes, got {type_.rank} ({where})")
        if isinstance(type_, TensorType) and type_.is_static and type_.size * type_.dtype.itemsize > LARGEST:
            raise CompileError(f"{type_} is larger than any memory ({where})")
