"""Lowerings for devices that run work-groups: graphics processors, and processors through OpenCL."""

from __future__ import annotations

from collections.abc import Mapping

from tallow.lower.group import Lowering
from tallow.lower.workgroup.products import lower_conv, lower_matmul

WORKGROUP: Mapping[str, Lowering] = {
    "matmul": lower_matmul,
    "conv": lower_conv,
}
PASSES = ()
