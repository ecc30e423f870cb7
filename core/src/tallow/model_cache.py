"""Whole models in the cache: what a model's files, with given sizes, were compiled to for a target.

An entry is a `.tallow` file named by a digest of everything that its content depends on: the bytes of
the model's files, the sizes, the targets, the operators that the program has added, and the sources of
the packages that made it and of all plugins.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from tallow import artifact, cache, plugins
from tallow.backend import Backend, Target
from tallow.compiled import Compiled
from tallow.errors import ArtifactError
from tallow.plugins import Importer
from tallow.registered import OPERATORS

KIND, DIGESTS = "models", "digests"
LIMIT, DIGESTS_LIMIT = 4 << 30, 1 << 20  # bytes kept
SETTLED = 2.0  # seconds after which a change of a file's content also changes its time stamp


def key_of(
    files: Iterable[Path | bytes],
    dims: Mapping[str, int | tuple[int, int]],
    targets: Sequence[Target],
    makers: Sequence[Importer | Backend],
) -> str:
    """The name of an entry; a file may be given by its bytes. `makers` are the importer and the backends."""
    brought = (info.module.partition(".")[0] for info in plugins.installed().infos)  # maybe with operators
    packages = {"tallow", *map(_package, makers), *filter(None, brought)}
    parts = {
        "files": [_content(file) for file in files],
        "dims": sorted(dims.items()),
        "targets": [target.facts for target in targets],
        "makers": [maker.name for maker in makers],
        "packages": [sources(name) for name in sorted(packages)],
        "operators": sorted(OPERATORS.items()),
    }
    return hashlib.sha256(json.dumps(parts, default=dict).encode()).hexdigest()


def _content(file: Path | bytes) -> tuple[str, str]:
    """Name and digest; what is in memory has no name."""
    if isinstance(file, bytes):
        return "", hashlib.sha256(file).hexdigest()
    return file.name, digest(file)


def digest(path: Path) -> str:
    """The SHA-256 of a file's content, remembered for as long as the file's time stamps stay."""

    def read() -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return _remembered(path, "digest", read)


def files_of(path: Path, importer: Importer) -> list[Path]:
    """`importer.files(path)`, remembered for as long as the time stamps of the path and of the importer's
    sources stay and no file is missing."""

    def ask() -> str:
        return json.dumps([str(file) for file in importer.files(path)])

    maker = type(importer)
    purpose = (os.path.abspath(path), maker.__module__, maker.__qualname__, sources(_package(importer)))
    found = [Path(name) for name in json.loads(_remembered(path, repr(purpose), ask))]
    return found if all(file.exists() for file in found) else list(importer.files(path))


def _remembered(path: Path, purpose: str, find: Callable[[], str]) -> str:
    """What `find` makes of a file or folder, kept for as long as its time stamps stay. A change that
    follows another within the resolution of the stamps leaves none, so what is fresh is not kept."""
    facts = path.stat()
    stamps = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    key = hashlib.sha256(repr((purpose, str(path.resolve()), stamps)).encode()).hexdigest()
    known = cache.load(DIGESTS, key)
    if known is not None:
        return known.decode()
    found = find()
    if time.time() - max(facts.st_mtime, facts.st_ctime) > SETTLED:
        cache.store(DIGESTS, key, found.encode())
        cache.trim(DIGESTS, DIGESTS_LIMIT)
    return found


def _package(maker: object) -> str:
    return type(maker).__module__.partition(".")[0]


@lru_cache
def sources(package: str) -> str:
    """A digest of the names, sizes and times of a package's Python files: another version differs."""
    roots = getattr(sys.modules.get(package), "__path__", ())
    found = sorted(facts for root in roots for facts in _python_files(root))
    return hashlib.sha256(repr((package, found)).encode()).hexdigest()


def _python_files(folder: str) -> Iterator[tuple[str, int, int]]:
    for entry in os.scandir(folder):
        if entry.name.endswith(".py"):
            facts = entry.stat()
            yield entry.path, facts.st_size, facts.st_mtime_ns
        elif entry.name != "__pycache__" and entry.is_dir():
            yield from _python_files(entry.path)


def recall(key: str) -> Compiled | None:
    """The entry of a key, its constants mapped; a damaged one counts as absent."""
    path = cache.place(KIND, key)
    if path is None or not path.is_file():
        return None
    try:
        compiled = artifact.read(path)
        os.utime(path)  # the entry used longest ago goes first
    except (ArtifactError, OSError):
        return None
    return compiled


def remember(key: str, compiled: Compiled) -> Compiled:
    """Keep an entry, if it is not larger than the whole cache may be. What comes back is the entry, its
    constants mapped, so that those in memory may go; or what was given, if nothing is kept."""
    if cache.folder(KIND) is None or sum(a.nbytes for a in compiled.constants.values()) > LIMIT:
        return compiled
    cache.store_file(KIND, key, lambda file: artifact.write_to(file, compiled))
    cache.trim(KIND, LIMIT)
    return recall(key) or compiled
