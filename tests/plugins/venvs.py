"""Fresh virtual environments that need no network: dependencies are linked in, packages come from wheels."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")


def run(*words: object, folder: Path | None = None, **environment: str) -> str:
    """What a command prints; AssertionError with all of it when it fails."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("TALLOW_", "PYTHON"))}
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, cwd=folder, env=variables | environment
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheels(projects: Iterable[Path], folder: Path) -> None:
    run(*PIP, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, *projects)


def link_distributions(names: Sequence[str], folder: Path) -> None:
    """Links to what distributions and all that they require are made of, in a folder for the module search path."""
    folder.mkdir(exist_ok=True)
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        for part in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (folder / part).exists():
                (folder / part).symlink_to(found.locate_file(part))
        needs = map(Requirement, found.requires or ())
        waiting += [n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]


class Environment:
    """A virtual environment with nothing in it but links to dependencies."""

    def __init__(self, folder: Path, dependencies: Path):
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text(f"{dependencies}\n")
        self.cache = folder / "cache"

    def pip(self, *words: object) -> str:
        return run(*PIP, "--python", self.python, *words)

    def tallow(self, *words: object, folder: Path | None = None) -> str:
        return run(self.bin / "tallow", *words, folder=folder, TALLOW_CACHE=str(self.cache))
