"""Operators of ONNX that make tensors from values: constants, ranges, diagonals."""

from __future__ import annotations

import numpy as np

from tallow.dim import Dim, floordiv
from tallow.dtype import f32, i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.slicing import non_negative
from tallow_importers.onnx.registry import onnx_op
from tallow_importers.onnx.tensors import sparse_to_dense


@onnx_op("Constant")
def constant(context: Context, node: NodeView) -> Value:
    b = context.builder
    for name, value in node.attributes.items():
        match name:
            case "value":
                return b.constant(context.tensor(value), node.proto.output[0])
            case "sparse_value":
                return b.constant(sparse_to_dense(value, context.folder))
            case "value_float" | "value_floats":
                return b.constant(np.array(value, np.float32))
            case "value_int" | "value_ints":
                return b.constant(np.array(value, np.int64))
            case "value_string" | "value_strings":
                return b.constant(np.array(value, object))
    context.unsupported("a Constant without a value")


@onnx_op("ConstantOfShape")
def constant_of_shape(context: Context, node: NodeView) -> Value:
    tensor = node.attribute("value")
    value = np.zeros((), np.float32) if tensor is None else context.tensor(tensor).reshape(())
    return context.builder.broadcast(
        context.builder.constant(value), shape=context.require_dims(node.input(0), "a shape")
    )


@onnx_op("Range")
def range_(context: Context, node: NodeView) -> Value:
    b = context.builder
    start, limit, delta = (b.reshape(v, shape=()) if v.rank else v for v in node.inputs)
    dtype = start.dtype
    dims = [context.dims(v) for v in (start, limit, delta)] if dtype.is_integer else [None]
    step = dims[-1][0] if dims[-1] else None
    if all(d and d[0] is not None for d in dims) and isinstance(step, int) and step:
        distance = dims[1][0] - dims[0][0] if step > 0 else dims[0][0] - dims[1][0]
        count: Dim = non_negative(floordiv(distance + (abs(step) - 1), abs(step)))
    else:
        wide = dtype if dtype.is_float else f32
        span = b.div(b.cast(b.sub(limit, start), dtype=wide), b.cast(delta, dtype=wide))
        count = context.require_dims(b.cast(b.max(b.ceil(span), 0), dtype=i64))[0]
    line = b.iota(shape=(count,), axis=0, dtype=dtype)
    return b.add(b.mul(line, delta), start)


@onnx_op("EyeLike")
def eye_like(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    dtype = context.dtype(node.attribute("dtype")) if "dtype" in node.attributes else x.dtype
    rows, columns = _grid(context, x.shape)
    return b.cast(b.eq(columns, b.add(rows, node.attribute("k", 0))), dtype=dtype)


def _grid(context: Context, shape) -> tuple[Value, Value]:
    b = context.builder
    return b.iota(shape=(shape[-2], 1), axis=0, dtype=i64), b.iota(shape=(1, shape[-1]), axis=1, dtype=i64)


@onnx_op("Trilu")
def trilu(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    rows, columns = _grid(context, x.shape)
    k = b.scalar(0, i64) if node.input(1) is None else b.reshape(node.input(1), shape=())
    edge = b.add(rows, k)
    keep = b.ge(columns, edge) if node.attribute("upper", 1) else b.le(columns, edge)
    return b.select(keep, x, b.scalar(0, x.dtype))


@onnx_op("OneHot")
def one_hot(context: Context, node: NodeView) -> Value:
    indices, depth, values = node.inputs
    b = context.builder
    axis = context.axis(node.attribute("axis", -1), indices.rank + 1)
    scalar = b.reshape(depth, shape=(1,)) if depth.rank != 1 else depth
    (count,) = context.require_dims(b.cast(scalar, dtype=i64), "a depth")
    at = b.cast(indices, dtype=i64)
    at = b.select(b.lt(at, 0), b.add(at, context.size(count)), at)
    opened = b.reshape(at, shape=(*at.shape[:axis], 1, *at.shape[axis:]))
    line_shape = tuple(count if a == axis else 1 for a in range(at.rank + 1))
    hit = b.eq(opened, b.iota(shape=line_shape, axis=axis, dtype=i64))
    off, on = (b.reshape(b.slice(values, starts=(i,), steps=(1,), shape=(1,)), shape=()) for i in (0, 1))
    return b.select(hit, on, off)
