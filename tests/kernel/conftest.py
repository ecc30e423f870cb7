"""An OpenCL device for the tests of printed kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def device():
    """An OpenCL device, PoCL's processor where there is one."""
    cl = pytest.importorskip("pyopencl", reason="pyopencl cannot be imported")
    pocl = pytest.importorskip("tallow_opencl.pocl")
    import opencl_device

    pocl.teach_host()
    return opencl_device.Device(cl)
