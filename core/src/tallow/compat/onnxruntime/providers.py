"""Execution providers: onnxruntime's names of devices, each a backend of Tallow that is usable here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache

from tallow import plugins
from tallow.compat.onnxruntime.said import cannot_honour
from tallow.errors import TallowError

SUFFIX = "ExecutionProvider"
HOST = "cpu"
DEVICE_ID = "device_id"
KNOWN = tuple(
    f"{name}{SUFFIX}"
    for name in (
        *("Tensorrt", "CUDA", "MIGraphX", "OpenVINO", "Dnnl", "VitisAI", "QNN", "Nnapi", "VSINPU", "Js"),
        *("CoreML", "Dml", "WebGpu", "ArmNN", "ACL", "Rknpu", "WebNN", "Xnnpack", "CANN", "Azure", "CPU"),
    )
)


def get_all_providers() -> list[str]:
    """Every name that onnxruntime knows, and those of Tallow's backends that it does not."""
    return [*(n for n in map(provider_of, _backends()) if n not in KNOWN), *KNOWN]


def get_available_providers() -> list[str]:
    """Those with a backend that has a device here; the host last."""
    return [provider_of(name) for name in (*_backends(), HOST) if _usable(name)]


def get_device() -> str:
    return "GPU" if "CUDAExecutionProvider" in get_available_providers() else "CPU"


def _backends() -> list[str]:
    return sorted(name for name in plugins.host().tables["backend"] if name != HOST)


@cache
def _usable(backend: str) -> bool:
    try:
        return bool(plugins.backend(backend).devices())
    except TallowError:
        return False


def provider_of(backend: str) -> str:
    """The provider of a backend: onnxruntime's spelling where it has the name."""
    ours = f"{backend.capitalize()}{SUFFIX}"
    return next((name for name in KNOWN if name.lower() == ours.lower()), ours)


def backend_of(provider: str) -> str | None:
    """The usable backend of a provider's name, in any case of letters."""
    name = provider.lower().removesuffix(SUFFIX.lower())
    return name if name in (*_backends(), HOST) and _usable(name) else None


def check_and_normalize_provider_args(
    providers: Sequence | None, provider_options: Sequence | None, available: Sequence[str] | None = None
) -> tuple[list[str], list[dict[str, str]]]:
    """Names and the options of each; ValueError for what is no list of names or of (name, options), a warning
    for a name that is not available or comes twice."""
    if providers is None:
        return [], []
    if not isinstance(providers, Sequence):
        raise ValueError("'providers' should be a sequence.")
    pairs = _with_options(providers, provider_options) if provider_options is not None else _pairs(providers)
    found: dict[str, dict[str, str]] = {}
    for name, options in pairs:
        if backend_of(name) is None if available is None else name not in available:
            listed = ", ".join(get_available_providers() if available is None else available)
            warnings.warn(
                f"Specified provider '{name}' is not in available provider names."
                f"Available providers: '{listed}'",
                stacklevel=5,
            )
        if name in found:
            warnings.warn(f"Duplicate provider '{name}' encountered, ignoring.", stacklevel=5)
            continue
        found[name] = {str(key): str(value) for key, value in options.items()}
    return list(found), list(found.values())


def _pairs(providers: Sequence) -> list[tuple[str, dict]]:
    pairs = [(p, {}) if isinstance(p, str) else p for p in providers]
    for pair in pairs:
        whole = isinstance(pair, tuple) and len(pair) == 2
        if not (whole and isinstance(pair[0], str) and isinstance(pair[1], dict)):
            raise ValueError("'providers' values must be either strings or (string, dict) tuples.")
    return pairs


def _with_options(providers: Sequence, options: Sequence) -> list[tuple[str, dict]]:
    if not isinstance(options, Sequence):
        raise ValueError("'provider_options' should be a sequence.")
    if len(providers) != len(options):
        raise ValueError("'providers' and 'provider_options' should be the same length if both are given.")
    if not all(isinstance(name, str) for name in providers):
        raise ValueError("Only string values for 'providers' are supported if 'provider_options' is given.")
    if not all(isinstance(each, dict) for each in options):
        raise ValueError("'provider_options' values must be dicts.")
    return list(zip(providers, options, strict=True))


def choose(names: Sequence[str], options: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str]]:
    """The devices to run on, in order of preference, and the providers that a session reports: the usable ones
    of `names`, and after them the host. RuntimeError for a name that nobody knows, or a device number that is
    not there."""
    for name in names:
        if backend_of(name) is None and name not in KNOWN:
            raise RuntimeError(f"Unknown Provider Type: {name}")
    usable: dict[str, Mapping[str, str]] = {}
    for backend, given in zip(map(backend_of, names), options, strict=True):
        if backend is not None:
            usable.setdefault(backend, given)
    reported = [provider_of(backend) for backend in dict.fromkeys([*usable, HOST])]
    if not usable or _usable(HOST):
        usable.setdefault(HOST, {})
    return [_device(backend, given) for backend, given in usable.items()], reported


def _device(backend: str, options: Mapping[str, str]) -> str:
    """The device of a backend that `device_id` names, by default its first."""
    ignored = [key for key in options if key != DEVICE_ID or backend == HOST]
    if ignored:
        cannot_honour(
            f"options of {provider_of(backend)} ({', '.join(ignored)})", "a backend of Tallow takes none"
        )
    devices = [device.name for device in plugins.backend(backend).devices()]
    number = options.get(DEVICE_ID, "0") if backend != HOST else "0"
    if not number.isdecimal() or int(number) >= len(devices):
        raise RuntimeError(f"{provider_of(backend)} has no device {number}: it has {', '.join(devices)}")
    return devices[int(number)]
