"""CUDA without a GPU: its compiler where it is installed, and kernels on a double of the driver."""

import shutil
import sys
from pathlib import Path

import pytest

from tallow.errors import Unavailable

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "whole")]


@pytest.fixture(scope="session")
def nvrtc():
    """CUDA's compiler; the test is skipped where it is not installed."""
    libraries = pytest.importorskip("tallow_cuda.libraries")
    try:
        libraries.headers()
        return libraries.nvrtc()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def device(monkeypatch):
    """The name of a GPU that is the host; see `host_cuda`."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile CUDA C for the host")
    pytest.importorskip("tallow_cuda")
    import host_cublaslt
    import host_cuda

    from tallow_cuda import device, libraries, program, source

    class Prepared(program.Prepared):
        def __init__(self, module, steps):
            super().__init__(module, steps)
            for launch in self.launches:
                if isinstance(launch, program._Launch):
                    host_cuda.Driver.counts[launch.pointers.ctypes.data] = len(launch.values)

    cupy = host_cuda.make_cupy()
    library = host_cublaslt.Cublaslt()
    monkeypatch.setattr(libraries, "cupy", lambda: cupy)
    monkeypatch.setattr(libraries, "cublaslt", lambda: library)
    monkeypatch.setattr(source, "compile_source", host_cuda.compile_source)
    monkeypatch.setattr(program, "Prepared", Prepared)
    monkeypatch.setattr(device, "_opened", {})
    return "cuda:0"
