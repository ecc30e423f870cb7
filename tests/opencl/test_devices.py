"""Devices by name, and what is said where there is none: drivers are made up, so any machine can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tallow import plugins
from tallow.backend import DeviceInfo
from tallow.errors import Unavailable
from tallow_opencl import discovery, pocl
from tallow_opencl.targets import make_target

HERE = [
    ("cpu", "pthread-AMD EPYC", "Portable Computing Language"),
    ("gpu", "NVIDIA RTX 4000", "NVIDIA CUDA"),
    ("gpu", "NVIDIA T400", "NVIDIA CUDA"),
    ("accelerator", "Card 3", "Somebody"),
]


@pytest.fixture
def here(monkeypatch):
    found = []
    for number, (kind, name, platform) in enumerate(HERE):
        info = DeviceInfo(f"opencl:{number}", f"{name}, {platform}", 1 << 30, (kind,))
        words = f"{name} {platform}".lower()
        found.append(discovery.Found(None, info, make_target(f"{kind}+group64"), words))
    monkeypatch.setattr(discovery, "_inventory", discovery._Inventory(os.getpid(), found, []))


@pytest.mark.parametrize(
    "which,name",
    [("0", 0), ("2", 2), ("02", 2), ("cpu", 0), ("accelerator", 3), ("rtx", 1), ("T400", 2), ("somebody", 3)],
)
def test_a_device_is_named_by_number_kind_or_a_part_of_its_name(here, which, name):
    assert discovery.select(which).info.name == f"opencl:{name}"


@pytest.mark.parametrize(
    "which,message",
    [
        (None, r"several OpenCL devices are here: say which by number.*opencl:3 \(Card 3, Somebody\)"),
        ("gpu", r"'gpu' names several OpenCL devices: say which by number"),
        ("nvidia", r"'nvidia' names several"),
        ("4", r"no OpenCL device '4' is here: expected one of opencl:0 \(pthread-AMD EPYC"),
        ("radeon", r"no OpenCL device 'radeon' is here"),
    ],
)
def test_a_name_that_is_not_one_device_lists_what_is_here(here, which, message):
    with pytest.raises(Unavailable, match=message):
        discovery.select(which)


def test_the_only_device_needs_no_name(here):
    discovery._inventory.devices[1:] = []
    assert discovery.select(None).info.name == "opencl:0"


class Failure(Exception):
    pass


def driver(platforms):
    """pyopencl with these platforms; an exception in place of them is raised."""

    def get_platforms():
        if isinstance(platforms, Exception):
            raise platforms
        return platforms

    kinds = SimpleNamespace(CPU=2, GPU=4, ACCELERATOR=8)
    return SimpleNamespace(get_platforms=get_platforms, Error=Failure, device_type=kinds)


def platform(name, devices, version="OpenCL 3.0 someone's"):
    def get_devices():
        if isinstance(devices, Exception):
            raise devices
        return devices

    made = SimpleNamespace(name=name, vendor=name, version=version, get_devices=get_devices)
    for device in devices if isinstance(devices, list) else ():
        device.platform = made
    return made


def card(name, **properties):
    usual = {
        "version": "OpenCL 1.2 something",
        "available": True,
        "compiler_available": True,
        "endian_little": True,
        "type": 4,
        "extensions": "cl_khr_fp64 cl_khr_icd",
        "max_work_group_size": 4096,
        "local_mem_size": 48 << 10,
        "max_parameter_size": 4352,
        "max_compute_units": 40,
        "native_vector_width_float": 1,
        "global_mem_size": 8 << 30,
    }
    return SimpleNamespace(name=name, **(usual | properties))


@pytest.fixture
def look(monkeypatch):
    def run(platforms):
        monkeypatch.setattr(discovery, "pyopencl", lambda: driver(platforms))
        monkeypatch.setattr(pocl, "teach_host", lambda: None)
        monkeypatch.setattr(discovery, "_inventory", None)
        return discovery.inventory()

    return run


def test_devices_are_numbered_by_name_whatever_the_order_of_drivers(look):
    first, second = (
        platform("Zebra", [card("b"), card("a")]),
        platform("Ape", [card("c", type=2, native_vector_width_float=8)]),
    )
    for order in ([first, second], [second, first]):
        found = look(order).devices
        assert [f.device.name for f in found] == ["c", "a", "b"]
        assert [f.info.name for f in found] == ["opencl:0", "opencl:1", "opencl:2"]
    assert found[0].target.vector_bytes == 32 and found[0].target.limits["registers"] == 16
    limits = {"group": 1024, "shared": 48 << 10, "buffers": 256, "units": 40}
    assert found[1].target.vector_bytes == 0 and dict(found[1].target.limits) == limits
    assert found[1].info.features == ("gpu", "fp64") and found[1].info.memory == 8 << 30


@pytest.mark.parametrize(
    "properties,reason",
    [
        ({"version": "OpenCL 1.1 old"}, "OpenCL 1.1 old is older than OpenCL 1.2"),
        ({"version": "nonsense"}, "nonsense is older than"),
        ({"available": False}, "it or its compiler is not available"),
        ({"compiler_available": False}, "it or its compiler is not available"),
        ({"endian_little": False}, "it is big-endian"),
    ],
)
def test_devices_that_cannot_be_used_are_left_out_with_the_reason(look, properties, reason):
    look([platform("Mixed", [card("bad", **properties)])])
    with pytest.raises(Unavailable, match=f"no OpenCL device is here \\(Mixed, bad: {reason}.*install"):
        plugins.backend("opencl").devices()
    assert len(look([platform("Mixed", [card("bad", **properties), card("good")])]).devices) == 1


def test_no_driver_and_no_device_are_said(look):
    look(Failure("PLATFORM_NOT_FOUND_KHR"))
    with pytest.raises(Unavailable, match=r"no OpenCL device is here: install the OpenCL driver"):
        discovery.devices()
    for none in ([], Failure("DEVICE_NOT_FOUND")):
        look([platform("Empty", none)])
        with pytest.raises(Unavailable, match=r"\(Empty: it has no devices\)"):
            discovery.devices()


def test_a_pocl_that_cannot_be_taught_is_left_out_with_the_reason(look, monkeypatch):
    def refused():
        raise OSError("permission denied")

    monkeypatch.setattr(pocl, "teach_host", refused)
    monkeypatch.setattr(discovery, "pyopencl", lambda: driver([platform("P", [card("c")], pocl.VERSION)]))
    monkeypatch.setattr(discovery, "_inventory", None)
    with pytest.raises(Unavailable, match=r"P: its LLVM does not know this processor.*permission denied"):
        discovery.devices()


def test_pyopencl_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    monkeypatch.setattr(discovery, "_inventory", None)
    backend = plugins.backend("opencl")
    with pytest.raises(
        Unavailable, match="pyopencl cannot be imported .*pip install pyopencl, or 'tallow-open"
    ):
        backend.devices()
    with pytest.raises(Unavailable, match="pyopencl cannot be imported"):
        backend.open("opencl")
    assert backend.target("generic").arch == "generic"


FORKED = """
import multiprocessing, os, sys
import numpy as np
import tallow
from tallow.builder import Builder
from tallow.errors import TallowError

b = Builder()
x = b.input("x", "f32", [3])
graph = b.finish({"y": b.exp(x)})
executable = tallow.compile(graph, "opencl") if sys.argv[1] == "before" else None

def work():
    try:
        found = executable or tallow.compile(graph, "opencl")
        print(found.run({"x": np.zeros(3, "f4")})["y"].tolist())
    except TallowError as error:
        print(type(error).__name__, error)

child = os.fork()
if child == 0:
    work()
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
work()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes here do not fork")
@pytest.mark.parametrize("first", ["before", "after"])
def test_opencl_does_not_survive_a_fork_and_says_so(usable, first):
    usable("opencl")
    done = subprocess.run([sys.executable, "-c", FORKED, first], capture_output=True, text=True, timeout=120)
    child, parent = done.stdout.splitlines()
    assert parent == "[1.0, 1.0, 1.0]"
    if first == "before":
        assert child.startswith("Unavailable OpenCL was in use when this process was forked")
    else:
        assert child == parent
