"""CUDA targets: `sm_XX`, the compute capability that machine code is made for, and what follows from it.

Code for `sm_XY` runs on GPUs of the same X and at least that Y; a letter after it (`sm_90a`) binds it to
that one capability. What is less exact has to be asked for: `+tf32` lets products of f32 round their operands
to 11 bits on tensor cores, `+relu` lets cuBLASLt apply ReLU, of which it does not say what becomes of NaN.
"""

from __future__ import annotations

import re

from tallow.backend import Target
from tallow.errors import Unavailable

OLDEST = 70  # threads of a warp advance on their own from here on
EXAMPLE = "sm_90"
FLAGS = ("tf32", "relu")
THREADS = 1024  # of a block
WARP = 32  # threads that exchange values and multiply matrices together
SHARED = 48 << 10  # bytes that a block may declare
_NAME = re.compile(r"sm_(\d+)(\d)([af]?)((?:\+(?:tf32|relu))*)")
# Multiprocessors of the largest common GPU of a capability.
_UNITS = {70: 80, 75: 72, 80: 108, 86: 84, 87: 16, 89: 128, 90: 132, 100: 148, 103: 148, 120: 170}


def is_target_name(text: str) -> bool:
    """Whether a text is a target's name rather than a device's."""
    return text.startswith(("sm_", "compute_"))


def capability(name: str) -> tuple[int, int, str]:
    """Major and minor number and letter of a target's name; Unavailable says what names look like."""
    found = _NAME.fullmatch(name)
    if found is None or int(found[1] + found[2]) < OLDEST:
        raise Unavailable(
            f"no CUDA target {name!r}: expected sm_XY for compute capability X.Y of {OLDEST / 10} or newer, "
            f"such as {EXAMPLE}, and after it any of {', '.join(f'+{f}' for f in FLAGS)}"
        )
    return int(found[1]), int(found[2]), found[3]


def make_target(name: str) -> Target:
    """The target of a name. Its features are the operand types that its tensor cores multiply, and the
    flags that were asked for; before 8.0 there are no tensor cores for tf32."""
    major, minor, _ = capability(name)
    features = ("f16", "bf16") if major >= 8 else ("f16",)
    asked = name.split("+")[1:]
    features += tuple(flag for flag in FLAGS if flag in asked and (flag != "tf32" or major >= 8))
    units = _UNITS.get(10 * major + minor, 64)
    limits = {"group": THREADS, "subgroup": WARP, "shared": SHARED, "units": units}
    return Target("cuda", name, features, 0, limits)


def architecture(name: str) -> str:
    """What the compiler is told of a target."""
    return name.partition("+")[0]


def runs_on(name: str, have: str) -> bool:
    """Whether machine code for one target runs on a device of another."""
    major, minor, letter = capability(name)
    its_major, its_minor, _ = capability(have)
    if letter == "a":
        return (major, minor) == (its_major, its_minor)
    return major == its_major and minor <= its_minor
