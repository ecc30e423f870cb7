"""The memory plan: where in one arena each temporary lives, so that the peak is small.

Best fit, largest first: a temporary takes the lowest gap that is free for its whole life.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ALIGNMENT = 64
LARGEST = 1 << 47  # bytes that a process can address


class Lifetime(NamedTuple):
    """A temporary of `size` bytes, written at step `first` and read for the last time at `last`."""

    size: int
    first: int
    last: int


class MemoryPlan(NamedTuple):
    """Byte offset of each temporary, in the order asked, and the size of the arena."""

    offsets: tuple[int, ...]
    size: int


def align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_memory(lifetimes: Sequence[Lifetime]) -> MemoryPlan:
    """Offsets such that no two temporaries alive at one step overlap; both ends of a life count, so a
    step never writes where it reads."""
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    total = 0
    for i in sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].size, lifetimes[i].first)):
        mine = lifetimes[i]
        busy = sorted(
            (offsets[j], offsets[j] + align(lifetimes[j].size))
            for j in placed
            if lifetimes[j].first <= mine.last and mine.first <= lifetimes[j].last
        )
        need = align(mine.size)
        best, best_gap, end = None, None, 0
        for low, high in busy:
            gap = low - end
            if gap >= need and (best_gap is None or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, high)
        offsets[i] = end if best is None else best
        placed.append(i)
        total = max(total, offsets[i] + need)
    return MemoryPlan(tuple(offsets), total)
