"""Devices for tests of placement: interpreters that refuse some operators, on memory of their own or the host's."""

from __future__ import annotations

from functools import cache

import numpy as np

from tallow import plugins
from tallow.backend import DeviceInfo, Target
from tallow.builder import Builder
from tallow.dim import symbol
from tallow.graph import TensorType
from tallow.schedule.program import HostStep, PlacedStep, programs_of
from tallow_fake import ApartDevice, FakeBackend, FakeDevice


@cache
def memory_of(name: str) -> ApartDevice:
    return ApartDevice(DeviceInfo(name, "an interpreter with memory of its own", 1 << 30))


class Picky(FakeBackend):
    """A backend without kernels for some operators."""

    def __init__(self, name: str, refused=(), kind: str = "processor"):
        self.name, self.refused, self.which = name, frozenset(refused), kind

    def devices(self):
        return [self.open(self.name).info]

    def target(self, arch: str | None = None) -> Target:
        return Target(self.name, "any")

    def kind(self, target: Target) -> str:
        return self.which

    def supports(self, node, target: Target) -> str | None:
        if node.op in self.refused:
            return f"{self.name} knows no {node.op}"
        return super().supports(node, target)

    def open(self, device: str):
        return FakeDevice(DeviceInfo(self.name, "", 0)) if self.which == "host" else memory_of(self.name)


def register(name: str, refused=(), kind: str = "processor") -> str:
    """Makes a device known; the test removes it with `forget`."""
    plugins.installed().register("backend", name, lambda: Picky(name, refused, kind))
    return name


def forget() -> None:
    table = plugins.installed().tables["backend"]
    for name in [n for n, entry in table.items() if entry.distribution == "this program"]:
        del table[name]


def places(run) -> list[str]:
    """Where the steps of a plan run, copies left out, repetitions counted once."""
    found: list[str] = []
    for step in run.plan.steps:
        if step.place != "copy" and step.place not in found[-1:]:
            found.append(step.place)
    return found


def placed_steps(run) -> list[PlacedStep]:
    found = [part.steps for _, part in programs_of(run.compiled.program)]
    return [step for steps in found for step in steps if isinstance(step, PlacedStep)]


def host_steps(run) -> list[HostStep]:
    found = [part.steps for _, part in programs_of(run.compiled.program)]
    return [step for steps in found for step in steps if isinstance(step, HostStep)]


def branching():
    b = Builder()
    flag, x = b.input("flag", "bool", []), b.input("x", "f32", ["n"])
    regions = {}
    for name, op in {"then": "sin", "otherwise": "exp"}.items():
        inner = Builder(name, b)
        regions[name] = inner.finish({"z": inner.mul(inner.emit(op, x), b.constant(np.float32(3)))})
    y = b.emit("if", flag, **regions, types=(x.type,))
    return b.finish({"y": b.neg(y)})


def looping(trips=None):
    b = Builder()
    count = b.input("trips", "i64", []) if trips is None else b.constant(np.int64(trips))
    x = b.input("x", "f32", ["n"])
    inner = Builder("body", b)
    inner.input("trip", "i64", [])
    go, state = inner.input("go", "bool", []), inner.input("state", "f32", x.shape)
    body = inner.finish({"go": go, "state": inner.sin(inner.add(state, x)), "seen": inner.neg(state)})
    seen = TensorType(x.dtype, (symbol("t"), *x.shape))
    final, stacked = b.emit(
        "loop", count, b.constant(np.asarray(True)), x, body=body, types=(x.type, seen), defines=("t",)
    )
    return b.finish({"final": b.neg(final), "stacked": stacked})
