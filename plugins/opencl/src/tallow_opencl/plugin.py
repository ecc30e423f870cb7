"""The OpenCL backend as a plugin of Tallow."""

from __future__ import annotations

from tallow.hookspecs import hook

TALLOW_API = 1


def _make():
    # Deferred so that listing plugins does not import lowerings.
    from tallow_opencl.backend import OpenclBackend

    return OpenclBackend()


@hook
def register_backends(register) -> None:
    register("opencl", _make)
