"""compile, load and open: a model or a file and a device's name in, an Executable out.

All that compiling needs is imported when something is compiled: running a compiled model needs no compiler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tallow import artifact, model_cache, plugins
from tallow.backend import Backend, split_device, split_devices
from tallow.compiled import Compiled
from tallow.errors import Unavailable
from tallow.executable import Executable
from tallow.schedule.leaving import refuse_leaving
from tallow.sizes import normal_dims
from tallow.target import Target
from tallow.workbench import Workbench, threads_or_default

if TYPE_CHECKING:
    from tallow.compiler import Model
    from tallow.graph import Graph
    from tallow.tuning import Progress


def load(
    source: str | Path | bytes,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    *,
    format: str | plugins.Importer | None = None,
) -> Model:
    """The model in a file or folder, or in the bytes of a file, with sizes named in `dims` fixed or bounded
    as in `compile`. `format` is the importer, or its name, where the file's name does not tell; ImportFailed
    says what is wrong."""
    from tallow.compiler import Model, import_graph

    graph = import_graph(source, normal_dims(dims or {}), format)
    return Model(graph, None if isinstance(source, bytes) else Path(source))


def open_compiled(
    compiled: Compiled, threads: int | None = None, device: str | Sequence[str] | None = None
) -> Executable:
    """Load compiled code on devices of its backends, by default those that are here."""
    made_for = [target.backend for target in compiled.targets]
    names = made_for if device is None else split_devices(device)
    if [split_device(name)[0] for name in names] != made_for:
        made, wanted = " and ".join(map(str, compiled.targets)), ", ".join(map(repr, names))
        raise Unavailable(
            f"code for {made} cannot run on {wanted}: expected a device of {', then one of '.join(made_for)}"
        )
    opened = {
        n: plugins.installed().get("backend", made_for[n]).open(names[n]) for n in sorted(compiled.used)
    }
    return Executable(compiled, opened.pop(0), threads_or_default(threads), opened)


def open(
    path: str | Path,
    threads: int | None = None,
    *,
    device: str | Sequence[str] | None = None,
    thorough: bool = False,
) -> Executable:
    """The Executable in a `.tallow` file, its constants mapped; needs neither importers nor a compiler.

    device: one of the backend that the file is made for (`opencl:0`), needed where several are here; a list
    if the file is made for a list. Machine code is always checked against its digest; `thorough` reads the
    constants and checks them too.
    Raises ArtifactError when the file is damaged, of another version, or made for a CPU that this is not,
    Unavailable when its backend is not installed. Open files of people you trust: they hold machine code.
    """
    return open_compiled(artifact.read(Path(path), thorough), threads, device)


def compile(
    model: Model | Graph | str | Path | bytes,
    device: str | Sequence[str] = "cpu",
    *,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    threads: int | None = None,
    format: str | plugins.Importer | None = None,
    tune: Progress | bool = False,
    strict: bool = False,
) -> Executable:
    """An Executable of a model for a device; a path, or the bytes of a file, are read as by `load`.

    device: a name, or several in order of preference: each node runs on the first device that can run it,
    unless moving there and back would cost more than it gains.
    dims fixes sizes ({"batch": 8}) or bounds them ({"batch": (1, 8)}; None is no limit). threads: at most
    so many, by default TALLOW_THREADS or all cores. tune: measure what estimates would decide, and keep
        it for later compilations; a function is told how far that is: tune(done, all, what). strict: the first
    device alone, and no steps in numpy.
    Raises ImportFailed, CompileError (also where `tune` has no device to measure on, and by `strict`, with
    every node that would leave), GraphError for dims that the model does not have, or Unavailable when a
    backend is not installed.
    """
    sizes, devices = normal_dims(dims or {}), split_devices(device)[: 1 if strict else None]
    if isinstance(model, (str, Path, bytes)):
        compiled = compile_source(model, devices, sizes, format, threads, tune, strict)
        return open_compiled(compiled, threads, devices)
    from tallow.compiler import compile_model

    return open_compiled(compile_model(model, devices, sizes, threads, tune, strict), threads, devices)


def compile_source(
    source: str | Path | bytes,
    device: str | Sequence[str],
    dims: Mapping[str, int | tuple[int, int]],
    format: str | plugins.Importer | None = None,
    threads: int | None = None,
    tune: Progress | bool = False,
    strict: bool = False,
) -> Compiled:
    """What a model's files, or bytes, compile to, from the cache when they did before and nothing was
    measured since."""
    found = plugins.installed()
    importer = found.importer_of(source, format)
    names = [split_device(name) for name in split_devices(device)]
    backends = [found.get("backend", name) for name, _ in names]
    files = [source] if isinstance(source, bytes) else model_cache.files_of(Path(source), importer)
    targets = [backend.target(arch) for backend, (_, arch) in zip(backends, names, strict=True)]
    key = model_cache.key_of(files, dims, targets, (importer, *backends))
    compiled = model_cache.recall(key)
    if compiled is None or not _agrees(compiled, backends, targets, threads, bool(tune)):
        from tallow.compiler import compile_graph, import_graph

        made = compile_graph(import_graph(source, dims, format), device, threads, tune, strict)
        compiled = model_cache.remember(key, made)
    if strict:
        refuse_leaving(compiled.program, compiled.target)
    return compiled


def _agrees(
    compiled: Compiled,
    backends: Sequence[Backend],
    targets: Sequence[Target],
    threads: int | None,
    tuned: bool,
) -> bool:
    """Whether a model would be compiled the same again."""
    count = threads_or_default(threads)
    benches = (Workbench.of(b, t, count) for b, t in zip(backends, targets, strict=True))
    return all(b.agrees(part.tuning, tuned) for b, part in zip(benches, compiled.parts, strict=True))
