"""The benchmarks' models become machine code for sm_80 and sm_90, all of it kernels: `tox -e cuda`.

TALLOW_CUDA_MODELS is a folder of models built before; others are built there if what that needs is installed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import tallow
from benchmarks.catalogue import MODELS, Unbuildable, build, default_folder
from tallow.compiler import compile_graph
from tallow.schedule.program import HostStep


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", MODELS)
def test_models_become_machine_code(nvrtc, name, arch):
    folder = Path(os.environ.get("TALLOW_CUDA_MODELS") or default_folder())
    try:
        path = build(MODELS[name], folder)
    except Unbuildable as reason:
        pytest.skip(str(reason))
    compiled = compile_graph(tallow.load(path).graph, f"cuda:{arch}")
    assert not [s for s in compiled.program.steps if isinstance(s, HostStep)]
    usage = json.loads(compiled.code.notes["usage"])
    assert set(usage) | set(json.loads(compiled.code.notes["calls"])) == set(compiled.code.entries)
    assert all(0 < registers <= 255 and spilled <= 64 for registers, _, spilled in usage.values())
