"""The compiler: a Graph in, a Compiled out; no device is opened, and running what it made needs none of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tallow import declared, plugins
from tallow.backend import Code, split_device, split_devices
from tallow.building import build
from tallow.compiled import Compiled, Part
from tallow.errors import CompileError
from tallow.executable import port
from tallow.graph import Graph, TensorType, walk
from tallow.passes.bind import bind_dims
from tallow.schedule.leaving import refuse_leaving
from tallow.schedule.memory import LARGEST
from tallow.schedule.program import Scheduled
from tallow.tuning import Maker, Progress, Tuner, unseen
from tallow.verify import checked, verify_after
from tallow.workbench import Workbench, threads_or_default


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
    format: str | plugins.Importer | None = None,
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
    device: str | Sequence[str],
    sizes: Mapping[str, int | tuple[int, int | None]],
    threads: int | None = None,
    tune: Progress | bool = False,
    strict: bool = False,
) -> Compiled:
    """What a model compiles to with sizes fixed or bounded; CompileError for what is none."""
    graph = model.graph if isinstance(model, Model) else model
    if not isinstance(graph, Graph):
        raise CompileError(f"expected a Model, a Graph or a path, got {type(model).__name__}")
    try:
        return compile_graph(checked(bind_dims, graph, sizes), device, threads, tune, strict)
    except MemoryError as error:
        raise CompileError(f"there is not enough memory to compile the model: {error}") from None


def compile_graph(
    graph: Graph,
    device: str | Sequence[str] = "cpu",
    threads: int | None = None,
    tune: Progress | bool = False,
    strict: bool = False,
) -> Compiled:
    """Everything that a device, or a list of them in order of preference, needs to run the graph; opens none
    unless `tune` asks to measure on it. `strict`: for the first alone; CompileError lists what would leave it."""
    benches = benches_of(device, threads)[: 1 if strict else None]
    refuse_impossible(graph)
    metadata, given = dict(graph.metadata), [graph]
    del graph  # so that its constants go as soon as passes replace them
    makers = makers_of(benches, tune)
    program, made = build(given, makers)
    if strict:
        refuse_leaving(program, benches[0].target)
    first, *others = map(_part, benches, makers, made)
    return Compiled(program, first.target, first.code, first.constants, metadata, first.tuning, tuple(others))


def benches_of(device: str | Sequence[str], threads: int | None = None) -> list[Workbench]:
    """What is compiled for, for each device of a list."""
    benches = []
    for name, arch in map(split_device, split_devices(device)):
        backend = plugins.backend(name)
        benches.append(Workbench.of(backend, backend.target(arch), threads_or_default(threads)))
    return benches


def makers_of(benches: Sequence[Workbench], tune: Progress | bool = False) -> list[Maker]:
    """What makes programs for each device, by estimates or by measuring where its backend has something to
    measure; if none has, CompileError says so."""
    progress = tune if callable(tune) else unseen
    able = [bench for bench in benches if hasattr(bench.backend, "machine")] or benches
    return [Tuner(bench, progress) if tune and bench in able else Maker(bench) for bench in benches]


def _part(bench: Workbench, maker: Maker, made: Scheduled | None) -> Part:
    """What is made for one device; nothing where it has no part in the program."""
    if made is None:
        return Part(bench.target, Code(b"", {}), {})
    code = bench.backend.compile(list(made.kernels.values()), bench.target)
    constants = {key: np.asarray(a) for key, a in made.constants.items()}
    return Part(bench.target, code, constants, bench.report(maker.choices))


def refuse_impossible(graph: Graph) -> None:
    """CompileError for a tensor larger than any address space: a damaged or hostile model."""
    made = [(v, str(node.location)) for node in walk(graph) for v in node.outputs]
    for value, where in (*((v, f'input "{v.name}"') for v in graph.inputs), *made):
        type_ = value.type
        if isinstance(type_, TensorType) and type_.is_static and type_.size * type_.dtype.itemsize > LARGEST:
            raise CompileError(f"{type_} is larger than any memory ({where})")
