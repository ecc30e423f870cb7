"""How many cores this process may really use: affinity and control groups counted in."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """The least of the cores of the affinity mask and the quota of the control group, at least 1."""
    return max(1, min(len(os.sched_getaffinity(0)), quota() or os.cpu_count() or 1))


def quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Cores that the CPU quotas of the process's control groups allow, rounded up; None without one."""
    limits = [
        limit
        for folder in _folders(root, membership)
        for limit in (_version2(folder), _version1(folder))
        if limit
    ]
    return min(limits, default=None)


def _folders(root: Path, membership: Path) -> list[Path]:
    """The folders of the process's groups and of all groups around them."""
    found = {root, root / "cpu"}
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        folder = top / path.strip("/")
        found.update([folder, *(p for p in folder.parents if p.is_relative_to(top))])
    return sorted(found)


def _version2(folder: Path) -> int | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else math.ceil(int(limit) / int(period))
    except (OSError, ValueError):
        return None


def _version1(folder: Path) -> int | None:
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return math.ceil(limit / period) if limit > 0 else None
    except (OSError, ValueError):
        return None
