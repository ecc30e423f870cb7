"""How many cores this process may really use: affinity and control groups counted in."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """The least of the cores of the affinity mask and the quota of the control group, at least 1."""
    return max(1, min(len(os.sched_getaffinity(0)), _quota() or os.cpu_count() or 1))


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Cores that the control group's CPU quota allows, rounded up; None without a quota."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else math.ceil(int(limit) / int(period))
    except (OSError, ValueError):
        pass
    try:
        limit = int((root / "cpu/cpu.cfs_quota_us").read_text())
        period = int((root / "cpu/cpu.cfs_period_us").read_text())
        return math.ceil(limit / period) if limit > 0 else None
    except (OSError, ValueError):
        return None
