"""Plugins: found through entry points on first use; a broken one is recorded with its reason and harms nothing.

`installed()` has the backends and importers of all plugins, which is what running a compiled model takes.
`host()`, which all that compiles goes through, has checked their hooks besides, and their operators and
commands are there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tallow import hookspecs
from tallow.backend import API_VERSION, Backend
from tallow.discovery import Point, entry_points
from tallow.errors import ImportFailed, PluginError, Unavailable

if TYPE_CHECKING:
    from tallow.graph import Graph


class Importer(Protocol):
    """Reads models of one format. One whose models may come as bytes also has `load_bytes(data, dims)`,
    which is as `load`."""

    name: str
    suffixes: tuple[str, ...]

    def claims(self, path: Path) -> bool:
        """Whether the file or folder looks like one of this format."""

    def files(self, path: Path) -> Sequence[Path]:
        """The files that a model at a path is made of: what `load` reads. A file that is not there may be
        left out; `load` is the one to complain."""

    def load(self, path: Path, dims: Mapping[str, int] | None = None) -> Graph:
        """The Graph of a model, with sizes in `dims` fixed; ImportFailed says what is wrong or not supported."""


@dataclass(slots=True)
class PluginInfo:
    """One entry point: who provides it, what it registered, or why it is not usable."""

    name: str
    distribution: str
    version: str
    provides: list[str] = field(default_factory=list)
    error: str | None = None
    module: str = ""


class Registered(NamedTuple):
    """A name with its lazy factory, and the distribution and plugin it came from."""

    name: str
    factory: Callable[[], object]
    distribution: str
    plugin: str


class PluginHost:
    """One set of plugins; the process has one, tests make their own."""

    def __init__(self, points: Sequence[Point] | None = None):
        self.infos: list[PluginInfo] = []
        self.clashes: dict[tuple[str, str], tuple[str, str]] = {}
        self.tables: dict[str, dict[str, Registered]] = {"backend": {}, "importer": {}}
        self.commands: list[Callable[[], object]] = []
        self._made: dict[tuple[str, str], object] = {}
        self._waiting: list[tuple[PluginInfo, ModuleType]] = []  # whose hooks are not all called yet
        self._lock = threading.RLock()
        for point in _chosen(entry_points(hookspecs.GROUP)) if points is None else points:
            self._load(point)

    def _load(self, point: Point) -> None:
        info = PluginInfo(point.name, point.distribution, point.version)
        self.infos.append(info)
        with _recorded(info):
            module = point.load()
            info.module = module.__name__
            spoken = getattr(module, "TALLOW_API", None)
            if spoken != API_VERSION:
                raise PluginError(
                    f"speaks plugin API {spoken}, this Tallow speaks {API_VERSION}: install matching versions"
                )
            self._collect(module, info)
            self._waiting.append((info, module))

    def _collect(self, module: ModuleType, info: PluginInfo) -> None:
        """A plugin's backends and importers, registered only when both hooks have succeeded."""
        found: list[tuple[str, str, Callable]] = []
        for kind in self.tables:
            implementation = getattr(module, f"register_{kind}s", None)
            if getattr(implementation, "tallow_hook", False):
                implementation(register=lambda name, factory, kind=kind: found.append((kind, name, factory)))
        for kind, name, factory in found:
            self.register(kind, name, factory, info.distribution, info.name)
            info.provides.append(f"{kind} {name}")

    def complete(self) -> None:
        """Check the hooks of all plugins and take their operators and commands; a plugin that fails in this
        loses all that it registered."""
        with self._lock:
            while self._waiting:
                info, module = self._waiting[0]
                with _recorded(info):
                    self._complete(info, module)
                if info.error:
                    for names in self.tables.values():
                        for name in [n for n, made in names.items() if made.plugin == info.name]:
                            del names[name]
                del self._waiting[0]

    def _complete(self, info: PluginInfo, module: ModuleType) -> None:
        from tallow.hooks import checked_hooks  # here, since running a compiled model needs neither
        from tallow.ops import table

        hooks = checked_hooks(module, info.name)
        ops: list[table.Op] = []
        commands: list[Callable[[], object]] = []
        hooks.register_ops(register=ops.append)
        hooks.register_commands(register=commands.append)
        for row in ops:
            if table.OPS.get(row.name) is not row:
                table.register(row)
            info.provides.append(f"operator {row.name}")
        self.commands += commands

    def register(
        self,
        kind: str,
        name: str,
        factory: Callable[[], object],
        distribution: str = "this program",
        plugin: str = "",
    ) -> None:
        """Add a backend or importer by name; a name that two claim is refused when it is used."""
        known = self.tables[kind].get(name)
        if known is not None and known.distribution != distribution:
            self.clashes[kind, name] = (known.distribution, distribution)
            return
        self.tables[kind][name] = Registered(name, factory, distribution, plugin)
        self._made.pop((kind, name), None)

    def get(self, kind: str, name: str) -> object:
        """The backend or importer of a name, made on first use."""
        if (kind, name) in self.clashes:
            first, second = self.clashes[kind, name]
            raise PluginError(f"{kind} {name!r} comes from both {first} and {second}: uninstall one of them")
        if name not in self.tables[kind]:
            raise Unavailable(self._missing(kind, name))
        if (kind, name) not in self._made:
            self._made[kind, name] = self.tables[kind][name].factory()
        return self._made[kind, name]

    def importer_of(self, source: str | Path | bytes, format: str | Importer | None = None) -> Importer:
        """The importer of that format, or the one that reads such a model."""
        if format is not None and not isinstance(format, str):
            return format
        if isinstance(source, bytes):
            return self.importer_of_bytes(format)
        return self.importer_for(Path(source), format)

    def importer_for(self, path: Path, format: str | None = None) -> Importer:
        """The importer that claims a file or folder, or the one of that name; ImportFailed if none does."""
        if not path.exists():
            raise ImportFailed(f"there is no file {path}")
        if format is not None:
            return self.get("importer", format)
        for name in sorted(self.tables["importer"]):
            candidate = self.get("importer", name)
            if candidate.claims(path):
                return candidate
        suffixes = [s for n in self.tables["importer"] for s in self.get("importer", n).suffixes]
        known = (
            f"known: {', '.join(suffixes)}"
            if suffixes
            else "no importer is installed: pip install tallow-importers"
        )
        raise ImportFailed(f"no importer reads {path.name} ({known})")

    def importer_of_bytes(self, format: str | None = None) -> Importer:
        """The importer of that name, or the only one of files that reads models from memory too; ImportFailed
        where there is none, or more than one."""
        names = sorted(self.tables["importer"]) if format is None else [format]
        able = [i for i in (self.get("importer", name) for name in names) if hasattr(i, "load_bytes")]
        able = [i for i in able if i.suffixes or format is not None]
        if len(able) == 1:
            return able[0]
        kinds = ", ".join(i.name for i in able)
        wanted = f"say which format: {kinds}" if able else "give the path of a file"
        raise ImportFailed(f"a model in memory: {wanted if format is None else f'{format} models are files'}")

    def _missing(self, kind: str, name: str) -> str:
        broken = [i for i in self.infos if i.error and (i.name == name or i.distribution == f"tallow-{name}")]
        if broken:
            who = f"{broken[0].distribution} {broken[0].version}"
            return f"{kind} {name!r} is installed ({who}) but not usable: {broken[0].error}"
        import difflib  # only errors need it

        have = sorted(self.tables[kind])
        near = difflib.get_close_matches(name, have, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = f"installed: {', '.join(have)}" if have else f"no {kind} is installed"
        return f"there is no {kind} {name!r} ({listed}).{hint} To add it: pip install tallow-{name}"


@contextlib.contextmanager
def _recorded(info: PluginInfo):
    """Whatever a plugin does wrong in here is recorded, and does not stop the others."""
    try:
        yield
    except Exception as error:
        info.error = _told(error, info.distribution)
        info.provides.clear()


def _told(error: Exception, distribution: str) -> str:
    """What is wrong with a plugin, and what to install where that helps."""
    reason = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, PluginError):
        return reason
    repair = f": pip install {distribution} adds what it requires" * isinstance(error, ImportError)
    return f"{type(error).__name__}: {reason}{repair}"


def _chosen(points: Sequence[Point]) -> list[Point]:
    """All entry points, or those that TALLOW_PLUGINS names."""
    wanted = os.environ.get("TALLOW_PLUGINS")
    names = None if wanted is None else {n.strip() for n in wanted.split(",") if n.strip()}
    return sorted((p for p in points if names is None or p.name in names), key=lambda p: p.name)


@cache
def installed() -> PluginHost:
    """The process's plugins, found on the first call, with their backends and importers."""
    return PluginHost()


def host() -> PluginHost:
    """The process's plugins, checked, with their operators and commands."""
    found = installed()
    found.complete()
    return found


def backend(name: str) -> Backend:
    """The backend of a name; Unavailable says how to install it."""
    return host().get("backend", name)


def importer_for(path: str | Path, format: str | None = None) -> Importer:
    """The importer that claims a file or folder, or the one of that name."""
    return host().importer_for(Path(path), format)


def importer_of_bytes(format: str | None = None) -> Importer:
    """The importer of a model in memory: see PluginHost."""
    return host().importer_of_bytes(format)
