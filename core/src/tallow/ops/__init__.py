"""The operators of a Graph, a row each; importing this package registers them all."""

from tallow.ops import (
    attention,
    composite,
    constants,
    contraction,
    control,
    gather,
    linear_algebra,
    movement,
    pointwise,
    random,
    recurrent,
    reduction,
    scatter,
    sorting,
    window,
)
from tallow.ops.table import OPS, Op, Read, op, register

__all__ = [
    "OPS",
    "Op",
    "Read",
    "attention",
    "composite",
    "constants",
    "contraction",
    "control",
    "gather",
    "linear_algebra",
    "movement",
    "op",
    "pointwise",
    "random",
    "recurrent",
    "reduction",
    "register",
    "scatter",
    "sorting",
    "window",
]
