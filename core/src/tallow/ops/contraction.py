"""Contractions: matrix products and convolutions."""

from __future__ import annotations

import numpy as np

from tallow.dim import Dim, floordiv, product
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.rules import broadcast_shapes, same_dtype, tensors
from tallow.ops.table import Op, register


def _wide(array: np.ndarray) -> np.ndarray:
    """Narrow floats in f32; everything else as it is."""
    return array.astype(np.float32) if array.dtype.kind == "V" or array.dtype == np.float16 else array


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """numpy's matmul; integer products through float64 where that is exact, since it is far faster."""
    if a.dtype.kind in "iu" and a.size and b.size:
        bound = (
            float(np.abs(a.astype(np.float64)).max())
            * float(np.abs(b.astype(np.float64)).max())
            * a.shape[-1]
        )
        if bound < 2**53:
            return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(a.dtype)
    with np.errstate(all="ignore"):
        return np.matmul(a, b)


def _infer_matmul(types, attributes):
    a, b = tensors("matmul", types)
    dtype = same_dtype("matmul", [a, b])
    if a.rank < 2 or b.rank < 2:
        raise GraphError(f"matmul: expected operands of rank 2 or more, got {a} and {b}")
    k, inner = a.shape[-1], b.shape[-2]
    if isinstance(k, int) and isinstance(inner, int) and k != inner:
        raise GraphError(f"matmul: inner sizes {k} and {inner} differ in {a} times {b}")
    batch = broadcast_shapes("matmul", [a.shape[:-2], b.shape[:-2]])
    return (TensorType(dtype, (*batch, a.shape[-2], b.shape[-1])),)


def _evaluate_matmul(arrays, attributes):
    a, b = arrays
    return (multiply(_wide(a), _wide(b)).astype(a.dtype),)


def window_size(size: Dim, kernel: Dim, stride: int, pad: tuple[Dim, Dim], dilation: int) -> Dim:
    """How many windows fit: floor((size + pads - (dilation (kernel - 1) + 1)) / stride) + 1."""
    return floordiv(size + (pad[0] + pad[1] - dilation * (kernel - 1) - 1), stride) + 1


def _infer_conv(types, attributes):
    x, w = tensors("conv", types)
    dtype = same_dtype("conv", [x, w])
    if x.rank != w.rank or x.rank < 3:
        raise GraphError(f"conv: expected data and weights of one rank of 3 or more, got {x} and {w}")
    groups, spatial = attributes["groups"], x.rank - 2
    c, m = x.shape[1], w.shape[0]
    if isinstance(c, int) and isinstance(w.shape[1], int) and c != w.shape[1] * groups:
        raise GraphError(
            f"conv: {x} has {c} channels, weights {w} in {groups} groups want {w.shape[1] * groups}"
        )
    if isinstance(m, int) and m % groups:
        raise GraphError(f"conv: {m} result channels do not divide into {groups} groups")
    for key in ("strides", "pads", "dilations"):
        if len(attributes[key]) != spatial:
            raise GraphError(f"conv: expected {spatial} {key}, got {len(attributes[key])}")
    sizes = tuple(
        window_size(
            x.shape[2 + i],
            w.shape[2 + i],
            attributes["strides"][i],
            attributes["pads"][i],
            attributes["dilations"][i],
        )
        for i in range(spatial)
    )
    if any(isinstance(s, int) and s < 0 for s in sizes):
        raise GraphError(f"conv: a window of {w} does not fit into {x} with pads {attributes['pads']}")
    return (TensorType(dtype, (x.shape[0], m, *sizes)),)


def windows(x: np.ndarray, kernel, strides, pads, dilations, fill) -> np.ndarray:
    """A view [N, C, *out, *kernel] of all windows of a padded copy of x."""
    x = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    axes = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
    steps = [slice(None), slice(None), *(slice(None, None, s) for s in strides)]
    return view[(*steps, *(slice(None, None, d) for d in dilations))]


