"""Lowerings for devices that run work-groups: graphics processors, and processors through OpenCL."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tallow.graph import Graph
from tallow.lower.group import Lowering
from tallow.lower.workgroup.attention import lower_attention
from tallow.lower.workgroup.elements import lower_elements
from tallow.lower.workgroup.layout import convert_windows, pack_weights
from tallow.lower.workgroup.products import lower_conv, lower_matmul
from tallow.lower.workgroup.rows import (
    lower_concat,
    lower_extreme,
    lower_norm,
    lower_reduction,
    lower_softmax,
)
from tallow.lower.workgroup.windows import lower_pool
from tallow.passes.channels_last import sink_transposes

WORKGROUP: Mapping[str, Lowering] = {
    "pointwise": lower_elements,
    "matmul": lower_matmul,
    "conv": lower_conv,
    "matmul_panels": lower_matmul,
    "conv_last": lower_conv,
    "conv_panels": lower_conv,
    "pool": lower_pool,
    "pool_last": lower_pool,
    "reduce": lower_reduction,
    "argmax": lower_extreme,
    "argmin": lower_extreme,
    "softmax": lower_softmax,
    "log_softmax": lower_softmax,
    "layer_norm": lower_norm,
    "rms_norm": lower_norm,
    "concat": lower_concat,
    "attention": lower_attention,
}
PASSES: tuple[Callable[[Graph, object], Graph], ...] = (
    convert_windows,
    sink_transposes,
    pack_weights,
)
