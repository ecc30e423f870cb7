"""Golden files: `--update-golden` writes what is printed now, to be read in the diff."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "golden"


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")


@pytest.fixture
def golden(request):
    """`golden(name, text)`: the text is that of the golden file."""

    def check(name: str, text: str) -> None:
        path = FOLDER / f"{name}.txt"
        if request.config.getoption("--update-golden", default=False):
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text, (
            f"{path.name} differs: read the change, then `pytest tests/kernel --update-golden`"
        )

    return check
