"""ONNX's own backend test suite, all kinds, driving the backend interface unmodified: `tox -e backend`.

Not collected by default for its length. Cases in `backend_skips.txt` are skipped for the reason beside them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from onnx.backend.test import BackendTest

import tallow_importers.onnx.backend as backend

HOME = tempfile.TemporaryDirectory()  # removed when the process ends
os.environ.setdefault("ONNX_HOME", HOME.name)


def skips() -> dict[str, str]:
    """Patterns of names and the reason why what they match is not run."""
    lines = Path(__file__).with_name("backend_skips.txt").read_text().splitlines()
    rows = (line.split("#", 1) for line in lines if line and not line.startswith("#"))
    return {pattern.strip(): reason.strip() for pattern, reason in rows}


suite = BackendTest(backend, __name__)
for pattern in skips():
    suite.exclude(pattern)
globals().update(suite.test_cases)
