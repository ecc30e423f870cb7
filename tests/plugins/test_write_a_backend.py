"""docs/write-a-backend.md is the example backend, and its steps work from an empty folder."""

from __future__ import annotations

import re

import pytest

from tests.plugins.venvs import ROOT, Environment, build_wheels, link_distributions, run

DOCUMENT = ROOT / "docs" / "write-a-backend.md"
EXAMPLE = ROOT / "tests" / "fake_plugin" / "example"
FILES = {"toml": "pyproject.toml", "python": "src/tallow_example/__init__.py"}
NEEDED = (
    "numpy",
    "ml_dtypes",
    "pluggy",
    "safetensors",
    "platformdirs",
    "click",
    "rich",
    "pillow",
    "pytest",
    "hatchling",
)


def blocks() -> dict[str, str]:
    """The blocks of the document by kind, of which it has one each."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    assert sorted(kind for kind, _ in found) == ["python", "sh", "toml"]
    return dict(found)


@pytest.mark.parametrize("kind", FILES)
def test_the_document_is_the_example(kind):
    assert blocks()[kind] == (EXAMPLE / FILES[kind]).read_text()


def test_the_example_is_about_a_hundred_lines():
    code = blocks()["python"].splitlines()
    assert sum(bool(line.strip()) for line in code) <= 130


def test_the_steps_work_from_an_empty_folder(tmp_path):
    (tmp_path / "wheels").mkdir()
    build_wheels([ROOT / "core"], tmp_path / "wheels")
    link_distributions(NEEDED, tmp_path / "dependencies")
    environment = Environment(tmp_path / "venv", tmp_path / "dependencies")
    environment.pip("install", "--no-index", "--no-deps", "--find-links", tmp_path / "wheels", "tallow")
    project = tmp_path / "project"
    for kind, name in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(blocks()[kind])
    install, devices, kit = blocks()["sh"].splitlines()
    assert install == "python -m pip install ."
    environment.pip("install", "--no-index", "--no-deps", "--no-build-isolation", project)
    words = devices.split()
    assert words[0] == "tallow"
    printed = environment.tallow(*words[1:], folder=project)
    assert re.search(r"example .* tallow-example 0.1.0 .* ok", printed), printed
    python, *words = kit.split()
    assert python == "python"
    printed = run(environment.python, *words, "-k", "errors or relu", folder=project, TALLOW_CACHE="")
    assert re.search(r"\d+ passed", printed) and "example, C on " in printed, printed
    environment.pip("uninstall", "-y", "tallow-example")
    assert "no backend is installed" in environment.tallow("devices")