def _evaluate_conv(arrays, attributes):
    x, w = arrays
    carrier = x.dtype
    x, w = _wide(x), _wide(w)
    groups, kernel = attributes["groups"], w.shape[2:]
    n, m = x.shape[0], w.shape[0]
    if x.size == 0 or w.size == 0 or 0 in kernel:
        sizes = [
            window_size(*a)
            for a in zip(
                x.shape[2:],
                kernel,
                attributes["strides"],
                attributes["pads"],
                attributes["dilations"],
                strict=True,
            )
        ]
        return (np.zeros((n, m, *sizes), carrier),)
    view = windows(x, kernel, attributes["strides"], attributes["pads"], attributes["dilations"], 0)
    spatial = len(kernel)
    out = view.shape[2 : 2 + spatial]
    view = view.reshape(n, groups, x.shape[1] // groups, *out, *kernel)
    order = (0, 1, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
    columns = view.transpose(order).reshape(n, groups, product(out), -1)
    matrix = w.reshape(groups, m // groups, -1).transpose(0, 2, 1)
    result = multiply(columns, matrix[None]).transpose(0, 1, 3, 2)
    return (result.reshape(n, m, *out).astype(carrier),)


def _infer_conv_transpose(types, attributes):
    x, w = tensors("conv_transpose", types)
    dtype = same_dtype("conv_transpose", [x, w])
    if x.rank != w.rank or x.rank < 3:
        raise GraphError(
            f"conv_transpose: expected data and weights of one rank of 3 or more, got {x} and {w}"
        )
    sizes = []
    for i in range(x.rank - 2):
        (low, high), d = attributes["pads"][i], attributes["dilations"][i]
        span = d * (w.shape[2 + i] - 1) + 1
        sizes.append(
            (x.shape[2 + i] - 1) * attributes["strides"][i]
            + span
            - low
            - high
            + attributes["output_padding"][i]
        )
    return (TensorType(dtype, (x.shape[0], w.shape[1] * attributes["groups"], *sizes)),)


def _decompose_conv_transpose(builder, node):
    """Zeros between the elements, then an ordinary convolution with the kernel turned round."""
    x, w = node.inputs
    groups, spatial = node["groups"], x.rank - 2
    n, c = x.shape[:2]
    for i in range(spatial):
        stride = node["strides"][i]
        if stride > 1:
            axis = 2 + i
            opened = builder.reshape(x, shape=(*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
            after = tuple(stride - 1 if a == axis + 1 else 0 for a in range(opened.rank))
            padded = builder.pad(opened, before=(0,) * opened.rank, after=after, mode="constant")
            flat = builder.reshape(
                padded, shape=(*x.shape[:axis], x.shape[axis] * stride, *x.shape[axis + 1 :])
            )
            size = (x.shape[axis] - 1) * stride + 1
            shape = (*flat.shape[:axis], size, *flat.shape[axis + 1 :])
            x = builder.slice(flat, starts=(0,) * flat.rank, steps=(1,) * flat.rank, shape=shape)
    taps = w.shape[2:]
    flipped = builder.slice(
        w, starts=(0, 0, *(k - 1 for k in taps)), steps=(1, 1, *(-1,) * spatial), shape=w.shape
    )
    m = w.shape[1]
    grouped = builder.reshape(flipped, shape=(groups, c // groups, m, *taps))
    turned = builder.transpose(grouped, permutation=(0, 2, 1, *range(3, 3 + spatial)))
    weights = builder.reshape(turned, shape=(groups * m, c // groups, *taps))
    pads = tuple(
        (d * (k - 1) - low, d * (k - 1) - high + extra)
        for k, d, (low, high), extra in zip(
            taps, node["dilations"], node["pads"], node["output_padding"], strict=True
        )
    )
    x, pads = _crop(builder, x, pads)
    return builder.conv(
        x, weights, strides=(1,) * spatial, pads=pads, dilations=node["dilations"], groups=groups
    )


def _crop(builder, x, pads):
    """Negative pads cut the operand instead."""
    if not any(isinstance(p, int) and p < 0 for pair in pads for p in pair):
        return x, pads
    cuts = [(0, 0), (0, 0), *((max(-low, 0), max(-high, 0)) for low, high in pads)]
    shape = tuple(d - low - high for d, (low, high) in zip(x.shape, cuts, strict=True))
    cut = builder.slice(x, starts=tuple(low for low, _ in cuts), steps=(1,) * x.rank, shape=shape)
    return cut, tuple((max(low, 0), max(high, 0)) for low, high in pads)


def _evaluate_conv_transpose(arrays, attributes):
    x, w = arrays
    carrier = x.dtype
    x, w = _wide(x), _wide(w)
    groups, strides, dilations = attributes["groups"], attributes["strides"], attributes["dilations"]
    n, c, m, taps = x.shape[0], x.shape[1], w.shape[1], w.shape[2:]
    full = [
        (d - 1) * s + dil * (k - 1) + 1 + e
        for d, s, dil, k, e in zip(
            x.shape[2:], strides, dilations, taps, attributes["output_padding"], strict=True
        )
    ]
    out = np.zeros((n, groups, m, *full), x.dtype)
    data = x.reshape(n, groups, c // groups, *x.shape[2:])
    weights = w.reshape(groups, c // groups, m, *taps)
    for tap in np.ndindex(*taps):
        part = np.einsum("ngc...,gcm->ngm...", data, weights[(..., *tap)])
        place = [
            slice(t * dil, t * dil + (d - 1) * s + 1, s)
            for t, dil, d, s in zip(tap, dilations, x.shape[2:], strides, strict=True)
        ]
        out[(slice(None), slice(None), slice(None), *place)] += part
    out = out.reshape(n, groups * m, *full)
    cut = [slice(low, f - high) for (low, high), f in zip(attributes["pads"], full, strict=True)]
    return (out[(slice(None), slice(None), *cut)].astype(carrier),)


register(Op("matmul", "contraction", _infer_matmul, _evaluate_matmul, arity=(2, 2)))
register(Op("conv", "contraction", _infer_conv, _evaluate_conv, arity=(2, 2)))
register(
    Op(
        "conv_transpose",
        "contraction",
        _infer_conv_transpose,
        _evaluate_conv_transpose,
        decompose=_decompose_conv_transpose,
        arity=(2, 2),
    )
)
