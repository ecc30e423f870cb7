"""Golden files: `--update-golden` writes what is printed now, to be read in the diff."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
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


@pytest.fixture(scope="session")
def device():
    """An OpenCL device, PoCL's processor where there is one."""
    cl = pytest.importorskip("pyopencl", reason="pyopencl cannot be imported")
    pocl = pytest.importorskip("tallow_opencl.pocl")
    import opencl_device

    pocl.teach_host()
    return opencl_device.Device(cl)
