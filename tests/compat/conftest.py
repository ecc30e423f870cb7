"""Fixtures of the tests of compatibility: what is logged, as if nothing had been said before."""

from __future__ import annotations

import pytest
from compat_support import Heard

from tallow.compat.onnxruntime import said


@pytest.fixture
def heard(monkeypatch):
    """The lines that the module logs during a test."""
    monkeypatch.setattr(said, "_told", set())
    handler = Heard()
    said.LOGGER.addHandler(handler)
    level = said.LOGGER.level
    yield handler.lines
    said.LOGGER.removeHandler(handler)
    said.LOGGER.setLevel(level)
