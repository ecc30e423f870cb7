"""Convolutions and pools of values with channels last, as layout passes make them."""

from __future__ import annotations

import numpy as np

from tallow.dim import Dim
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.contraction import window_size
from tallow.ops.rules import same_dtype, tensors
from tallow.ops.table import Op, op, register


def _sizes(shape, kernel, attributes) -> tuple[Dim, ...]:
    spec = zip(shape, kernel, *(attributes[key] for key in ("strides", "pads", "dilations")), strict=True)
    return tuple(window_size(*axis) for axis in spec)


def _infer_conv(types, attributes):
    x, w = tensors("conv_last", types)
    same_dtype("conv_last", [x, w])
    groups, each, n = attributes["groups"], w.shape[-2], w.shape[-1]
    if x.rank != w.rank or x.rank < 3:
        raise GraphError(f"conv_last: expected data and weights of one rank of 3 or more, got {x} and {w}")
    if isinstance(x.shape[-1], int) and x.shape[-1] != each * groups:
        raise GraphError(
            f"conv_last: {x} has {x.shape[-1]} channels, weights {w} in {groups} groups want {each * groups}"
        )
    return (TensorType(x.dtype, (x.shape[0], *_sizes(x.shape[1:-1], w.shape[:-2], attributes), n)),)


def _evaluate_conv(arrays, attributes):
    """conv of [N, *S, C] with weights [*kernel, C / groups, M]."""
    x, w = arrays
    weights = np.moveaxis(w, (-1, -2), (0, 1))
    return (np.moveaxis(op("conv").evaluate([np.moveaxis(x, -1, 1), weights], attributes)[0], 1, -1),)


def _infer_pool(types, attributes):
    (x,) = tensors("pool_last", types)
    sizes = _sizes(x.shape[1:-1], attributes["kernel"], attributes)
    return (TensorType(x.dtype, (x.shape[0], *sizes, x.shape[-1])),)


def _evaluate_pool(arrays, attributes):
    """pool of [N, *S, C]."""
    return (np.moveaxis(op("pool").evaluate([np.moveaxis(arrays[0], -1, 1)], attributes)[0], 1, -1),)


register(Op("conv_last", "contraction", _infer_conv, _evaluate_conv, arity=(2, 2)))
register(Op("pool_last", "window", _infer_pool, _evaluate_pool))
