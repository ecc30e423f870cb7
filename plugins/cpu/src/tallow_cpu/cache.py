"""The cache of compiled code on disk: content-addressed files that check themselves."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_dir

LIMIT = 512 << 20  # bytes kept; the oldest files go first


def folder() -> Path | None:
    """Where compiled code is kept: TALLOW_CACHE, else the user's cache folder; None when it is ""."""
    chosen = os.environ.get("TALLOW_CACHE")
    if chosen == "":
        return None
    return Path(chosen or user_cache_dir("tallow")) / "cpu"


def load(key: str) -> bytes | None:
    """What was stored under `key`, or None; a damaged file counts as absent."""
    base = folder()
    if base is None:
        return None
    try:
        data = (base / key[:2] / key).read_bytes()
    except OSError:
        return None
    return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else None


def store(key: str, data: bytes) -> None:
    """Keep `data` under `key`; a folder that cannot be written keeps nothing."""
    base = folder()
    if base is None:
        return
    try:
        place = base / key[:2]
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, delete=False) as file:
            file.write(hashlib.sha256(data).digest() + data)
        os.replace(file.name, place / key)
    except OSError:
        return


def trim(limit: int = LIMIT) -> None:
    """Delete the least recently written files until at most `limit` bytes are left."""
    base = folder()
    if base is None or not base.is_dir():
        return
    found = []
    for file in base.glob("*/*"):
        try:
            facts = file.stat()
        except OSError:  # another process has just renamed or removed it
            continue
        found.append((facts.st_mtime, facts.st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= limit:
            return
        total -= size
        file.unlink(missing_ok=True)
