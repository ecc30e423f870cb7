"""Operators of the CPU backend: products with packed weights, window operators with channels last,
attention on views."""

from __future__ import annotations

import numpy as np

from tallow.dim import product
from tallow.dtype import i32
from tallow.graph import TensorType
from tallow.ops import Op, op
from tallow.ops.contraction import window_sizes
from tallow_cpu.shuffle import from_runs, shuffle
from tallow_cpu.winograd import convolve, convolve_dilated, kinds, transform_weights


def unpack(packed: np.ndarray, n: int) -> np.ndarray:
    """[groups, panels, K, width] back to [groups, K, n]."""
    groups, panels, k, width = packed.shape
    return packed.transpose(0, 2, 1, 3).reshape(groups, k, panels * width)[..., :n]


def _infer_matmul(types, attributes):
    a, packed = types
    return (TensorType(a.dtype, (*a.shape[:-1], attributes["n"])),)


def _evaluate_matmul(arrays, attributes):
    a, packed = arrays
    return op("matmul").evaluate([a, unpack(packed, attributes["n"])[0]], {})


def _windows(x: TensorType, kernel, attributes, name: str = "conv") -> tuple:
    """How many windows each spatial axis of x has."""
    return window_sizes(name, x.shape[1:-1], kernel, attributes)


def _infer_conv(types, attributes):
    x, _ = types
    sizes = _windows(x, attributes["kernel"], attributes)
    return (TensorType(x.dtype, (x.shape[0], *sizes, attributes["n"] * attributes["groups"])),)


def _first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


