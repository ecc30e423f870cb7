"""The Python modules and headers of CUDA that this backend works with, imported when they are needed."""

from __future__ import annotations

import ctypes
import functools

from tallow.errors import Unavailable

INSTALL = "pip install 'tallow-cuda[cuda12]', or 'tallow-cuda[cuda13]' for drivers of CUDA 13"


@functools.cache
def cupy():
    """The module; Unavailable says what to install."""
    try:
        import cupy
        import cupy.cuda
    except ImportError as error:
        raise Unavailable(f"cupy cannot be imported ({error}): {INSTALL}") from None
    return cupy


@functools.cache
def nvrtc():
    """cupy's module of the compiler, once the compiler's library is found."""
    module = cupy().cuda.nvrtc
    try:
        module.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise Unavailable(f"CUDA's compiler NVRTC cannot be loaded ({error}): {INSTALL}") from None
    return module


@functools.cache
def headers() -> str:
    """The folder of CUDA's own headers; Unavailable when there is none."""
    cupy()
    from cuda import pathfinder

    found = pathfinder.find_nvidia_header_directory("cudart")
    if found is None:
        raise Unavailable(f"CUDA's headers (cuda_fp16.h) are not installed: {INSTALL}")
    return found


@functools.cache
def cublaslt() -> ctypes.CDLL:
    """The library of matrix products; Unavailable says what to install."""
    cupy()
    from cuda import pathfinder

    try:
        found = pathfinder.load_nvidia_dynamic_lib("cublasLt")
    except pathfinder.DynamicLibNotFoundError as error:
        raise Unavailable(
            f"CUDA's library of matrix products, cuBLASLt, is not installed ({error}): {INSTALL}"
        ) from None
    return ctypes.CDLL(found.abs_path)
