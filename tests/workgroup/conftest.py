"""Work-group lowerings run in the interpreter, and through PoCL where it is installed."""

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kernel")]


# PoCL 3.0's default way of running a group, vectors over its threads, crashes where a loop's bounds differ from
# thread to thread; its other ways run the same kernels.
os.environ.setdefault("POCL_WORK_GROUP_METHOD", "cbs")


@pytest.fixture(scope="session")
def pocl():
    """An OpenCL device on this machine's processor, which shares its memory."""
    cl = pytest.importorskip("pyopencl", reason="pyopencl cannot be imported")
    pocl = pytest.importorskip("tallow_opencl.pocl")
    import opencl_device

    pocl.teach_host()
    device = opencl_device.Device(cl)
    if "Portable Computing" not in device.context.devices[0].platform.name:
        pytest.skip("the OpenCL device is not PoCL")
    return device
