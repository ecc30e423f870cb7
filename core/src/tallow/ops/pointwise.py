"""Pointwise operators: every scalar function with numpy's broadcasting, casts and bit casts."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tallow.dim import bounds
from tallow.dtype import DType
from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.kernel.build import call, cast, const, from_dim, select
from tallow.kernel.grammar import Bitcast, Expr
from tallow.ops.rules import broadcast_shapes, of_kind, same_dtype, tensors
from tallow.ops.table import Op, register
from tallow.scalar import SCALAR, ScalarFunction, apply


def operand_index(shape, result, index: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Where a broadcast operand is read for element `index` of the result."""
    skip = len(result) - len(shape)
    places = []
    for axis, dim in enumerate(shape):
        at, full = index[axis + skip], result[axis + skip]
        if dim == 1:
            places.append(const(0))
        elif dim == full or (bounds(dim)[0] or 0) > 1:
            places.append(at)
        else:
            places.append(select(call("eq", from_dim(dim), const(1)), const(0), at))
    return tuple(places)


def _infer(row: ScalarFunction):
    def infer(types, attributes):
        operands = tensors(row.name, types)
        typed = operands
        if row.name == "select":
            if operands[0].dtype.kind != "bool":
                raise GraphError(f"select: expected a bool condition, got {operands[0]}")
            typed = operands[1:]
        dtype = same_dtype(row.name, typed)
        of_kind(row.name, dtype, sorted(row.kinds))
        return (TensorType(row.result_dtype(dtype), broadcast_shapes(row.name, [t.shape for t in operands])),)

    return infer


def _evaluate(row: ScalarFunction):
    def evaluate(arrays, attributes):
        carrier = arrays[-1].dtype
        wide = [_widen(a) for a in arrays]
        result = apply(row.name, *wide)
        return (result if row.result == "bool" else result.astype(carrier),)

    return evaluate


def _widen(array: np.ndarray) -> np.ndarray:
    """Types that numpy cannot compute with itself, in one that holds them exactly."""
    if array.dtype.kind != "V" and array.dtype.type not in _WIDE:
        return array
    return array.astype(_WIDE.get(array.dtype.type, np.float32))


_WIDE = {
    ml_dtypes.int4: np.int8,
    ml_dtypes.uint4: np.uint8,
    ml_dtypes.int2: np.int8,
    ml_dtypes.uint2: np.uint8,
}
_WIDE |= {np.float16: np.float32, ml_dtypes.bfloat16: np.float32}


def _index(row: ScalarFunction):
    def index_rule(node, index, read):
        result = node.output.shape
        operands = [read(n, operand_index(v.shape, result, index)) for n, v in enumerate(node.inputs)]
        return call(row.name, *operands)

    return index_rule


for _row in SCALAR.values():
    register(
        Op(
            _row.name,
            "pointwise",
            _infer(_row),
            _evaluate(_row),
            _index(_row),
            arity=(_row.arity, _row.arity),
        )
    )


