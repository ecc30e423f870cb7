"""Discovery reads what importlib.metadata reads, in less time."""

from __future__ import annotations

import sys
import zipfile
from importlib.machinery import PathFinder

import pytest

from tallow import discovery
from tallow.discovery import Point, entry_points


def distribution(folder, name: str, version: str, points: str, suffix: str = "dist-info"):
    metadata = folder / f"{name}-{version}.{suffix}"
    metadata.mkdir(parents=True)
    (metadata / "entry_points.txt").write_text(points)
    file = "METADATA" if suffix == "dist-info" else "PKG-INFO"
    (metadata / file).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: text")


@pytest.fixture
def alone(monkeypatch):
    """Only Python's own finder, which keeps this to what is on the path."""
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    return monkeypatch


@pytest.mark.parametrize("group", ["tallow", "console_scripts", "pytest11", "no.such.group"])
def test_installed_distributions(group):
    assert sorted(entry_points(group)) == sorted(discovery._by_importlib(group))


def test_the_first_distribution_of_a_name_counts(tmp_path, alone):
    distribution(tmp_path / "a", "my_plugin", "2", "# note\n[other]\nx = y\n\n[tallow]\none = m.a\n two=m:f.g \n")
    distribution(tmp_path / "b", "My.Plugin", "1", "[tallow]\none = m.b\n")
    distribution(tmp_path / "b", "old", "3.0", "[tallow]\nthree = o\n", "egg-info")
    (tmp_path / "b" / "bare-1.dist-info").mkdir()
    (tmp_path / "b" / "file-1.dist-info").touch()
    alone.setattr(sys, "path", [str(tmp_path / name) for name in ("a", "missing", "b", "a")])
    found = entry_points("tallow")
    assert found == [
        Point("one", "m.a", "my_plugin", "2"),
        Point("two", "m:f.g", "my_plugin", "2"),
        Point("three", "o", "old", "3.0"),
    ]
    assert sorted(found) == sorted(discovery._by_importlib("tallow"))


def test_archives_are_left_to_importlib(tmp_path, alone):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("zipped-1.dist-info/entry_points.txt", "[tallow]\nz = zipped\n")
        archive.writestr("zipped-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1\n")
    alone.setattr(sys, "path", [str(tmp_path / "all.zip")])
    assert entry_points("tallow") == [Point("z", "zipped", "zipped", "1")]


def test_what_a_point_names_is_loaded():
    assert Point("a", "json", "d", "1").load().__name__ == "json"
    assert Point("a", "json.decoder:JSONDecoder.decode [extra]", "d", "1").load().__name__ == "decode"
    with pytest.raises(ModuleNotFoundError):
        Point("a", "no_such_module", "d", "1").load()
