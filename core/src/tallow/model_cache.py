"""Whole models in the cache: what a model's files, with given sizes, were compiled to for a target.

An entry is a `.tallow` file named by a digest of everything that its content depends on: the bytes of
the model's files, the sizes, the target, and the sources of the packages that made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from tallow import artifact, cache
from tallow.backend import Backend, Target
from tallow.compiled import Compiled
from tallow.errors import ArtifactError
from tallow.plugins import Importer

KIND, DIGESTS = "models", "digests"
LIMIT, DIGESTS_LIMIT = 4 << 30, 1 << 20  # bytes kept
SETTLED = 2.0  # seconds after which a change of a file's content also changes its time stamp


def key_of(
    files: Iterable[Path | bytes],
    dims: Mapping[str, int | tuple[int, int]],
    target: Target,
    makers: Sequence[Importer | Backend],
) -> str:
    """The name of an entry; a file may be given by its bytes. `makers` are the importer and the backend."""
    packages = {"tallow", *(type(maker).__module__.partition(".")[0] for maker in makers)}
    parts = {
        "files": [_content(file) for file in files],
        "dims": sorted(dims.items()),
        "target": asdict(target),
        "makers": [maker.name for maker in makers],
        "packages": [sources(name) for name in sorted(packages)],
    }
    return hashlib.sha256(json.dumps(parts, default=dict).encode()).hexdigest()


def _content(file: Path | bytes) -> tuple[str, str]:
    """Name and digest; what is in memory has no name."""
    if isinstance(file, bytes):
        return "", hashlib.sha256(file).hexdigest()
    return file.name, digest(file)


def digest(path: Path) -> str:
    """The SHA-256 of a file's content, remembered for as long as the file's time stamps stay."""
    facts = path.stat()
    stamps = (
        str(path.resolve()),
        facts.st_dev,
        facts.st_ino,
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
    )
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()
    known = cache.load(DIGESTS, key)
    if known is not None:
        return known.decode()
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - max(facts.st_mtime, facts.st_ctime) > SETTLED:
        cache.store(DIGESTS, key, found.encode())
        cache.trim(DIGESTS, DIGESTS_LIMIT)
    return found


@lru_cache
def sources(package: str) -> str:
    """A digest of the names, sizes and times of a package's Python files: another version differs."""
    found = []
    for root in map(Path, getattr(sys.modules.get(package), "__path__", ())):
        for file in sorted(root.rglob("*.py")):
            facts = file.stat()
            found.append((str(file), facts.st_size, facts.st_mtime_ns))
    return hashlib.sha256(repr((package, found)).encode()).hexdigest()


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


def remember(key: str, compiled: Compiled) -> None:
    """Keep an entry, if it is not larger than the whole cache may be."""
    if cache.folder(KIND) is None or sum(a.nbytes for a in compiled.constants.values()) > LIMIT:
        return
    cache.store_file(KIND, key, lambda file: artifact.write_to(file, compiled))
    cache.trim(KIND, LIMIT)
