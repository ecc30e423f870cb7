"""PoCL on a processor that its LLVM does not know."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tallow_opencl import pocl


@pytest.mark.parametrize("known", [False, True])
def test_pocl_compiles_on_processors_that_its_llvm_does_not_know(known, tmp_path):
    """Such a processor is made by letting LLVM answer "generic"; then the remedy is applied."""
    if pytest.importorskip("pyopencl") and pocl.library() is None:
        pytest.skip("the PoCL wheel is not installed")
    program = f"""
import pyopencl as cl
from tallow_opencl import pocl
pocl.teach_host("generic")
if {known}:
    print(pocl.teach_host())
(device,) = [d for p in cl.get_platforms() if "Portable Computing" in p.name for d in p.get_devices()]
cl.Program(cl.Context([device]), "__kernel void k(__global int *x) {{ x[0] = 1; }}").build()
print(device.version)
"""
    environment = {**os.environ, "POCL_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if known:
        name, version = done.stdout.split("\n")[:2]
        assert done.returncode == 0 and name in pocl.PROCESSORS.values() and version.endswith(name)
    else:
        assert done.returncode != 0 and "BUILD_PROGRAM_FAILURE" in done.stderr
