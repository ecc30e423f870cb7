"""Shared fixtures: models are written with the onnx package, arrays are seeded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tallow import plugins
from tallow.errors import Unavailable

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config) -> None:
    """Every graph is verified after every pass, also in processes that tests start."""
    os.environ["TALLOW_VERIFY"] = "1"


def pytest_addoption(parser) -> None:
    """Golden files: `--update-golden` writes what is printed now, to be read in the diff."""
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")


@pytest.fixture
def golden(request):
    """`golden(name, text)`: the text is that of the golden file."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden", default=False):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text, (
            f"{path.name} differs: read the change, then `pytest --update-golden`"
        )

    return check


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def save_onnx(tmp_path):
    """Writes a model of nodes: `save_onnx(nodes, inputs, outputs, initializers, opset)`; returns its path."""

    def write(nodes, inputs, outputs, initializers=(), opset=17, name="model.onnx", **model):
        def ports(entries):
            return [helper.make_tensor_value_info(n, getattr(TensorProto, t), s) for n, t, s in entries]

        tensors = [onnx.numpy_helper.from_array(a, n) for n, a in dict(initializers).items()]
        graph = helper.make_graph(nodes, "g", ports(inputs), ports(outputs), tensors)
        path = tmp_path / name
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **model), path)
        return path

    return write


DEVICES = ("cpu", "opencl", "cuda")


@pytest.fixture(scope="session")
def usable():
    """`usable(backend)`: the name of a device of a backend; the test is skipped where there is none."""

    def find(backend: str) -> str:
        try:
            return plugins.backend(backend).devices()[0].name
        except Unavailable as reason:
            pytest.skip(str(reason))

    return find


@pytest.fixture(scope="session", params=DEVICES)
def device(request, usable) -> str:
    """The name of a device: the test runs on one of each backend that is usable here."""
    return usable(request.param)
