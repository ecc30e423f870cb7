"""Operators that this program has added itself: the digest of each definition by name."""

from __future__ import annotations

OPERATORS: dict[str, str] = {}
