"""Element-wise operators of ONNX."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from tallow.dim import product
from tallow.dtype import bool_, f8e8m0, f32, i64, u8
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

_UNARY = {
    **{name: name.lower() for name in ("Abs", "Neg", "Sign", "Floor", "Ceil", "Round", "Sqrt", "Exp", "Log")},
    **{
        name: name.lower()
        for name in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh")
    },
    **{name: name.lower() for name in ("Atanh", "Erf", "Sigmoid", "Tanh", "Not", "IsNaN", "Relu")},
    "Reciprocal": "reciprocal",
    "BitwiseNot": "bit_not",
}
_BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "Equal": "eq",
    "Less": "lt",
    "LessOrEqual": "le",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "BitwiseAnd": "bit_and",
    "BitwiseOr": "bit_or",
    "BitwiseXor": "bit_xor",
}


def _simple(op: str):
    def handler(context: Context, node: NodeView) -> Value:
        return getattr(context.builder, op)(*node.inputs)

    return handler


for _name, _op in (_UNARY | _BINARY).items():
    onnx_op(_name)(_simple(_op))


@onnx_op("Pow")
def power(context: Context, node: NodeView) -> Value:
    base, exponent = node.inputs
    b = context.builder
    known = context.array(exponent)
    if (
        known is not None
        and known.size == 1
        and float(known.reshape(-1)[0]) in (1.0, 2.0, 3.0, 0.5, -1.0)
        and base.dtype.is_float
    ):
        value = float(known.reshape(-1)[0])
        if value == 0.5:
            simple = b.sqrt(base)
        elif value == -1.0:
            simple = b.reciprocal(base)
        else:
            simple = reduce(b.mul, [base] * int(value))
        return (
            simple
            if exponent.rank <= base.rank
            else b.reshape(simple, shape=(1,) * (exponent.rank - base.rank) + base.shape)
        )
    if base.dtype == exponent.dtype:
        return b.pow(base, exponent)
    wide = base.dtype if base.dtype.is_float else f32 if not exponent.dtype.is_float else exponent.dtype
    if base.dtype.is_integer and exponent.dtype.is_integer:
        wide = base.dtype if base.dtype.bits >= exponent.dtype.bits else exponent.dtype
    return b.cast(b.pow(b.cast(base, dtype=wide), b.cast(exponent, dtype=wide)), dtype=base.dtype)


@onnx_op("Mod")
def modulo(context: Context, node: NodeView) -> Value:
    a, b = node.inputs
    return (context.builder.fmod if node.attribute("fmod", 0) else context.builder.mod)(a, b)


@onnx_op("BitShift")
def bit_shift(context: Context, node: NodeView) -> Value:
    left = node.attribute("direction") == "LEFT"
    return (context.builder.shift_left if left else context.builder.shift_right)(*node.inputs)


@onnx_op("Max", "Min", "Sum")
def variadic(context: Context, node: NodeView) -> Value:
    op = {"Max": context.builder.max, "Min": context.builder.min, "Sum": context.builder.add}[node.op_type]
    return reduce(op, node.inputs)


@onnx_op("Mean")
def mean(context: Context, node: NodeView) -> Value:
    return context.builder.div(reduce(context.builder.add, node.inputs), len(node.inputs))


@onnx_op("Where")
def where(context: Context, node: NodeView) -> Value:
    return context.builder.select(*node.inputs)


@onnx_op("Cast", "CastLike")
def cast(context: Context, node: NodeView) -> Value:
    number = node.attribute("to")
    dtype = node.input(1).dtype if number is None else context.dtype(number)
    extra = {"rounding": node.attribute("round_mode", "up")} if dtype == f8e8m0 else {}
    return context.builder.cast(
        node.input(0), dtype=dtype, saturate=bool(node.attribute("saturate", 1)), **extra
    )


@onnx_op("BitCast")
def bit_cast(context: Context, node: NodeView) -> Value:
    """A bool is one byte, 0 or 1."""
    b, x, dtype = context.builder, node.input(0), context.dtype(node.attribute("to"))
    if bool_ in (x.dtype, dtype) and x.dtype != dtype:
        if x.dtype.bits != dtype.bits:
            context.unsupported(f"a change from {x.dtype} to {dtype}, which is not as wide")
        byte = b.cast(x, dtype=u8) if x.dtype == bool_ else b.bitcast(x, dtype=u8)
        return b.cast(byte, dtype=bool_) if dtype == bool_ else b.bitcast(byte, dtype=dtype)
    return b.bitcast(x, dtype=dtype)


@onnx_op("IsInf")
def is_inf(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    positive, negative = node.attribute("detect_positive", 1), node.attribute("detect_negative", 1)
    if positive and negative:
        return b.isinf(x)
    if positive or negative:
        return b.eq(x, math.inf if positive else -math.inf)
    return b.lt(x, -math.inf)  # neither sign is asked for: false everywhere


@onnx_op("Clip", since=11)
def clip(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    for position, op in ((1, b.max), (2, b.min)):
        limit = node.input(position)
        if limit is not None:
            x = op(x, b.reshape(limit, shape=()) if limit.rank else limit)
    return x


@onnx_op("Clip")
def clip_6(context: Context, node: NodeView) -> Value:
    x, low, high = node.input(0), node.attribute("min"), node.attribute("max")
    x = x if low is None else context.builder.max(x, low)
    return x if high is None else context.builder.min(x, high)


@onnx_op("PRelu")
def prelu(context: Context, node: NodeView) -> Value:
    b, (x, slope) = context.builder, node.inputs
    if (
        slope.rank < x.rank
        and slope.rank == 1
        and x.rank > 1
        and slope.shape[0] == x.shape[1]
        and slope.shape[0] != x.shape[-1]
    ):
        slope = b.reshape(slope, shape=(slope.shape[0], *(1,) * (x.rank - 2)))
    return b.select(b.lt(x, 0), b.mul(x, slope), x)


def _float_attribute(node: NodeView, name: str, default: float) -> float:
    return float(np.float32(node.attribute(name, default)))


@onnx_op("LeakyRelu")
def leaky_relu(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.select(b.lt(x, 0), b.mul(x, _float_attribute(node, "alpha", 0.01)), x)


@onnx_op("Elu")
def elu(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.select(b.lt(x, 0), b.mul(b.expm1(b.min(x, 0)), _float_attribute(node, "alpha", 1.0)), x)


@onnx_op("Selu")
def selu(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    alpha = _float_attribute(node, "alpha", 1.67326319217681884765625)
    gamma = _float_attribute(node, "gamma", 1.05070102214813232421875)
    return b.mul(b.select(b.le(x, 0), b.mul(b.expm1(b.min(x, 0)), alpha), x), gamma)


@onnx_op("Celu")
def celu(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    alpha = _float_attribute(node, "alpha", 1.0)
    low = b.mul(b.expm1(b.div(b.min(x, 0), alpha)), alpha)
    return b.add(b.max(x, 0), low)


@onnx_op("ThresholdedRelu")
def thresholded_relu(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.select(b.gt(x, _float_attribute(node, "alpha", 1.0)), x, 0)


@onnx_op("HardSigmoid")
def hard_sigmoid(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    line = b.add(b.mul(x, _float_attribute(node, "alpha", 0.2)), _float_attribute(node, "beta", 0.5))
    return b.max(b.min(line, 1), 0)


@onnx_op("HardSwish")
def hard_swish(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.mul(x, b.max(b.min(b.add(b.mul(x, 1 / 6), 0.5), 1), 0))


@onnx_op("Softplus")
def softplus(context: Context, node: NodeView) -> Value:
    return stable_softplus(context, node.input(0))


def stable_softplus(context: Context, x: Value) -> Value:
    """max(x, 0) + log1p(exp(-|x|)), which never overflows."""
    b = context.builder
    return b.add(b.max(x, 0), b.log1p(b.exp(b.neg(b.abs(x)))))


@onnx_op("Mish")
def mish(context: Context, node: NodeView) -> Value:
    return context.builder.mul(node.input(0), context.builder.tanh(stable_softplus(context, node.input(0))))


@onnx_op("Softsign")
def softsign(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.div(x, b.add(b.abs(x), 1))


@onnx_op("Swish")
def swish(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.mul(x, b.sigmoid(b.mul(x, _float_attribute(node, "alpha", 1.0))))


@onnx_op("Gelu")
def gelu(context: Context, node: NodeView) -> Value:
    return context.builder.gelu(node.input(0), approximate=node.attribute("approximate", "none"))


@onnx_op("Shrink")
def shrink(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    bias, limit = _float_attribute(node, "bias", 0.0), _float_attribute(node, "lambd", 0.5)
    wide = x if x.dtype.is_float else b.cast(x, dtype=f32)
    low = b.select(b.lt(wide, -limit), b.add(wide, bias), 0)
    result = b.select(b.gt(wide, limit), b.sub(wide, bias), low)
    return b.cast(result, dtype=x.dtype)


@onnx_op("Identity")
def identity(context: Context, node: NodeView) -> Value:
    return node.input(0)


@onnx_op("Size")
def size(context: Context, node: NodeView) -> Value:
    return context.size(product(node.input(0).shape), i64)
