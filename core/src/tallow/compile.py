"""compile, load and open: a model or a file and a device's name in, an Executable out.

All that compiling needs is imported when something is compiled: running a compiled model needs no compiler.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tallow import artifact, model_cache, plugins
from tallow.backend import split_device
from tallow.compiled import Compiled
from tallow.errors import InputError, Unavailable
from tallow.executable import Executable
from tallow.sizes import normal_dims

if TYPE_CHECKING:
    from tallow.compiler import Model
    from tallow.graph import Graph


def load(
    source: str | Path | bytes,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    *,
    format: str | None = None,
) -> Model:
    """The model in a file or folder, or in the bytes of a file, with sizes named in `dims` fixed or bounded
    as in `compile`. `format` names the importer where the file's name does not tell; ImportFailed says
    what is wrong."""
    from tallow.compiler import Model, import_graph

    graph = import_graph(source, normal_dims(dims or {}), format)
    return Model(graph, None if isinstance(source, bytes) else Path(source))


def open_compiled(compiled: Compiled, threads: int | None = None, device: str | None = None) -> Executable:
    """Load compiled code on a device of its backend, by default the one that is here."""
    wanted = device or compiled.target.backend
    if split_device(wanted)[0] != compiled.target.backend:
        raise Unavailable(
            f"code for {compiled.target} cannot run on {wanted!r}: expected a device of {compiled.target.backend}"
        )
    backend = plugins.installed().get("backend", compiled.target.backend)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads = {threads!r}: expected 1 or more")
    return Executable(compiled, backend.open(wanted), threads or default_threads())


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
) -> Executable:
    """An Executable of a model for a device; a path, or the bytes of a file, are read as by `load`.

    dims fixes sizes ({"batch": 8}) or bounds them ({"batch": (1, 8)}; None is no limit). threads: at most
    so many, by default TALLOW_THREADS or all cores.
    Raises ImportFailed, CompileError, GraphError for dims that the model does not have, or Unavailable when
    the backend is not installed.
    """
    sizes = normal_dims(dims or {})
    if isinstance(model, (str, Path, bytes)):
        return open_compiled(compile_source(model, device, sizes, format), threads, device)
    from tallow.compiler import compile_model

    return open_compiled(compile_model(model, device, sizes), threads, device)


def compile_source(
    source: str | Path | bytes,
    device: str,
    dims: Mapping[str, int | tuple[int, int]],
    format: str | None = None,
) -> Compiled:
    """What a model's files, or bytes, compile to, from the cache when they did before."""
    found = plugins.installed()
    importer = found.importer_of(source, format)
    name, arch = split_device(device)
    backend = found.get("backend", name)
    files = [source] if isinstance(source, bytes) else model_cache.files_of(Path(source), importer)
    key = model_cache.key_of(files, dims, backend.target(arch), (importer, backend))
    compiled = model_cache.recall(key)
    if compiled is None:
        from tallow.compiler import compile_graph, import_graph

        made = compile_graph(import_graph(source, dims, format), device)
        compiled = model_cache.remember(key, made)
    return compiled
