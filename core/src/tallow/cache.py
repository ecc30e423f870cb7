"""The cache on disk: content-addressed files that check themselves, in one folder for each kind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def folder(kind: str) -> Path | None:
    """Where files of a kind are kept: below TALLOW_CACHE, else the user's cache; None when it is ""."""
    chosen = os.environ.get("TALLOW_CACHE")
    if chosen == "":
        return None
    return (Path(chosen) if chosen else _users()) / kind


def _users() -> Path:
    from platformdirs import user_cache_dir  # not needed where TALLOW_CACHE says the place

    return Path(user_cache_dir("tallow"))


def place(kind: str, key: str) -> Path | None:
    """The file for a key, there or not."""
    base = folder(kind)
    return base and base / key[:2] / key


def load(kind: str, key: str) -> bytes | None:
    """What was stored under `key`, or None; a damaged file counts as absent."""
    path = place(kind, key)
    try:
        data = path.read_bytes() if path else b""
    except OSError:
        return None
    return data[32:] if data and hashlib.sha256(data[32:]).digest() == data[:32] else None


def store(kind: str, key: str, data: bytes) -> None:
    """Keep `data` under `key`; a folder that cannot be written keeps nothing."""
    store_file(kind, key, lambda file: file.write(hashlib.sha256(data).digest() + data))


def store_file(kind: str, key: str, write: Callable[[BinaryIO], object]) -> None:
    """Keep what `write` puts into a file, whole or not at all."""
    path = place(kind, key)
    if path is None:
        return
    draft = path.with_name(f".{os.urandom(16).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(draft, "xb") as file:
                write(file)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError:
        return


def trim(kind: str, limit: int) -> None:
    """Delete the files used longest ago until at most `limit` bytes of a kind are left."""
    base = folder(kind)
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
