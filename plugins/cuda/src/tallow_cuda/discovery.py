"""Discovery: the GPUs of this machine, by the numbers that CUDA gives them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tallow.backend import DeviceInfo, Target
from tallow.errors import Unavailable
from tallow_cuda import libraries
from tallow_cuda.targets import OLDEST, make_target


@dataclass(frozen=True, slots=True)
class Found:
    """One usable device: CUDA's number of it, how users name it, and the target that it is."""

    number: int
    info: DeviceInfo
    target: Target


_process: int | None = None  # the one that CUDA was first used in


def check_process() -> None:
    """CUDA's state does not survive a fork: calls in the child would fail one by one."""
    global _process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid():
        raise Unavailable(
            "CUDA was in use when this process was forked, and does not survive that: start the process by "
            '"spawn", or fork before the first use of CUDA'
        )


def devices() -> list[Found]:
    """The devices that are here; Unavailable with the reason when there are none."""
    cuda = libraries.cupy().cuda
    check_process()
    try:
        count = cuda.runtime.getDeviceCount()
    except cuda.runtime.CUDARuntimeError as error:
        raise Unavailable(
            f"no CUDA device is here ({error}): install the driver of an NVIDIA GPU, or compile for one that is "
            'elsewhere by its target, as in "cuda:sm_90"'
        ) from None
    every = [_found(number, cuda.runtime.getDeviceProperties(number)) for number in range(count)]
    usable = [found for found in every if found is not None]
    if not usable:
        raise Unavailable(f"no CUDA device of compute capability {OLDEST / 10} or newer is here")
    return usable


def select(which: str | None) -> Found:
    """The device of a number, or the first: a GPU is as good as its neighbours. Unavailable lists those here."""
    here = devices()
    if which is None:
        return here[0]
    for found in here:
        if which.isdecimal() and found.number == int(which):
            return found
    listed = ", ".join(f"{found.info.name} ({found.info.description})" for found in here)
    raise Unavailable(
        f"no CUDA device {which!r} is here: expected one of {listed}, or a target such as sm_90"
    )


def _found(number: int, facts: dict) -> Found | None:
    if 10 * facts["major"] + facts["minor"] < OLDEST:
        return None
    target = make_target(f"sm_{facts['major']}{facts['minor']}")
    name = facts["name"].decode() if isinstance(facts["name"], bytes) else facts["name"]
    units = facts["multiProcessorCount"]
    described = f"{name}, {target.arch}, {units} multiprocessors"
    info = DeviceInfo(f"cuda:{number}", described, facts["totalGlobalMem"], target.features)
    return Found(number, info, target)