def _evaluate_conv(arrays, attributes):
    """conv of shuffle(x, count); weights have the order of `tallow_cpu.shuffle.to_runs`."""
    x, packed = arrays
    kernel, groups, count = attributes["kernel"], attributes["groups"], attributes["shuffle"]
    w = from_runs(unpack(packed, attributes["n"]), x.shape[-1] // groups, count)
    w = w.reshape(groups * attributes["n"], -1, *kernel)
    spec = {key: attributes[key] for key in ("strides", "pads", "dilations", "groups")}
    return (np.moveaxis(op("conv").evaluate([_first(shuffle(x, count, -1)), w], spec)[0], 1, -1),)


def _infer_depthwise(types, attributes):
    x, w = types
    return (TensorType(x.dtype, (x.shape[0], *_windows(x, w.shape[:-1], attributes), x.shape[-1])),)


def _evaluate_depthwise(arrays, attributes):
    x, w = arrays
    spec = {**attributes, "groups": x.shape[-1]}
    weights = np.moveaxis(w, -1, 0)[:, None]
    return (np.moveaxis(op("conv").evaluate([_first(x), weights], spec)[0], 1, -1),)


def _infer_grouped(types, attributes):
    x, w = types
    return (TensorType(x.dtype, (x.shape[0], *_windows(x, w.shape[:-2], attributes), w.shape[-1])),)


def _evaluate_grouped(arrays, attributes):
    """conv with weights [*kernel, data channels of a group, result channels]."""
    x, w = arrays
    spec = {**attributes, "groups": x.shape[-1] // w.shape[-2]}
    weights = w.transpose(w.ndim - 1, w.ndim - 2, *range(w.ndim - 2))
    return (np.moveaxis(op("conv").evaluate([_first(x), weights], spec)[0], 1, -1),)


def _infer_pool(types, attributes):
    (x,) = types
    sizes = _windows(x, attributes["kernel"], attributes, "pool")
    return (TensorType(x.dtype, (x.shape[0], *sizes, x.shape[-1])),)


def _evaluate_pool(arrays, attributes):
    return (np.moveaxis(op("pool").evaluate([_first(arrays[0])], attributes)[0], 1, -1),)


def _infer_winograd(types, attributes):
    x, _ = types
    strides = (attributes["stride"],) * (x.rank - 2)
    sizes = _windows(x, (3,) * (x.rank - 2), {**attributes, "strides": strides})
    return (TensorType(x.dtype, (x.shape[0], *sizes, attributes["n"])),)


def _evaluate_winograd(arrays, attributes):
    """Dilations other than 1 come with stride 1 alone."""
    if attributes["stride"] == 1:
        spec = (attributes[key] for key in ("tile", "pads", "dilations", "n"))
        return (convolve_dilated(*arrays, *spec),)
    return (convolve(*arrays, *(attributes[key] for key in ("tile", "stride", "pads", "n"))),)


def _infer_attention(types, attributes):
    batch, heads, _, queries, _, _, width = attributes["sizes"]
    shape = (batch, queries, heads, width) if attributes["tokens_first"] else (batch, heads, queries, width)
    return (TensorType(types[0].dtype, shape),)


def _evaluate_attention(arrays, attributes):
    """attention of operands that are views: `q`, `k` and `v` say where their elements lie in memory, as
    (offset, strides of image, head, token, feature); a mask comes keys by queries."""
    batch, heads, groups, queries, keys, depth, width = attributes["sizes"]
    shapes = {
        "q": (batch, heads, queries, depth),
        "k": (batch, groups, keys, depth),
        "v": (batch, groups, keys, width),
    }
    operands = []
    for array, (name, shape) in zip(arrays[:3], shapes.items(), strict=True):
        offset, strides = attributes[name]
        flat = np.ascontiguousarray(array).reshape(-1)
        places = sum((np.ix_(*map(np.arange, shape))[axis] * s for axis, s in enumerate(strides)), offset)
        operands.append(flat[np.broadcast_to(places, shape)])
    masks = [np.swapaxes(mask, -1, -2) for mask in arrays[3:]]
    (result,) = op("attention").evaluate([*operands, *masks], attributes)
    return (result.transpose(0, 2, 1, 3) if attributes["tokens_first"] else result,)


def _bytes_of(packed: np.ndarray, n: int, taps: int, each: int) -> np.ndarray:
    """Packed words back to i32 [groups, taps, each, n]; runs of a tap are padded to whole words."""
    words = unpack(packed, n)
    split = np.ascontiguousarray(words.swapaxes(1, 2)).view(np.int8)
    matrices = split.reshape(words.shape[0], n, taps, -1)[..., :each]
    return matrices.transpose(0, 2, 3, 1).astype(np.int32)


def _infer_matmul_bytes(types, attributes):
    return (TensorType(i32, (*types[0].shape[:-1], attributes["n"])),)


def _evaluate_matmul_bytes(arrays, attributes):
    a, packed = arrays
    matrix = _bytes_of(packed, attributes["n"], 1, attributes["depth"])[0, 0]
    return op("matmul").evaluate([a.astype(np.int32), matrix], {})


def _infer_conv_bytes(types, attributes):
    (result,) = _infer_conv(types[:2], attributes)
    return (TensorType(i32, result.shape),)


def _evaluate_conv_bytes(arrays, attributes):
    """cpu.conv of u8 with i8 weights in words; around the picture lies `fill`."""
    x, packed, fill = arrays
    kernel, groups, n = attributes["kernel"], attributes["groups"], attributes["n"]
    merged = groups == 1 and attributes["dilations"][-1] == 1
    line, each = (kernel[-1] if merged else 1), x.shape[-1] // groups
    taps = product(kernel) // line
    w = _bytes_of(packed, n, taps, line * each).reshape(groups, *kernel, each, n)
    w = np.moveaxis(np.moveaxis(w, -1, 1), -1, 2).reshape(groups * n, each, *kernel)
    wide = np.pad(
        _first(x).astype(np.int32), [(0, 0), (0, 0), *attributes["pads"]], constant_values=int(fill)
    )
    spec = {key: attributes[key] for key in ("strides", "dilations", "groups")}
    spec["pads"] = ((0, 0),) * len(kernel)
    return (np.moveaxis(op("conv").evaluate([wide, w], spec)[0], 1, -1),)


def _infer_depthwise_bytes(types, attributes):
    (result,) = _infer_depthwise(types[:2], attributes)
    return (TensorType(i32, result.shape),)


def _evaluate_depthwise_bytes(arrays, attributes):
    """cpu.depthwise of 8-bit codes less their zero point."""
    x, w, zero = arrays
    return _evaluate_depthwise((x.astype(np.int32) - zero, w), attributes)


DEPTHWISE_BYTES = Op(
    "cpu.depthwise_bytes", "contraction", _infer_depthwise_bytes, _evaluate_depthwise_bytes, arity=(3, 3)
)
MATMUL_BYTES = Op(
    "cpu.matmul_bytes", "contraction", _infer_matmul_bytes, _evaluate_matmul_bytes, arity=(2, 2)
)
CONV_BYTES = Op("cpu.conv_bytes", "contraction", _infer_conv_bytes, _evaluate_conv_bytes, arity=(3, 3))
MATMUL = Op("cpu.matmul", "contraction", _infer_matmul, _evaluate_matmul, arity=(2, 2))
CONV = Op("cpu.conv", "contraction", _infer_conv, _evaluate_conv, arity=(2, 2))
DEPTHWISE = Op("cpu.depthwise", "contraction", _infer_depthwise, _evaluate_depthwise, arity=(2, 2))
GROUPED = Op("cpu.grouped", "contraction", _infer_grouped, _evaluate_grouped, arity=(2, 2))
POOL = Op("cpu.pool", "window", _infer_pool, _evaluate_pool)


def _infer_winograd_weights(types, attributes):
    (w,) = types
    n, channels = w.shape[:2]
    width = attributes["width"]
    return (TensorType(w.dtype, (-(-n // width), kinds(attributes["tile"]) ** 2, channels, width)),)


def _evaluate_winograd_weights(arrays, attributes):
    return (transform_weights(arrays[0], *(attributes[key] for key in ("tile", "stride", "width"))),)


WINOGRAD = Op("cpu.winograd", "contraction", _infer_winograd, _evaluate_winograd, arity=(2, 2))
WINOGRAD_WEIGHTS = Op(
    "cpu.winograd_weights", "contraction", _infer_winograd_weights, _evaluate_winograd_weights, arity=(1, 1)
)
ATTENTION = Op("cpu.attention", "composite", _infer_attention, _evaluate_attention, arity=(3, 4))
OPS = (
    MATMUL,
    MATMUL_BYTES,
    CONV,
    CONV_BYTES,
    DEPTHWISE_BYTES,
    WINOGRAD,
    WINOGRAD_WEIGHTS,
    DEPTHWISE,
    GROUPED,
    POOL,
    ATTENTION,
)
