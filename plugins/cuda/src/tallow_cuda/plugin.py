"""The CUDA backend as a plugin of Tallow."""

from __future__ import annotations

from tallow.hookspecs import hook

TALLOW_API = 1


def _make():
    # Deferred so that listing plugins does not import lowerings.
    from tallow_cuda.backend import CudaBackend

    return CudaBackend()


@hook
def register_backends(register) -> None:
    register("cuda", _make)
