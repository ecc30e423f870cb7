"""The memory plan: where in one arena each temporary lives, so that the peak is small.

Best fit, largest first: a temporary takes the lowest gap that is free for its whole life.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ALIGNMENT = 64
LARGEST = 1 << 47  # bytes that a process can address


class Life(NamedTuple):
    """A temporary is written at step `first` and read for the last time at `last`."""

    first: int
    last: int


class MemoryPlan(NamedTuple):
    """Byte offset of each temporary, in the order asked, and the size of the arena."""

    offsets: tuple[int, ...]
    size: int


def align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Planner:
    """Plans memory for temporaries of certain lives, for any sizes: no two alive at one step overlap. Both
    ends of a life count, so a step never writes where it reads."""

    def __init__(self, lives: Sequence[Life]):
        self.lives = lives
        self.beside: list[list[int]] = [[] for _ in lives]  # those alive at one time with each
        alive: list[int] = []
        for i in sorted(range(len(lives)), key=lambda i: lives[i].first):
            alive = [j for j in alive if lives[j].last >= lives[i].first]
            self.beside[i] += alive
            for j in alive:
                self.beside[j].append(i)
            alive.append(i)

    def plan(self, sizes: Sequence[int]) -> MemoryPlan:
        """`sizes` in bytes."""
        lives, beside = self.lives, self.beside
        offsets: list[int] = [0] * len(sizes)
        ends: list[int | None] = [None] * len(sizes)  # None while there is no place yet
        for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], lives[i].first)):
            need = align(sizes[i])
            best, best_gap, end = None, None, 0
            for low, high in sorted([(offsets[j], ends[j]) for j in beside[i] if ends[j] is not None]):
                gap = low - end
                if gap >= need and (best_gap is None or gap < best_gap):
                    best, best_gap = end, gap
                if high > end:
                    end = high
            offsets[i] = end if best is None else best
            ends[i] = offsets[i] + need
        return MemoryPlan(tuple(offsets), max((end for end in ends if end is not None), default=0))
