"""OrtMemoryInfo and OrtArenaCfg: descriptions of memory, which Tallow plans itself and takes no settings of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tallow.compat.onnxruntime.enumerations import OrtAllocatorType, OrtMemType
from tallow.compat.onnxruntime.said import cannot_honour

UNSET = -1


@dataclass(frozen=True, slots=True)
class OrtMemoryInfo:
    """Where a value lies."""

    name: str
    allocator_type: OrtAllocatorType
    device_id: int
    mem_type: OrtMemType


class OrtArenaCfg:
    """Settings of an arena: four numbers, or a dictionary of those that are set."""

    _NAMES = (
        *("max_mem", "arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"),
        *("initial_growth_chunk_size_bytes", "max_power_of_two_extend_bytes"),
    )
    __slots__ = _NAMES

    def __init__(self, *given: int | Mapping[str, int]):
        whole = len(given) == 1 and isinstance(given[0], Mapping)
        if not whole and len(given) != 4:
            raise TypeError(f"OrtArenaCfg(...): expected a dictionary or 4 numbers, got {given!r}")
        values = dict(given[0]) if whole else dict(zip(self._NAMES, given, strict=False))
        unknown = values.keys() - set(self._NAMES)
        if unknown:
            raise RuntimeError(f"Invalid OrtArenaCfg option: {', '.join(sorted(unknown))}")
        for name in self._NAMES:
            setattr(self, name, values.get(name, 0 if name == "max_mem" else UNSET))


def create_and_register_allocator(memory_info: OrtMemoryInfo, arena_cfg: OrtArenaCfg | None) -> None:
    cannot_honour("create_and_register_allocator(...)", "memory is planned before a run")


def create_and_register_allocator_v2(
    provider_type: str, memory_info: OrtMemoryInfo, options: Mapping[str, str], arena_cfg: OrtArenaCfg | None
) -> None:
    cannot_honour("create_and_register_allocator_v2(...)", "memory is planned before a run")
