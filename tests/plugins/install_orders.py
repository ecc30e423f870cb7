"""Backends come and go with their packages, in every order: `tox -e plugins`.

A package of the table that this checkout does not have yet is stood in for by the example backend under its name.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.plugins.venvs import ROOT, Environment, build_wheels, link_distributions

# backend, project, and what else its package needs to be imported
BACKENDS = (
    ("cpu", "plugins/cpu", ("llvmlite",)),
    ("opencl", "plugins/opencl", ("pyopencl",)),
    ("cuda", "plugins/cuda", ()),
)
BASE = ("core", "importers")
NEEDED = (
    "numpy",
    "ml_dtypes",
    "pluggy",
    "safetensors",
    "platformdirs",
    "click",
    "rich",
    "pillow",
    "onnx",
    "protobuf",
)
EXAMPLE = ROOT / "tests" / "fake_plugin" / "example"
ORDERS = list(itertools.permutations(name for name, _, _ in BACKENDS))
COMPILE = """
import sys
import numpy as np
import tallow
from tallow.builder import Builder
b = Builder("net")
graph = b.finish({"y": b.neg(b.input("x", "f32", [2]))})
print(tallow.compile(graph, sys.argv[1])(np.array([1, 2], np.float32)))
"""


def stand_in(name: str, folder: Path) -> Path:
    """The example backend as a project of another name."""
    for file in EXAMPLE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            copy = folder / str(file.relative_to(EXAMPLE)).replace("example", name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(file.read_text().replace("example", name).replace("Example", name.title()))
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    projects = [ROOT / name for name in BASE]
    for name, project, _ in BACKENDS:
        there = (ROOT / project / "pyproject.toml").is_file()
        projects.append(ROOT / project if there else stand_in(name, tmp_path_factory.mktemp(name)))
        print(f"{name}: {'its own package' if there else 'stood in for by the example'}")
    build_wheels(projects, folder)
    return folder


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dependencies")
    link_distributions([*NEEDED, *(name for row in BACKENDS for name in row[2])], folder)
    return folder


@pytest.fixture
def environment(tmp_path, dependencies, wheels) -> Environment:
    """One with core and importers alone."""
    made = Environment(tmp_path / "venv", dependencies)
    made.wheels = wheels
    install(made, "tallow", "tallow-importers")
    yield made
    shutil.rmtree(tmp_path / "venv")


def install(environment: Environment, *names: str) -> None:
    environment.pip("install", "--no-index", "--no-deps", "--find-links", environment.wheels, *names)


def listed(environment: Environment) -> dict[str, dict]:
    """Rows of `tallow devices` by backend."""
    rows = json.loads(environment.tallow("devices", "--json"))
    return {row["device"].partition(":")[0]: row for row in rows}


def compiled(environment: Environment, device: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [environment.python, "-c", COMPILE, device],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TALLOW_CACHE": str(environment.cache)},
    )


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_backends_come_and_go(order, environment):
    assert "no backend is installed: pip install tallow-cpu" in environment.tallow("devices")
    plugins = json.loads(environment.tallow("plugins", "--json"))
    assert {row["from"].partition(" ")[0] for row in plugins} == {"tallow-importers"}
    there: list[str] = []
    for name in order:
        missing = compiled(environment, name).stderr.strip().splitlines()[-1]
        known = f"installed: {', '.join(sorted(there))}" if there else "no backend is installed"
        assert f"there is no backend '{name}' ({known})" in missing
        assert missing.endswith(f"To add it: pip install tallow-{name}")
        install(environment, f"tallow-{name}")
        there.append(name)
        rows = listed(environment)
        assert set(rows) == set(there)
        assert rows[name]["from"].startswith(f"tallow-{name} ")
        if "not usable" not in rows[name]["what"]:
            done = compiled(environment, name)
            assert done.stdout.strip() == "[-1. -2.]", done.stderr
    for name in order:
        environment.pip("uninstall", "-y", f"tallow-{name}")
        there.remove(name)
        if there:
            assert set(listed(environment)) == set(there)
    assert "no backend is installed: pip install tallow-cpu" in environment.tallow("devices")
