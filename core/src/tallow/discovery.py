"""Discovery: the entry points of a group, read from the metadata of installed distributions.

Folders on the import path are read here; importlib.metadata, which takes longer to import than most models
to load, is asked only where distributions may lie elsewhere: in archives, or behind finders of other packages.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from typing import NamedTuple

SUFFIXES = (".dist-info", ".egg-info")


class Point(NamedTuple):
    """One entry point: `value` is the module that it names, or `module:attribute`."""

    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> object:
        module, _, attribute = self.value.partition(":")
        found = import_module(module.strip())
        for part in filter(None, attribute.split("[")[0].strip().split(".")):
            found = getattr(found, part)
        return found


def entry_points(group: str) -> list[Point]:
    """The entry points of a group; of two distributions of one name, the first on the path counts."""
    folders = [folder or "." for folder in dict.fromkeys(sys.path) if os.path.exists(folder or ".")]
    others = [f for f in sys.meta_path if f is not PathFinder and hasattr(f, "find_distributions")]
    if others or not all(map(os.path.isdir, folders)):
        return _by_importlib(group)
    return [point for folder in _metadata(folders) for point in _points(folder, group)]


def _by_importlib(group: str) -> list[Point]:
    from importlib import metadata

    points = metadata.entry_points(group=group)
    return [Point(p.name, p.value, p.dist.name, p.dist.version) for p in points if p.dist]


def _metadata(folders: list[str]) -> Iterator[str]:
    """The metadata folder of each distribution."""
    seen: set[str] = set()
    for folder in folders:
        for entry in _listed(folder):
            if entry.endswith(SUFFIXES):
                name = re.sub(r"[-_.]+", "-", entry.rpartition(".")[0].split("-")[0]).lower()
                if name not in seen:
                    seen.add(name)
                    yield os.path.join(folder, entry)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a folder that may not be read
        return []


def _points(metadata: str, group: str) -> Iterator[Point]:
    try:
        with open(os.path.join(metadata, "entry_points.txt"), encoding="utf-8") as file:
            text = file.read()
    except OSError:  # most distributions have none
        return
    if f"[{group}]" not in text:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == group and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield Point(name.strip(), value.strip(), *_identity(metadata))


def _identity(metadata: str) -> tuple[str, str]:
    """Name and version of a distribution."""
    for name in ("METADATA", "PKG-INFO"):
        try:
            with open(os.path.join(metadata, name), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        head = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
        facts = {key.lower(): value.strip() for key, _, value in head}
        return facts.get("name", "?"), facts.get("version", "?")
    return "?", "?"
