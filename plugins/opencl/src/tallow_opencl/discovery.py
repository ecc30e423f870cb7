"""Discovery: the OpenCL devices of this machine, in an order that does not depend on their drivers' moods."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass

from tallow.backend import DeviceInfo
from tallow.errors import Unavailable
from tallow.target import Target
from tallow_opencl import pocl
from tallow_opencl.targets import make_target, name_of

OLDEST = (1, 2)
LARGEST_GROUP, LARGEST_SHARED = 1024, 64 << 10
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Found:
    """One usable device: pyopencl's object, how users name it, and the target that it is."""

    device: object
    info: DeviceInfo
    target: Target
    words: str  # what `opencl:NAME` is looked for in


@dataclass(slots=True)
class _Inventory:
    """What one look at the drivers found; OpenCL's state is of no use in a forked process."""

    process: int
    devices: list[Found]
    refused: list[str]


_inventory: _Inventory | None = None


def pyopencl():
    """The module; Unavailable says what to install."""
    try:
        import pyopencl
    except ImportError as error:
        raise Unavailable(
            f"pyopencl cannot be imported ({error}): pip install pyopencl, or 'tallow-opencl[pocl]' to run "
            "OpenCL on the CPU"
        ) from None
    return pyopencl


def inventory() -> _Inventory:
    """What is here; Unavailable in a process forked from one that had OpenCL in use."""
    global _inventory
    with _lock:
        if _inventory is None:
            _inventory = _look()
    check_process()
    return _inventory


def check_process() -> None:
    """Drivers keep threads, which a fork does not copy: calls there would wait for ever."""
    if _inventory is not None and _inventory.process != os.getpid():
        raise Unavailable(
            "OpenCL was in use when this process was forked, and its drivers do not survive that: start the "
            'process by "spawn", or fork before the first use of OpenCL'
        )


def _renew_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_after_fork)


def devices() -> list[Found]:
    """The devices that are here; Unavailable with the reason when there are none."""
    found = inventory()
    if not found.devices:
        reasons = "; ".join(found.refused)
        raise Unavailable(
            f"no OpenCL device is here{f' ({reasons})' if reasons else ''}: install the OpenCL driver of your "
            "GPU's vendor, or pip install 'tallow-opencl[pocl]' to run on the CPU"
        )
    return found.devices


def select(which: str | None) -> Found:
    """The one device that a text names: its number, its kind (`gpu`), or a part of its or its platform's
    name; None for the only one. Unavailable lists what is here if there is none or more than one."""
    here = devices()
    if which is None:
        matches = here
    elif which.isdecimal():
        matches = [found for found in here if found.info.name == f"opencl:{int(which)}"]
    else:
        kin = [found for found in here if found.target.features[0] == which.lower()]
        matches = kin or [found for found in here if which.lower() in found.words]
    if len(matches) == 1:
        return matches[0]
    listed = ", ".join(f"{found.info.name} ({found.info.description})" for found in here)
    if not matches:
        raise Unavailable(f"no OpenCL device {which!r} is here: expected one of {listed}")
    asked = "several OpenCL devices are here" if which is None else f"{which!r} names several OpenCL devices"
    raise Unavailable(f"{asked}: say which by number or more of its name, of {listed}")


def _look() -> _Inventory:
    cl = pyopencl()
    rows, refused, lost = [], [], None
    try:
        pocl.teach_host()
    except OSError as error:
        lost = f"its LLVM does not know this processor and cannot be taught ({error})"
    try:
        platforms = cl.get_platforms()
    except cl.Error:  # the loader found no driver
        platforms = []
    for platform in platforms:
        try:
            here = platform.get_devices()
        except cl.Error:
            here = []
        if lost and pocl.VERSION in platform.version:
            refused.append(f"{platform.name}: {lost}")
            continue
        if not here:
            refused.append(f"{platform.name}: it has no devices")
        for device in here:
            reason = _unusable(device)
            if reason:
                refused.append(f"{platform.name}, {device.name.strip()}: {reason}")
            else:
                rows.append((platform.name, device.name, platform.version, len(rows), device))
    return _Inventory(os.getpid(), [_found(n, row[-1], cl) for n, row in enumerate(sorted(rows))], refused)


def version_of(text: str) -> tuple[int, int]:
    """The numbers of `OpenCL 1.2 ...`."""
    found = re.match(r"OpenCL (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _unusable(device) -> str | None:
    if version_of(device.version) < OLDEST:
        return f"{device.version} is older than OpenCL 1.2"
    if not device.available or not device.compiler_available:
        return "it or its compiler is not available"
    if not device.endian_little:
        return "it is big-endian"
    return None


def _found(number: int, device, cl) -> Found:
    kinds = cl.device_type
    kind = next((k for k in ("cpu", "gpu") if device.type & getattr(kinds, k.upper())), "accelerator")
    extensions = device.extensions.split()
    flags = tuple(f for f in ("fp64", "fp16") if f"cl_khr_{f}" in extensions)
    sizes = {
        "group": min(device.max_work_group_size, LARGEST_GROUP),
        "shared": min(device.local_mem_size, LARGEST_SHARED) >> 10,
        "vector": 4 * min(device.native_vector_width_float, 16) if kind == "cpu" else 0,
        "buffers": min(device.max_parameter_size - 256, 4096) // 16,
        "units": device.max_compute_units,
    }
    platform = device.platform
    info = DeviceInfo(
        f"opencl:{number}",
        f"{device.name.strip()}, {platform.name.strip()}, {platform.version.strip()}",
        device.global_mem_size,
        (kind, *flags),
    )
    words = " ".join((device.name, platform.name, platform.vendor, platform.version)).lower()
    return Found(device, info, make_target(name_of(kind, flags, sizes)), words)
