"""Arrays for results with a pattern in them and around them: what is not written is seen, and what is beyond."""

from __future__ import annotations

import numpy as np

AROUND, PATTERN = 4096, 0xA5  # bytes before and after; the byte that fills everything


class Guarded:
    """`array` is shaped like another, starts at a multiple of 64 bytes and is filled with the pattern."""

    def __init__(self, like: np.ndarray):
        raw = np.full(like.nbytes + 2 * AROUND, PATTERN, np.uint8)
        start = AROUND // 2 + -(raw.ctypes.data + AROUND // 2) % 64
        self.array = raw[start : start + like.nbytes].view(like.dtype).reshape(like.shape)
        self._around = raw[:start], raw[start + like.nbytes :]

    def broken(self) -> bool:
        """Whether anything outside the array has changed."""
        return any((part != PATTERN).any() for part in self._around)
