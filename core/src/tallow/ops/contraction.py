"""Contractions: matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tallow.dim import Dim, ceildiv, floordiv, maximum, product
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.rules import broadcast_shapes, differ, same_dtype, tensors
from tallow.ops.table import Op, register

MOST_PHASES = 1024  # convolutions that a transposed one may come to


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


def window_sizes(name: str, sizes: Sequence[Dim], kernel: Sequence[Dim], attributes) -> tuple[Dim, ...]:
    """How many windows fit along each axis; GraphError where none can be."""
    spec = (attributes[key] for key in ("strides", "pads", "dilations"))
    found = tuple(window_size(*axis) for axis in zip(sizes, kernel, *spec, strict=True))
    if any(isinstance(count, int) and count < 0 for count in found):
        kernel, sizes = (list(map(str, numbers)) for numbers in (kernel, sizes))
        raise GraphError(
            f"{name}: a window of {' x '.join(kernel)} does not fit into {' x '.join(sizes)} with pads {attributes['pads']}"
        )
    return found


def check_window(name: str, x: TensorType, attributes, positive: Sequence[str]) -> None:
    """GraphError unless there are as many numbers as axes, those that count or step 1 or more."""
    spatial = x.rank - 2
    for key in (*positive, "pads"):
        if len(attributes[key]) != spatial:
            raise GraphError(f"{name}: expected {spatial} {key} for {x}, got {len(attributes[key])}")
    for key in positive:
        if any(n < 1 for n in attributes[key]):
            raise GraphError(f"{name}: expected {key} of 1 or more, got {list(attributes[key])}")


def _infer_conv(types, attributes):
    x, w = tensors("conv", types)
    dtype = same_dtype("conv", [x, w])
    if x.rank != w.rank or x.rank < 3:
        raise GraphError(f"conv: expected data and weights of one rank of 3 or more, got {x} and {w}")
    groups = attributes["groups"]
    c, m = x.shape[1], w.shape[0]
    if isinstance(c, int) and isinstance(w.shape[1], int) and c != w.shape[1] * groups:
        raise GraphError(
            f"conv: {x} has {c} channels, weights {w} in {groups} groups want {w.shape[1] * groups}"
        )
    if isinstance(m, int) and m % groups:
        raise GraphError(f"conv: {m} result channels do not divide into {groups} groups")
    check_window("conv", x, attributes, ("strides", "dilations"))
    sizes = window_sizes("conv", x.shape[2:], w.shape[2:], attributes)
    return (TensorType(dtype, (x.shape[0], m, *sizes)),)


def windows(x: np.ndarray, kernel, strides, pads, dilations, fill) -> np.ndarray:
    """A view [N, C, *out, *kernel] of all windows of a padded copy of x."""
    x = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if any(span > size for span, size in zip(spans, x.shape[2:], strict=True)):
        fitting = zip(x.shape[2:], spans, strides, strict=True)
        counts = [max(0, (size - span) // stride + 1) for size, span, stride in fitting]
        return np.empty((*x.shape[:2], *counts, *kernel), x.dtype)
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
        sizes = window_sizes("conv", x.shape[2:], kernel, attributes)
        return (np.zeros((n, m, *sizes), carrier),)
    view = windows(x, kernel, attributes["strides"], attributes["pads"], attributes["dilations"], 0)
    spatial = len(kernel)
    out = view.shape[2 : 2 + spatial]
    view = view.reshape(n, groups, x.shape[1] // groups, *out, *kernel)
    order = (0, 1, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
    columns = view.transpose(order).reshape(n, groups, product(out), x.shape[1] // groups * product(kernel))
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
    if differ(x.shape[1], w.shape[0]):
        raise GraphError(f"conv_transpose: {x} has {x.shape[1]} channels, weights {w} want {w.shape[0]}")
    channels, groups = x.shape[1], attributes["groups"]
    if isinstance(channels, int) and channels % groups:
        raise GraphError(f"conv_transpose: {channels} channels do not divide into {groups} groups")
    check_window("conv_transpose", x, attributes, ("strides", "dilations"))
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
    """One small convolution for each position within a stride, their results interleaved.

    Result element s * t + r is the sum over j of x[t - j] w[s * j + r]: only the taps that are r modulo s
    meet it (Shi et al., 2016, the other way round), none from the window's length on. None where the
    window's sizes are open, or the positions too many to have a convolution each.
    """
    x, w = node.inputs
    groups, spatial, strides = node["groups"], x.rank - 2, node["strides"]
    if any(not isinstance(d, int) for d in w.shape[1:]):
        return None
    if any(d != 1 for d in node["dilations"]):
        w = _dilated(builder, w, node["dilations"])
    taps = w.shape[2:]
    lengths = [d - 1 + ceildiv(k, s) for d, k, s in zip(x.shape[2:], taps, strides, strict=True)]
    if all(k and k % s == 0 for k, s in zip(taps, strides, strict=True)):
        return _cut_to(builder, _at_once(builder, x, w, groups, strides, lengths), node)
    reached = tuple(max(1, min(k, s)) for k, s in zip(taps, strides, strict=True))
    if product(reached) > MOST_PHASES:
        return None
    phases = []
    for phase in np.ndindex(*reached):
        counts = tuple(max(0, -(-(k - r) // s)) for k, r, s in zip(taps, phase, strides, strict=True))
        phases.append(_phase(builder, x, w, groups, phase, strides, counts, lengths))
    n, m = phases[0].shape[:2]
    joined = builder.concat(*(builder.reshape(y, shape=(1, *y.shape)) for y in phases), axis=0)
    split = builder.reshape(joined, shape=(*reached, n, m, *lengths))
    order = (spatial, spatial + 1, *(a for i in range(spatial) for a in (spatial + 2 + i, i)))
    places = builder.transpose(split, permutation=order)
    if reached != tuple(strides):
        rest = (d for pair in zip(strides, reached, strict=True) for d in (0, pair[0] - pair[1]))
        places = builder.pad(places, before=(0,) * places.rank, after=(0, 0, *rest), mode="constant")
    full = builder.reshape(
        places,
        shape=(n, m, *(t * s for t, s in zip(lengths, strides, strict=True))),
    )
    return _cut_to(builder, full, node)


def _phase(builder, x, w, groups: int, phase, strides, counts, lengths):
    """The results at one position within the strides: a convolution with every s-th tap, turned round."""
    spatial, (c, m) = len(strides), w.shape[:2]
    if 0 in counts:
        return builder.broadcast(builder.scalar(0, x.dtype), shape=(x.shape[0], m * groups, *lengths))
    last = tuple(r + s * (count - 1) for r, s, count in zip(phase, strides, counts, strict=True))
    part = builder.slice(w, starts=(0, 0, *last), steps=(1, 1, *(-s for s in strides)), shape=(c, m, *counts))
    grouped = builder.reshape(part, shape=(groups, c // groups, m, *counts))
    turned = builder.transpose(grouped, permutation=(0, 2, 1, *range(3, 3 + spatial)))
    weights = builder.reshape(turned, shape=(groups * m, c // groups, *counts))
    pads = tuple((k - 1, t - d) for k, t, d in zip(counts, lengths, x.shape[2:], strict=True))
    ones = (1,) * spatial
    return builder.conv(x, weights, strides=ones, pads=pads, dilations=ones, groups=groups)


def _at_once(builder, x, w, groups: int, strides, lengths):
    """All positions within the strides by one convolution, where each meets as many taps: they are channels,
    and lie as they must with channels last, one axis and one group."""
    axes, (c, m) = range(len(strides)), w.shape[:2]
    counts = tuple(k // s for k, s in zip(w.shape[2:], strides, strict=True))
    taps = [d for pair in zip(counts, strides, strict=True) for d in pair]
    split = builder.reshape(w, shape=(groups, c // groups, m, *taps))
    starts = (0, 0, 0, *(d for k in counts for d in (k - 1, 0)))
    turned = builder.slice(split, starts=starts, steps=(1, 1, 1, *((-1, 1) * len(axes))), shape=split.shape)
    order = (0, *(4 + 2 * a for a in axes), 2, 1, *(3 + 2 * a for a in axes))
    shape = (groups * product(strides) * m, c // groups, *counts)
    weights = builder.reshape(builder.transpose(turned, permutation=order), shape=shape)
    ones, pads = (1,) * len(axes), tuple((k - 1, k - 1) for k in counts)
    y = builder.conv(x, weights, strides=ones, pads=pads, dilations=ones, groups=groups)
    last = builder.transpose(y, permutation=(0, *range(2, y.rank), 1))
    apart = builder.reshape(last, shape=(x.shape[0], *lengths, groups, *strides, m))
    order = (0, *(d for a in axes for d in (1 + a, 2 + len(axes) + a)), 1 + len(axes), 2 + 2 * len(axes))
    sizes = (t * s for t, s in zip(lengths, strides, strict=True))
    full = builder.reshape(
        builder.transpose(apart, permutation=order), shape=(x.shape[0], *sizes, groups * m)
    )
    return builder.transpose(full, permutation=(0, full.rank - 1, *range(1, full.rank - 1)))


def _dilated(builder, w, dilations):
    """Weights with zeros between their taps."""
    for i, dilation in enumerate(dilations):
        axis, size = 2 + i, w.shape[2 + i]
        opened = builder.reshape(w, shape=(*w.shape[: axis + 1], 1, *w.shape[axis + 1 :]))
        after = tuple(dilation - 1 if a == axis + 1 else 0 for a in range(opened.rank))
        padded = builder.pad(opened, before=(0,) * opened.rank, after=after, mode="constant")
        flat = builder.reshape(padded, shape=(*w.shape[:axis], size * dilation, *w.shape[axis + 1 :]))
        shape = (*flat.shape[:axis], (size - 1) * dilation + 1, *flat.shape[axis + 1 :])
        w = builder.slice(flat, starts=(0,) * flat.rank, steps=(1,) * flat.rank, shape=shape)
    return w


def _cut_to(builder, full, node):
    """Pads cut away, output padding added as zeros where the windows do not reach."""
    wanted = node.output.shape[2:]
    starts = [low for low, _ in node["pads"]]
    before = tuple(-low if isinstance(low, int) and low < 0 else 0 for low in starts)
    starts = [0 if extra else low for low, extra in zip(starts, before, strict=True)]
    after = []
    for start, extra, size, have in zip(starts, before, wanted, full.shape[2:], strict=True):
        after.append(maximum(start + size - extra - have, 0))
    if any(p != 0 for p in (*before, *after)):
        full = builder.pad(full, before=(0, 0, *before), after=(0, 0, *after), mode="constant")
    return builder.slice(full, starts=(0, 0, *starts), steps=(1,) * full.rank, shape=node.output.shape)


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
    for tap in np.ndindex(*taps) if all(x.shape[2:]) else ():
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