def convert(array: np.ndarray, to: DType, saturate: bool = True, rounding: str = "up") -> np.ndarray:
    """The meaning of cast: floats to integers truncate, to 8-bit floats saturate when asked. `rounding` is
    that to powers of two (f8e8m0): up, down or nearest."""
    if to.kind == "string":
        return _to_string(array)
    if array.dtype == object:
        return _from_string(array, to)
    with np.errstate(all="ignore"):
        if to.kind == "bool":
            return _widen(array).astype(bool)
        wide = _widen(array)
        if to.is_integer and to.bits < 8:
            whole = wide.astype(np.int64) if wide.dtype.kind == "f" else wide.astype(np.int64)
            span = 1 << to.bits
            wrapped = whole & (span - 1)
            if to.kind == "int":
                wrapped = np.where(wrapped >= span // 2, wrapped - span, wrapped)
            return wrapped.astype(np.int8 if to.kind == "int" else np.uint8).astype(to.numpy)
        if to.is_integer and wide.dtype.kind == "f":
            return _truncate(wide, to)
        if to.name == "f8e8m0" and array.dtype != to.numpy:
            return _to_power(wide, to, saturate, rounding)
        if to.is_float and to.bits == 8 and to.name != "f8e8m0":
            return _to_float8(wide, to, saturate)
        return wide.astype(to.numpy)


def _truncate(wide: np.ndarray, to: DType) -> np.ndarray:
    """Towards zero, out-of-range values wrap like a conversion through i64; NaN gives 0."""
    info = np.iinfo(to.numpy)
    if to.bits == 64:
        high = np.float64(info.max)
        inside = np.clip(np.nan_to_num(wide.astype(np.float64), nan=0.0), float(info.min), high)
        return np.where(inside >= high, info.max, inside.astype(to.numpy)).astype(to.numpy)
    return np.clip(np.nan_to_num(wide.astype(np.float64), nan=0.0), info.min, info.max).astype(to.numpy)


def _to_float8(wide: np.ndarray, to: DType, saturate: bool) -> np.ndarray:
    result = wide.astype(np.float32).astype(to.numpy)
    limit = float(ml_dtypes.finfo(to.numpy).max)
    value = wide.astype(np.float32)
    over = np.abs(result.astype(np.float32)) > limit
    over |= np.isnan(result.astype(np.float32)) & ~np.isnan(value)
    over |= np.isinf(value)
    if saturate:
        return np.where(over, np.copysign(limit, value), result.astype(np.float32)).astype(to.numpy)
    return result


def _to_power(wide: np.ndarray, to: DType, saturate: bool, rounding: str) -> np.ndarray:
    """Powers of two from 2**-127 to 2**127 (OCP microscaling formats 1.0); negative values give NaN."""
    half, exponent = np.frexp(wide.astype(np.float64))
    up = half > 0.5 if rounding == "up" else half >= 0.75 if rounding == "nearest" else half > 1
    power = np.where(wide == 0, -128, np.where(np.isinf(wide), 128, exponent - 1 + up))
    if saturate:
        power = np.clip(power, -127, 127)
    lost = np.isnan(wide) | (wide < 0) | (np.abs(power) > 127)
    return np.where(lost, 255, power + 127).astype(np.uint8).view(to.numpy)


def _to_string(array: np.ndarray) -> np.ndarray:
    if array.dtype == object:
        return array
    out = np.empty(array.shape, object)
    flat = _widen(array).reshape(-1)
    for i, value in enumerate(flat.tolist()):
        out.reshape(-1)[i] = str(np.float32(value)) if flat.dtype == np.float32 else str(value)
    return out


def _from_string(array: np.ndarray, to: DType) -> np.ndarray:
    parse = float if to.is_float else int if to.is_integer else bool
    values = [parse(v.decode() if isinstance(v, bytes) else v) for v in array.reshape(-1).tolist()]
    return np.array(values, np.float64 if to.is_float else None).astype(to.numpy).reshape(array.shape)


def _infer_cast(types, attributes):
    (type_,) = tensors("cast", types)
    return (TensorType(attributes["dtype"], type_.shape),)


def _infer_bitcast(types, attributes):
    (type_,) = tensors("bitcast", types)
    if type_.dtype.bits != attributes["dtype"].bits:
        raise GraphError(f"bitcast: expected a dtype as wide as {type_.dtype}, got {attributes['dtype']}")
    return (TensorType(attributes["dtype"], type_.shape),)


register(
    Op(
        "cast",
        "pointwise",
        _infer_cast,
        lambda arrays, a: (convert(arrays[0], a["dtype"], a.get("saturate", True), a.get("rounding", "up")),),
        index=lambda node, index, read: cast(read(0, index), node["dtype"]),
    )
)
register(
    Op(
        "bitcast",
        "pointwise",
        _infer_bitcast,
        lambda arrays, a: (np.ascontiguousarray(arrays[0]).view(a["dtype"].numpy),),
        index=lambda node, index, read: Bitcast(read(0, index), node["dtype"]),
    )
)
