"""Devices that tests register are forgotten after each."""

import pytest
from placement_support import forget


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    forget()
