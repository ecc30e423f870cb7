"""Operators that make values from nothing: constants, sizes, counting; and the reading of sizes."""

from __future__ import annotations

import numpy as np

from tallow.dim import product
from tallow.dtype import dtype, i64
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.kernel.build import call as scalar_call
from tallow.kernel.build import cast, const, from_dim, select
from tallow.ops.rules import axis_in, tensors
from tallow.ops.table import Op, register


def _infer_constant(types, attributes):
    value = attributes["value"]
    return (TensorType(dtype(value.dtype), tuple(value.shape)),)


def _infer_dims(types, attributes):
    shape = tuple(attributes["shape"])
    if product(shape) != len(attributes["values"]) or len(shape) > 1:
        raise GraphError(f"dims: {len(attributes['values'])} values do not fill shape {shape}")
    return (TensorType(i64, shape),)


def _index_dims(node, index, read):
    values = [from_dim(v) for v in node["values"]]
    if not index:
        return values[0]
    result = values[-1] if values else const(0)
    for number, value in reversed(list(enumerate(values[:-1]))):
        result = select(scalar_call("eq", index[0], const(number)), value, result)
    return result


def _infer_iota(types, attributes):
    axis_in("iota", attributes["axis"], len(attributes["shape"]))
    return (TensorType(attributes["dtype"], tuple(attributes["shape"])),)


def _evaluate_iota(arrays, attributes):
    shape, axis, carrier = attributes["shape"], attributes["axis"], attributes["dtype"].numpy
    line = np.arange(shape[axis]).astype(carrier)
    view = line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return (np.broadcast_to(view, shape),)


def _infer_read_dims(types, attributes):
    (type_,) = tensors("read_dims", types)
    if not type_.dtype.is_integer or type_.rank > 1 or type_.size != len(attributes["defines"]):
        raise GraphError(f"read_dims: expected {len(attributes['defines'])} integers, got {type_}")
    return ()


register(
    Op(
        "constant",
        "constant",
        _infer_constant,
        lambda arrays, attributes: (attributes["value"],),
        arity=(0, 0),
    )
)
register(
    Op(
        "dims",
        "constant",
        _infer_dims,
        lambda arrays, a: (np.array(a["values"], np.int64).reshape(a["shape"]),),
        index=_index_dims,
        arity=(0, 0),
    )
)
register(
    Op(
        "iota",
        "constant",
        _infer_iota,
        _evaluate_iota,
        index=lambda node, index, read: cast(index[node["axis"]], node["dtype"]),
        arity=(0, 0),
    )
)
register(Op("read_dims", "host", _infer_read_dims, lambda arrays, attributes: ()))
