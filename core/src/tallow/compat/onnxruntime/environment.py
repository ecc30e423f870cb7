"""Functions of the module that concern the whole process."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

import tallow
from tallow.compat.onnxruntime.providers import get_available_providers
from tallow.compat.onnxruntime.said import cannot_honour

API = "1.32.0"  # of onnxruntime: what is here behaves as there


def get_version_string() -> str:
    return API


def get_build_info() -> str:
    return f"Tallow {tallow.__version__} with the Python interface of onnxruntime {API}"


def disable_telemetry_events() -> None:
    """There are none."""


def enable_telemetry_events() -> None:
    cannot_honour("enable_telemetry_events()", "Tallow sends nothing anywhere")


def set_seed(seed: int) -> None:
    cannot_honour(
        f"set_seed({seed})", "random operators follow the seed in the model, or are new in every run without"
    )


def set_global_thread_pool_sizes(intra_op_num_threads: int = 0, inter_op_num_threads: int = 0) -> None:
    cannot_honour(
        "set_global_thread_pool_sizes(...)", "a session has threads of its own: intra_op_num_threads"
    )


def preload_dlls(
    cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None
) -> None:
    """Nothing to load: a backend loads what it needs when a device is opened."""


def print_debug_info() -> None:
    """What a report of a fault should say of this installation."""
    print(f"onnxruntime version: {API}, {get_build_info()}\nplatform: {platform.platform()}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, at {Path(tallow.__file__).parent}")
    print(f"providers: {', '.join(get_available_providers())}")


def has_collective_ops() -> bool:
    return False


def get_ep_devices() -> list:
    """Devices of plugins of onnxruntime, of which there are none."""
    return []
