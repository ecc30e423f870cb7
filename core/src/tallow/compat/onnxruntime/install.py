"""Taking the place of onnxruntime: programs that import it get Tallow's module."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tallow.compat.onnxruntime.environment import API, get_build_info
from tallow.compat.onnxruntime.said import LOGGER, cannot_honour

NAME = "onnxruntime"
OURS = __package__
TOOLS = (
    "backend",
    "datasets",
    "quantization",
    "tools",
    "transformers",
)  # in Python, on the interface that is here
_ABSENT = "it is a tool of onnxruntime and no part of running a model: install onnxruntime beside Tallow"


class _Distribution(importlib.metadata.Distribution):
    """What importlib.metadata tells of the package that programs ask for."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {API}\nSummary: {get_build_info()}\n"

    def locate_file(self, path):
        raise NotImplementedError(f"{NAME} stands for a module of Tallow: it has no files of its own")


class _Finder(importlib.metadata.DistributionFinder):
    """Answers for the package's version, finds its tools where onnxruntime is installed, and says which modules are
    not here."""

    def find_spec(self, name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        package, *inner = name.split(".")
        if package != NAME or not inner:
            return None
        found = _tool(name, inner[:-1]) if inner[0] in TOOLS else None
        if found is None:
            cannot_honour(f"import of {name}", _ABSENT if inner[0] in TOOLS else "Tallow has no such module")
        elif len(inner) == 1:
            LOGGER.info(
                "%s is onnxruntime's own, from %s: what it runs, it runs on Tallow", name, found.origin
            )
        return found

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterator[importlib.metadata.Distribution]:
        wanted = None if context is None else context.name
        if wanted is None or re.sub(r"[-_.]+", "-", wanted).lower() == NAME:
            yield _Distribution()


def _tool(name: str, folders: list[str]) -> importlib.machinery.ModuleSpec | None:
    """A module of the onnxruntime that is installed, if one is."""
    installed = importlib.machinery.PathFinder.find_spec(NAME)
    if installed is None or installed.submodule_search_locations is None:
        return None
    places = [str(Path(root, *folders)) for root in installed.submodule_search_locations]
    return importlib.machinery.PathFinder.find_spec(name, places)


def install() -> None:
    """From now on `import onnxruntime`, in this process, gives Tallow's module, and importlib.metadata its
    version. Modules that hold onnxruntime already keep it, which a warning says."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    package = sys.modules[OURS]
    if sys.modules.get(NAME) not in (None, package):
        LOGGER.warning("onnxruntime was imported before: modules that hold it go on using it")
    for name in [n for n in sys.modules if n == NAME or n.startswith(f"{NAME}.")]:
        del sys.modules[name]
    sys.modules[NAME] = package
    for found in pkgutil.walk_packages(package.__path__, f"{OURS}."):
        name = NAME + found.name.removeprefix(OURS)
        shared = (
            name.rpartition(".")[2] in TOOLS and _tool(name, []) is not None
        )  # what is ours in it is still found
        if not found.name.endswith(".__main__") and not shared:
            sys.modules[name] = importlib.import_module(found.name)
    sys.meta_path.insert(0, _Finder())
