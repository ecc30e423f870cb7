"""Errors: what does not fit is refused in words that name it, and the executable goes on working."""

from __future__ import annotations

import numpy as np
import pytest

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.dtype import DTYPES
from tallow.errors import CompileError, InputError, TallowError, Unavailable
from tallow.kernel.grammar import Buffer, Const, For, Kernel, Load, SourceKernel, Store, Var


@pytest.fixture(scope="module")
def run(device):
    b = Builder("sum")
    x, y = b.input("x", "f32", ("n", 3)), b.input("y", "f32", ("n", 3))
    return tallow.compile(b.finish({"z": b.add(x, y)}), device, dims={"n": (0, 8)})


def of(*shape: int, dtype: str = "f4") -> np.ndarray:
    return np.ones(shape, dtype)


WRONG = {
    "missing": ({"x": of(2, 3)}, "missing y"),
    "unknown": ({"x": of(2, 3), "y": of(2, 3), "w": of(1)}, "unknown w"),
    "dtype": ({"x": of(2, 3), "y": of(2, 3, dtype="f8")}, 'input "y": expected f32.*got dtype f64'),
    "rank": ({"x": of(2, 3), "y": of(3)}, 'input "y": expected .*rank 2'),
    "size": ({"x": of(2, 3), "y": of(2, 4)}, 'input "y": .*axis 1 must be 3'),
    "symbol": ({"x": of(2, 3), "y": of(1, 3)}, 'input "y": axis 0 is n, which is 2'),
    "bounds": ({"x": of(9, 3), "y": of(9, 3)}, r"size n = 9 is outside 0\.\.8"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_inputs_are_refused(what, run):
    inputs, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        run.run(inputs)
    good = {"x": of(2, 3), "y": of(2, 3)}
    np.testing.assert_array_equal(run.run(good)["z"], 2 * of(2, 3))


def test_a_wrong_out_is_refused(run):
    with pytest.raises(InputError, match='out "z": expected'):
        run.run({"x": of(2, 3), "y": of(2, 3)}, out={"z": of(3, 3)})


def test_sizes_that_do_not_fit_are_refused_before_anything_runs(device):
    b = Builder("outer")
    product = b.mul(b.input("x", "f32", ("n",)), b.input("y", "f32", ("m",)))
    run = tallow.compile(b.finish({"z": product}), device)
    assert run(of(3), of(1)).shape == (3,)
    with pytest.raises(InputError, match="the inputs' sizes do not fit"):
        run(of(3), of(2))


def test_an_architecture_that_is_not_there_is_refused(backend):
    with pytest.raises(Unavailable, match="no-such-architecture"):
        backend.target("no-such-architecture")


def test_a_device_that_is_not_there_is_refused(backend):
    with pytest.raises(Unavailable, match="no-such-device"):
        backend.open(f"{backend.name}:no-such-device")


def test_a_compilers_complaint_is_passed_on(backend, device):
    x, y = Buffer("x", DTYPES["f32"]), Buffer("y", DTYPES["f32"], writable=True)
    kernel = SourceKernel("broken", (x, y), (Var("grid"),), "this is no language;")
    with pytest.raises(CompileError, match="broken|does not compile"):
        code = backend.compile([kernel], backend.target())
        backend.open(device).load(code)  # where the device's driver compiles


def test_the_source_of_a_kernel_can_be_shown(backend):
    x, y, at = Buffer("x", DTYPES["f32"]), Buffer("y", DTYPES["f32"], writable=True), Var("at")
    loop = For(at, Const(4), (Store(y, at, Load(x, at)),), "grid")
    kernel = Kernel("copied", (x, y), (), (loop,))
    assert "copied" in backend.source([kernel], backend.target(), "source")
    try:
        assert backend.source([kernel], backend.target(), "assembly")
    except TallowError as error:
        assert "assembly" in str(error)


def test_every_device_that_is_listed_opens(backend):
    for info in backend.devices():
        assert info.name.partition(":")[0] == backend.name
        assert backend.open(info.name).info.name == info.name
    assert plugins.backend(backend.name) is backend
