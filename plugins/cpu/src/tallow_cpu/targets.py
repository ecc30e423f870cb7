"""CPU targets by name: instruction sets, what LLVM must be told, and how this host is recognised.

A name is a base (`x86-64-v3`, `aarch64-linux-gnu`), or a processor (`znver4`) that stands for a base and
its own tuning, and may add instruction sets: `x86-64-v4+avx512vnni`.
"""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Iterable
from typing import NamedTuple

from tallow.backend import Target
from tallow.errors import Unavailable


class Base(NamedTuple):
    """An instruction set level: LLVM's triple and processor for it, and the vector width it has. `level` is
    LLVM's level of optimisation: kernels are so explicit that the first gives x86-64 code as fast as the
    second, in three quarters of the time; on aarch64 it spills."""

    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bytes: int
    registers: int
    level: int = 1


_LINUX = "x86_64-unknown-linux-gnu"
_V1: tuple[str, ...] = ("sse2",)
_V2 = (*_V1, "cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

# x86-64 micro-architecture levels of the System V ABI; Arm's 64-bit baseline.
BASES = {
    "x86-64": Base(_LINUX, "x86-64", _V1, 16, 16),
    "x86-64-v2": Base(_LINUX, "x86-64-v2", _V2, 16, 16),
    "x86-64-v3": Base(_LINUX, "x86-64-v3", _V3, 32, 16),
    "x86-64-v4": Base(_LINUX, "x86-64-v4", _V4, 64, 32),
    "aarch64-linux-gnu": Base("aarch64-unknown-linux-gnu", "generic", ("neon",), 16, 32, 2),
}
# processor -> base, instruction sets beyond it; LLVM tunes for the processor's name
PROCESSORS = {
    "haswell": ("x86-64-v3", ()),
    "skylake": ("x86-64-v3", ()),
    "znver2": ("x86-64-v3", ()),
    "znver3": ("x86-64-v3", ()),
    "skylake-avx512": ("x86-64-v4", ()),
    "cascadelake": ("x86-64-v4", ("avx512vnni",)),
    "icelake-server": ("x86-64-v4", ("avx512vnni",)),
    "sapphirerapids": ("x86-64-v4", ("avx512vnni", "avx512bf16", "avxvnni")),
    "znver4": ("x86-64-v4", ("avx512vnni", "avx512bf16")),
    "znver5": ("x86-64-v4", ("avx512vnni", "avx512bf16", "avxvnni")),
    "cortex-a72": ("aarch64-linux-gnu", ()),
    "neoverse-n1": ("aarch64-linux-gnu", ("dotprod",)),
    "neoverse-v1": ("aarch64-linux-gnu", ("dotprod", "bf16", "i8mm")),
    "neoverse-v2": ("aarch64-linux-gnu", ("dotprod", "bf16", "i8mm")),
}
# Instruction sets as /proc/cpuinfo spells them, where that differs from LLVM's name.
_FLAGS = {
    **{
        "sse3": "pni",
        "sse4.1": "sse4_1",
        "sse4.2": "sse4_2",
        "sahf": "lahf_lm",
        "bmi": "bmi1",
        "lzcnt": "abm",
    },
    **{"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16", "avxvnni": "avx_vnni"},
    **{"neon": "asimd", "dotprod": "asimddp"},
}
_EXTRA = {"x86_64": ("avx512vnni", "avx512bf16", "avxvnni"), "aarch64": ("dotprod", "bf16", "i8mm")}


def make_target(arch: str | None = None) -> Target:
    """The target of a name, or this host's: its best base and what kernels gain from beyond it.
    Unavailable with the known names."""
    name, *added = (arch or host_arch()).split("+")
    base_name, features = PROCESSORS.get(name, (name, ()))
    if base_name not in BASES:
        known = ", ".join((*BASES, *PROCESSORS))
        raise Unavailable(f"no CPU target {name!r}: expected one of {known}, and +features after it")
    base = BASES[base_name]
    unknown = [f for f in added if f not in _EXTRA[machine_of(base.triple)]]
    if unknown:
        known = ", ".join(_EXTRA[machine_of(base.triple)])
        raise Unavailable(f"no feature {unknown[0]!r} for CPU target {name}: expected {known}")
    features = tuple(dict.fromkeys((*base.features, *features, *added)))
    limits = {
        "l1": 32 << 10,
        "l2": (1 << 20) if base.vector_bytes == 64 else (512 << 10),
        "registers": base.registers,
    }
    return Target("cpu", "+".join((name, *added)), features, base.vector_bytes, limits)


def base_of(target: Target) -> Base:
    name = target.arch.split("+")[0]
    return BASES[PROCESSORS.get(name, (name, ()))[0]]


def tuning(target: Target) -> str:
    """The processor that LLVM schedules for."""
    name = target.arch.split("+")[0]
    return name if name in PROCESSORS else base_of(target).cpu


def machine_of(triple: str) -> str:
    return triple.split("-")[0]


def abilities(target: Target) -> frozenset[str]:
    """What single instructions do there: "fma", "round" (floor and its like), "half" (f16 to f32),
    "pairs" (sums of two products of 16 bits) and "dot_bytes" (of four of 8 bits)."""
    if machine_of(base_of(target).triple) == "aarch64":
        return frozenset({"fma", "round", "half"})
    needs = {"fma": "fma", "round": "sse4.1", "half": "f16c", "pairs": "sse2", "dot_bytes": "avx512vnni"}
    return frozenset(ability for ability, feature in needs.items() if feature in target.features)


def missing_features(features: Iterable[str]) -> list[str]:
    """Those instruction sets that this machine lacks."""
    flags = host_flags()
    return [f for f in features if _FLAGS.get(f, f) not in flags]


def host_arch() -> str:
    """This host's target by name."""
    base = host_base()
    gained = [] if base != "x86-64-v4" or missing_features(["avx512vnni"]) else ["avx512vnni"]
    return "+".join((base, *gained))


def host_model() -> str:
    """This machine's processor, by all that says how fast code runs on it."""
    name = cpuinfo("model name") or platform.machine()
    keys = ("cpu family", "model\t", "stepping", "CPU implementer", "CPU part")
    return " ".join([name, *(f"{key.strip()} {found}" for key in keys if (found := cpuinfo(key)))])


def host_base() -> str:
    """The name of the widest base that this machine runs; Unavailable where there is none."""
    if sys.platform != "linux":
        raise Unavailable(
            f"tallow-cpu runs on Linux for now, and this is {sys.platform}: name a target to compile for"
        )
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    fitting = [
        n for n, b in BASES.items() if machine_of(b.triple) == machine and not missing_features(b.features)
    ]
    if not fitting:
        raise Unavailable(
            f"no CPU target fits this {platform.machine()} machine: expected one of {', '.join(BASES)}"
        )
    return fitting[-1]


def cpuinfo(*keys: str) -> str:
    """The first value in /proc/cpuinfo under one of the keys, or ""."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(keys)), "")
    except OSError:
        return ""


@functools.cache
def host_flags() -> frozenset[str]:
    return frozenset(cpuinfo("flags", "Features").split())
