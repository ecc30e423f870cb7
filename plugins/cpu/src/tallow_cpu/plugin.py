"""The CPU backend as a plugin of Tallow."""

from __future__ import annotations

from tallow.hookspecs import hook

TALLOW_API = 1


def _make():
    # Deferred so that listing plugins does not import a compiler.
    from tallow_cpu.backend import CpuBackend

    return CpuBackend()


@hook
def register_backends(register) -> None:
    register("cpu", _make)


@hook
def register_ops(register) -> None:
    from tallow_cpu.ops import OPS

    for row in OPS:
        register(row)
