"""The kit as a plugin of pytest: `pytest --pyargs tallow.testing --backend NAME`.

Whatever a backend leaves to the host is a skipped test with the reason, and listed at the end.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from tallow import plugins
from tallow.backend import Backend, split_device
from tallow.errors import TallowError
from tallow.executable import Executable
from tallow.schedule.program import ControlStep, HostStep, Program
from tallow.testing.cases import CASES
from tallow.testing.small_models import MODELS


def pytest_addoption(parser) -> None:
    group = parser.getgroup("tallow", "Tallow's kit for backends")
    group.addoption("--backend", metavar="NAME", help="backend, or backend:device, that is tried")
    group.addoption("--full", action="store_true", help="every dtype of every operator, and fixed sizes too")


def pytest_configure(config) -> None:
    name = config.getoption("backend")
    if name is None:
        known = ", ".join(sorted(plugins.host().tables["backend"])) or "none is installed"
        raise pytest.UsageError(f"say which backend is tried: --backend NAME ({known})")
    try:
        backend = plugins.backend(split_device(name)[0])
        if not backend.devices():
            raise pytest.UsageError(f"the backend {name} lists no device")
    except TallowError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config) -> list[str]:
    backend = plugins.backend(split_device(config.getoption("backend"))[0])
    return [f"tallow: {device.name}, {device.description}" for device in backend.devices()]


def pytest_generate_tests(metafunc) -> None:
    if "case" in metafunc.fixturenames:
        full = metafunc.config.getoption("full")
        pairs = [(case, dtype) for case in CASES for dtype in (case.dtypes if full else case.quick)]
        ids = [f"{case.name}, {dtype}" for case, dtype in pairs]
        metafunc.parametrize(("case", "dtype"), pairs, ids=ids)
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", MODELS, ids=lambda model: model.name)


@pytest.fixture(scope="session")
def device(request) -> str:
    """The name that models are compiled for."""
    return request.config.getoption("backend")


@pytest.fixture(scope="session")
def backend(device) -> Backend:
    return plugins.backend(split_device(device)[0])


@pytest.fixture(scope="session")
def full(request) -> bool:
    return request.config.getoption("full")


def left_to_host(run: Executable) -> list[str]:
    """Why steps of a program run on the host, regions of its control flow included."""
    return list(dict.fromkeys(_reasons(run.compiled.program)))


def _reasons(program: Program):
    for step in program.steps:
        match step:
            case HostStep():
                yield step.reason
            case ControlStep():
                for region in step.regions.values():
                    yield from _reasons(region)


def pytest_terminal_summary(terminalreporter) -> None:
    """Reasons of skipped tests, and how many each skipped."""
    counts: dict[str, int] = defaultdict(int)
    for report in terminalreporter.stats.get("skipped", ()):
        counts[report.longrepr[2].removeprefix("Skipped: ")] += 1
    if counts:
        terminalreporter.section("not done by the device")
        for reason, count in sorted(counts.items()):
            terminalreporter.line(f"{count:4}  {reason}")
