"""Convolutions and pools of values with channels last, and packed weights, as layout passes make them."""

from __future__ import annotations

import numpy as np

from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.contraction import window_sizes
from tallow.ops.rules import same_dtype, tensors
from tallow.ops.table import Op, op, register


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
    return (
        TensorType(x.dtype, (x.shape[0], *window_sizes("conv", x.shape[1:-1], w.shape[:-2], attributes), n)),
    )


def _evaluate_conv(arrays, attributes):
    """conv of [N, *S, C] with weights [*kernel, C / groups, M]."""
    x, w = arrays
    weights = np.moveaxis(w, (-1, -2), (0, 1))
    return (np.moveaxis(op("conv").evaluate([np.moveaxis(x, -1, 1), weights], attributes)[0], 1, -1),)


def _infer_pool(types, attributes):
    (x,) = tensors("pool_last", types)
    sizes = window_sizes("pool", x.shape[1:-1], attributes["kernel"], attributes)
    return (TensorType(x.dtype, (x.shape[0], *sizes, x.shape[-1])),)


def _evaluate_pool(arrays, attributes):
    """pool of [N, *S, C]."""
    return (np.moveaxis(op("pool").evaluate([np.moveaxis(arrays[0], -1, 1)], attributes)[0], 1, -1),)


def unpack(packed: np.ndarray, n: int) -> np.ndarray:
    """[..., panels, *rest, width] with the panels at axis 1 as [..., *rest, panels * width], cut to n columns."""
    columns = np.moveaxis(packed, 1, -2)
    return columns.reshape(*columns.shape[:-2], -1)[..., :n]


def _infer_matmul_panels(types, attributes):
    a, w = tensors("matmul_panels", types)
    same_dtype("matmul_panels", [a, w])
    if w.rank != 3 or (isinstance(a.shape[-1], int) and a.shape[-1] != w.shape[1]):
        raise GraphError(f"matmul_panels: expected panels [count, {a.shape[-1]}, width] for {a}, got {w}")
    return (TensorType(a.dtype, (*a.shape[:-1], attributes["n"])),)


def _evaluate_matmul_panels(arrays, attributes):
    """matmul by weights [panels, K, width] of n columns."""
    a, w = arrays
    return op("matmul").evaluate([a, unpack(w[None], attributes["n"])[0]], {})


def _infer_conv_panels(types, attributes):
    x, w = tensors("conv_panels", types)
    same_dtype("conv_panels", [x, w])
    if w.rank != x.rank + 2 or (isinstance(x.shape[-1], int) and x.shape[-1] != w.shape[-2] * w.shape[0]):
        raise GraphError(
            f"conv_panels: expected panels [groups, count, *kernel, channels, width] for {x}, got {w}"
        )
    sizes = window_sizes("conv", x.shape[1:-1], w.shape[2:-2], attributes)
    return (TensorType(x.dtype, (x.shape[0], *sizes, attributes["n"] * w.shape[0])),)


def _evaluate_conv_panels(arrays, attributes):
    """conv_last by weights [groups, panels, *kernel, C / groups, width], of n columns in each group."""
    x, w = arrays
    weights = np.concatenate(list(unpack(w, attributes["n"])), axis=-1)
    return _evaluate_conv([x, weights], {**attributes, "groups": w.shape[0]})


register(Op("matmul_panels", "contraction", _infer_matmul_panels, _evaluate_matmul_panels, arity=(2, 2)))
register(Op("conv_panels", "contraction", _infer_conv_panels, _evaluate_conv_panels, arity=(2, 2)))
register(Op("conv_last", "contraction", _infer_conv, _evaluate_conv, arity=(2, 2)))
register(Op("pool_last", "window", _infer_pool, _evaluate_pool))
