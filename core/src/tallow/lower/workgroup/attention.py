"""Attention as one kernel, for devices with vectors and with groups."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.workgroup.attention_shared import Shared
from tallow.lower.workgroup.attention_units import Units
from tallow.lower.workgroup.attention_vectors import Vectors
from tallow.target import Target

WIDEST = 512  # features of a head


def lower_attention(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """attention with heads of a constant number of features."""
    q, _, v = group.root.inputs[:3]
    sizes = (q.shape[3], v.shape[3])
    if any(not isinstance(size, int) or not 0 < size <= WIDEST for size in sizes):
        return Declined(f"attention with a head size that is not a constant of 1 to {WIDEST}")
    if target.vector_bytes:
        return Vectors(group, target).calls()
    for kind in (Units, Shared):
        writer = kind(group, target)
        if writer.fits:
            return writer.calls()
    return Declined("attention with heads too large for shared memory")
