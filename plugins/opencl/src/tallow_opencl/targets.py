"""OpenCL targets by name: what code depends on in a device.

A name is a kind of device and what it has: `gpu+fp64+group256+shared48+vector0`. `group` is the largest
work-group that lowerings may use, `shared` the KiB of local memory, `vector` the bytes of a vector on
devices whose vectors the code has to spell, `buffers` the most buffers of one kernel, `units` the work-groups
that run at once. `generic` is what any device of OpenCL 1.2 with a full profile can do.
"""

from __future__ import annotations

import re

from tallow.errors import Unavailable
from tallow.target import Target

KINDS = ("generic", "gpu", "cpu", "accelerator")
FLAGS = ("fp64", "fp16")
SIZES = {"group": 64, "shared": 32, "vector": 0, "buffers": 48, "units": 16}
_SIZE = re.compile(rf"({'|'.join(SIZES)})(\d+)")


def is_target_name(text: str) -> bool:
    """Whether a text is a target's name rather than a device's."""
    return text == "generic" or "+" in text


def make_target(name: str) -> Target:
    """The target of a name; Unavailable says what names are made of."""
    kind, *parts = name.split("+")
    sizes, flags = dict(SIZES), []
    known = kind in KINDS
    for part in parts:
        found = _SIZE.fullmatch(part)
        if found is not None:
            sizes[found[1]] = int(found[2])
        else:
            known &= part in FLAGS
            flags.append(part)
    if not known:
        raise Unavailable(
            f"no OpenCL target {name!r}: expected {', '.join(KINDS)}, and after it any of "
            f"{', '.join(f'+{flag}' for flag in FLAGS)}, {', '.join(f'+{size}N' for size in SIZES)}"
        )
    limits = {name: sizes[name] for name in ("group", "buffers", "units")}
    limits["shared"] = sizes["shared"] << 10
    if sizes["vector"]:
        limits["registers"] = 32 if sizes["vector"] == 64 else 16
    return Target("opencl", name, (kind, *flags), sizes["vector"], limits)


def name_of(kind: str, flags: tuple[str, ...], sizes: dict[str, int]) -> str:
    """The name of the target with these properties."""
    return "+".join((kind, *flags, *(f"{name}{sizes[name]}" for name in SIZES)))


def shortcomings(target: Target, have: Target) -> list[str]:
    """What code for `target` may need and a device of target `have` lacks."""
    wanted = set(target.features) & set(FLAGS) - set(have.features)
    lacking = sorted(wanted)
    for name in ("group", "shared", "buffers"):
        if target.limits[name] > have.limits[name]:
            lacking.append(f"{name} of {target.limits[name]} (it has {have.limits[name]})")
    return lacking
