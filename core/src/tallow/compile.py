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
from tallow.errors import InputError
from tallow.executable import Executable
from tallow.sizes import normal_dims

if TYPE_CHECKING:
    from tallow.compiler import Model
    from tallow.graph import Graph


def load(path: str | Path, dims: Mapping[str, int | tuple[int, int]] | None = None) -> Model:
    """The model in a file or folder, with sizes named in `dims` fixed or bounded as in `compile`;
    ImportFailed says what is wrong."""
    from tallow.compiler import Model, import_graph

    return Model(import_graph(Path(path), normal_dims(dims or {})), Path(path))


def open_compiled(compiled: Compiled, threads: int | None = None) -> Executable:
    """Load compiled code on its backend's device."""
    backend = plugins.installed().get("backend", compiled.target.backend)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads = {threads!r}: expected 1 or more")
    return Executable(compiled, backend.open(compiled.target.backend), threads or default_threads())


def open(path: str | Path, threads: int | None = None, *, thorough: bool = False) -> Executable:
    """The Executable in a `.tallow` file, its constants mapped; needs neither importers nor a compiler.

    Machine code is always checked against its digest; `thorough` reads the constants and checks them too.
    Raises ArtifactError when the file is damaged, of another version, or made for a CPU that this is not,
    Unavailable when its backend is not installed. Open files of people you trust: they hold machine code.
    """
    return open_compiled(artifact.read(Path(path), thorough), threads)


def default_threads() -> int:
    """All cores; backends use no more than they may."""
    given = os.environ.get("TALLOW_THREADS") or str(os.cpu_count() or 1)
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"TALLOW_THREADS = {given!r}: expected a number of 1 or more")
    return int(given)


def compile(
    model: Model | Graph | str | Path,
    device: str = "cpu",
    *,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    threads: int | None = None,
) -> Executable:
    """An Executable of a model for a device.

    dims fixes sizes ({"batch": 8}) or bounds them ({"batch": (1, 8)}; None is no limit). threads: at most
    so many, by default TALLOW_THREADS or all cores.
    Raises ImportFailed, CompileError, GraphError for dims that the model does not have, or Unavailable when
    the backend is not installed.
    """
    sizes = normal_dims(dims or {})
    if isinstance(model, (str, Path)):
        return open_compiled(compile_file(Path(model), device, sizes), threads)
    from tallow.compiler import compile_model

    return open_compiled(compile_model(model, device, sizes), threads)


def compile_file(path: Path, device: str, dims: Mapping[str, int | tuple[int, int]]) -> Compiled:
    """What a model's files compile to, from the cache when they did before."""
    name, arch = split_device(device)
    importer = plugins.installed().importer_for(path)
    backend = plugins.installed().get("backend", name)
    makers, target = (importer, backend), backend.target(arch)
    key = model_cache.key_of(model_cache.files_of(path, importer), dims, target, makers)
    compiled = model_cache.recall(key)
    if compiled is None:
        from tallow.compiler import compile_graph, import_graph

        compiled = compile_graph(import_graph(path, dims), device)
        model_cache.remember(key, compiled)
    return compiled
