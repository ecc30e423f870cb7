"""Lowerings for devices that run work-groups: graphics processors, and processors through OpenCL."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tallow.graph import Graph
from tallow.lower.group import Lowering
from tallow.lower.workgroup.layout import convert_windows
from tallow.lower.workgroup.products import lower_conv, lower_matmul
from tallow.passes.channels_last import sink_transposes

WORKGROUP: Mapping[str, Lowering] = {
    "matmul": lower_matmul,
    "conv": lower_conv,
    "conv_last": lower_conv,
}
PASSES: tuple[Callable[[Graph, object], Graph], ...] = (convert_windows, sink_transposes)
