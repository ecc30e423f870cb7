"""Each run of the CPU tests has its own empty cache of compiled code."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def fresh_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TALLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
