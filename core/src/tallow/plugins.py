"""Plugins: found through entry points on first use; a broken one is recorded with its reason and harms nothing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

import pluggy

from tallow import hookspecs
from tallow.backend import API_VERSION, Backend
from tallow.errors import ImportFailed, PluginError, Unavailable
from tallow.graph import Graph
from tallow.ops import table


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


@dataclass(frozen=True, slots=True)
class Registered:
    """A name with its lazy factory and the distribution it came from."""

    name: str
    factory: Callable[[], object]
    distribution: str


class PluginHost:
    """One set of plugins; the process has one, tests make their own."""

    def __init__(self, points: list[EntryPoint] | None = None):
        self.infos: list[PluginInfo] = []
        self.clashes: dict[tuple[str, str], tuple[str, str]] = {}
        self.tables: dict[str, dict[str, Registered]] = {"backend": {}, "importer": {}}
        self.commands: list[Callable[[], object]] = []
        self._made: dict[tuple[str, str], object] = {}
        for point in _chosen(entry_points(group=hookspecs.GROUP)) if points is None else points:
            self._load(point)

    def _load(self, point: EntryPoint) -> None:
        distribution = point.dist.name if point.dist else "?"
        info = PluginInfo(point.name, distribution, point.dist.version if point.dist else "?")
        self.infos.append(info)
        try:
            module = point.load()
            spoken = getattr(module, "TALLOW_API", None)
            if spoken != API_VERSION:
                raise PluginError(
                    f"speaks plugin API {spoken}, this Tallow speaks {API_VERSION}: install matching versions"
                )
            manager = pluggy.PluginManager(hookspecs.GROUP)
            manager.add_hookspecs(hookspecs)
            manager.register(module, point.name)
            manager.check_pending()
            self._collect(manager, info)
        except Exception as error:  # whatever a plugin does wrong must not stop the others
            reason = str(error).strip().splitlines() or [""]
            info.error = (
                f"{type(error).__name__}: {reason[0]}" if not isinstance(error, PluginError) else reason[0]
            )
            info.provides.clear()

    def _collect(self, manager: pluggy.PluginManager, info: PluginInfo) -> None:
        """All of a plugin's registrations, applied only when every hook has succeeded."""
        found: list[tuple[str, str, Callable]] = []
        ops: list[table.Op] = []
        commands: list[Callable[[], object]] = []
        manager.hook.register_backends(
            register=lambda name, factory: found.append(("backend", name, factory))
        )
        manager.hook.register_importers(
            register=lambda name, factory: found.append(("importer", name, factory))
        )
        manager.hook.register_ops(register=ops.append)
        manager.hook.register_commands(register=commands.append)
        for row in ops:
            if table.OPS.get(row.name) is not row:
                table.register(row)
            info.provides.append(f"operator {row.name}")
        for kind, name, factory in found:
            self.register(kind, name, factory, info.distribution)
            info.provides.append(f"{kind} {name}")
        self.commands += commands

    def register(
        self, kind: str, name: str, factory: Callable[[], object], distribution: str = "this program"
    ) -> None:
        """Add a backend or importer by name; a name that two claim is refused when it is used."""
        known = self.tables[kind].get(name)
        if known is not None and known.distribution != distribution:
            self.clashes[kind, name] = (known.distribution, distribution)
            return
        self.tables[kind][name] = Registered(name, factory, distribution)
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

    def _missing(self, kind: str, name: str) -> str:
        broken = [i for i in self.infos if i.error and (i.name == name or i.distribution == f"tallow-{name}")]
        if broken:
            who = f"{broken[0].distribution} {broken[0].version}"
            return f"{kind} {name!r} is installed ({who}) but not usable: {broken[0].error}"
        have = sorted(self.tables[kind])
        near = difflib.get_close_matches(name, have, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = f"installed: {', '.join(have)}" if have else f"no {kind} is installed"
        return f"there is no {kind} {name!r} ({listed}).{hint} To add it: pip install tallow-{name}"


def _chosen(points) -> list[EntryPoint]:
    """All entry points, or those that TALLOW_PLUGINS names."""
    wanted = os.environ.get("TALLOW_PLUGINS")
    names = None if wanted is None else {n.strip() for n in wanted.split(",") if n.strip()}
    return sorted((p for p in points if names is None or p.name in names), key=lambda p: p.name)


@cache
def host() -> PluginHost:
    """The process's plugins, found on the first call."""
    return PluginHost()


def backend(name: str) -> Backend:
    """The backend of a name; Unavailable says how to install it."""
    return host().get("backend", name)


def importer_for(path: str | Path, format: str | None = None) -> Importer:
    """The importer that claims a file or folder, or the one of that name."""
    path = Path(path)
    if not path.exists():
        raise ImportFailed(f"there is no file {path}")
    found = host()
    if format is not None:
        return found.get("importer", format)
    for name in sorted(found.tables["importer"]):
        candidate = found.get("importer", name)
        if candidate.claims(path):
            return candidate
    suffixes = [s for n in found.tables["importer"] for s in found.get("importer", n).suffixes]
    known = (
        f"known: {', '.join(suffixes)}"
        if suffixes
        else "no importer is installed: pip install tallow-importers"
    )
    raise ImportFailed(f"no importer reads {path.name} ({known})")


def importer_of_bytes(format: str | None = None) -> Importer:
    """The importer of that name, or the only one of files that reads models from memory too; ImportFailed
    where there is none, or more than one."""
    found = host()
    names = sorted(found.tables["importer"]) if format is None else [format]
    able = [i for i in (found.get("importer", name) for name in names) if hasattr(i, "load_bytes")]
    able = [i for i in able if i.suffixes or format is not None]
    if len(able) == 1:
        return able[0]
    kinds = ", ".join(i.name for i in able)
    wanted = f"say which format: {kinds}" if able else "give the path of a file"
    raise ImportFailed(f"a model in memory: {wanted if format is None else f'{format} models are files'}")
