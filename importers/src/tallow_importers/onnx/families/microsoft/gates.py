"""Activations, gates and sums of the com.microsoft domain that fuse what exporters write as several operators."""

from __future__ import annotations

from tallow.dtype import bool_, f32, i32, u32
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.elementwise import stable_softplus
from tallow_importers.onnx.families.matmul import matmul_any_rank
from tallow_importers.onnx.families.microsoft.attention import parts
from tallow_importers.onnx.families.microsoft.fused import MS, activated, fused_matmul
from tallow_importers.onnx.registry import onnx_op


def widened(context: Context, x: Value | None) -> Value | None:
    """In at least 32 bits: these operators round once, at the end."""
    return context.builder.cast(x, dtype=f32) if x is not None and x.dtype.bits < 32 else x


def halves(context: Context, x: Value) -> list[Value]:
    """Both halves of the last axis."""
    size = x.shape[-1]
    if isinstance(size, int) and size % 2:
        context.unsupported(f"a last axis of {size}: it needs two halves")
    return parts(context, x, x.rank - 1, [size // 2] * 2)


@onnx_op("BiasAdd", domain=MS)
def bias_add(context: Context, node: NodeView) -> Value:
    b, (x, bias, skip) = context.builder, node.inputs
    return b.add(b.add(x, bias), skip)


@onnx_op("BiasSplitGelu", domain=MS)
def bias_split_gelu(context: Context, node: NodeView) -> Value:
    b = context.builder
    left, right = halves(context, b.add(*node.inputs))
    return b.mul(left, b.gelu(right, approximate="none"))


@onnx_op("BiasDropout", domain=MS)
def bias_dropout(context: Context, node: NodeView):
    """Without its training mode, in which it drops at random."""
    b, (data, bias), residual = context.builder, node.inputs[:2], node.input(2)
    mode = node.input(4)
    if mode is not None and context.constant(mode, "a training mode").any():
        context.unsupported("the training mode of BiasDropout")
    y = b.add(data, bias)
    return y if residual is None else b.add(y, residual), b.broadcast(b.scalar(True, bool_), shape=y.shape)


@onnx_op("GemmFastGelu", domain=MS)
def gemm_fast_gelu(context: Context, node: NodeView) -> Value:
    b, (x, w), bias = context.builder, node.inputs[:2], node.input(2)
    y = matmul_any_rank(context, x, w)
    return b.gelu(y if bias is None else b.add(y, bias), approximate="tanh")


@onnx_op("FusedMatMulActivation", domain=MS)
def fused_matmul_activation(context: Context, node: NodeView) -> Value:
    names = ("alpha", "beta", "gamma")
    parameters = [node.attributes[f"activation_{n}"] for n in names if f"activation_{n}" in node.attributes]
    return activated(context, node, fused_matmul(context, node), parameters)


def swiglu(
    context: Context, gate: Value, linear: Value, alpha: float, beta: float, limit: float | None, rounded=None
) -> Value:
    """gate * sigmoid(alpha * gate) * (linear + beta), both held below `limit`, the linear one above -limit;
    the activated gate is rounded to the dtype `rounded`, if there is one."""
    b = context.builder
    if limit is not None:
        gate, linear = b.min(gate, limit), b.max(b.min(linear, limit), -limit)
    linear = linear if beta == 0 else b.add(linear, beta)
    activated_ = b.mul(gate, b.sigmoid(b.mul(gate, alpha)))
    if rounded is not None:
        activated_ = b.cast(b.cast(activated_, dtype=rounded), dtype=gate.dtype)
    return b.mul(activated_, linear)


def _clamped_swiglu(context: Context, node: NodeView, gate: Value, linear: Value, rounded=None) -> Value:
    """With what the node says of it, worked out in 32 bits."""
    alpha, beta = (float(node.attribute(f"activation_{n}", d)) for n, d in (("alpha", 1.0), ("beta", 0.0)))
    limit = float(node.attribute("limit", 0.0))
    wide = (widened(context, v) for v in (gate, linear))
    y = swiglu(context, *wide, alpha, beta, limit if limit > 0 else None, rounded)
    return context.builder.cast(y, dtype=gate.dtype)


@onnx_op("SwiGLU", domain=MS)
def swiglu_node(context: Context, node: NodeView) -> Value:
    x, up = node.input(0), node.input(1)
    gate, linear = halves(context, x) if up is None else (x, up)
    return _clamped_swiglu(
        context, node, gate, linear, x.dtype if node.attribute("round_activation", 0) else None
    )


@onnx_op("RouterGateUpProj", domain=MS)
def router_gate_up_projection(context: Context, node: NodeView) -> list[Value]:
    """The scores of experts, and the activated halves of what the shared expert gets, from one product."""
    size, kind = node.attribute("router_size"), node.attribute("activation", "swiglu")
    if kind != "swiglu":
        context.unsupported(f"activation {kind!r}: swiglu")
    y = matmul_any_rank(context, *node.inputs)
    router, rest = parts(context, y, y.rank - 1, [size, y.shape[-1] - size])
    return [router, _clamped_swiglu(context, node, *halves(context, rest))]


@onnx_op("ScaledSiLU", domain=MS)
def scaled_silu(context: Context, node: NodeView) -> Value:
    """Each step rounds to the dtype of the operand."""
    b, x, factor = context.builder, node.input(0), node.input(1)
    wide = widened(context, x)
    if factor is None:
        scaled = b.mul(wide, float(node.attribute("alpha", 1.0)))
    else:
        scaled = b.mul(wide, b.cast(b.reshape(factor, shape=()), dtype=wide.dtype))
    scaled = b.cast(scaled, dtype=x.dtype)
    gate = b.cast(b.sigmoid(widened(context, scaled)), dtype=x.dtype)
    return b.mul(scaled, gate)


@onnx_op("GatedAdd", domain=MS)
def gated_add(context: Context, node: NodeView) -> Value:
    b, (x, y, gate), weight = context.builder, node.inputs[:3], node.input(3)
    if weight is not None:
        gate = b.sigmoid(b.cast(matmul_any_rank(context, gate, weight), dtype=f32))
        gate = b.cast(gate, dtype=x.dtype)
    return b.add(x, b.mul(y, gate))


@onnx_op("LinearAttentionGate", domain=MS)
def linear_attention_gate(context: Context, node: NodeView):
    """The decay and the update rate of a linear attention from their projections."""
    b, (a, shift, factor), rate = context.builder, node.inputs[:3], node.input(3)
    if node.wants(1) and rate is None:
        context.unsupported("the result beta without the operand b")
    decay = b.mul(stable_softplus(context, b.add(widened(context, a), shift)), factor)
    beta = None if rate is None else b.cast(b.sigmoid(widened(context, rate)), dtype=a.dtype)
    return b.cast(decay, dtype=a.dtype), beta


@onnx_op("MulInteger", domain=MS)
def mul_integer(context: Context, node: NodeView) -> Value:
    """The product of centred codes in 32 bits."""
    b, (x, x_zero, y, y_zero) = context.builder, (node.input(i) for i in range(4))

    def centred(codes: Value, zero: Value | None) -> Value:
        wide = b.cast(codes, dtype=i32)
        return wide if zero is None else b.sub(wide, b.cast(b.reshape(zero, shape=()), dtype=i32))

    return b.mul(centred(x, x_zero), centred(y, y_zero))


@onnx_op("ReduceSumInteger", domain=MS)
def reduce_sum_integer(context: Context, node: NodeView) -> Value:
    """A sum of bytes in 32 bits, of the sign that the bytes have."""
    b, x = context.builder, node.input(0)
    axes = tuple(context.axis(a, x.rank) for a in node.attribute("axes") or range(x.rank))
    wide = b.cast(x, dtype=i32 if x.dtype.kind == "int" else u32)
    return b.reduce(wide, function="add", axes=axes, keepdims=bool(node.attribute("keepdims", 1)))


@onnx_op("IsAllFinite", domain=MS)
def is_all_finite(context: Context, node: NodeView) -> Value:
    """Whether no element of any operand is infinite or no number, as far as the attributes look for these."""
    b = context.builder
    infinite, unordered = not node.attribute("isnan_only", 0), not node.attribute("isinf_only", 0)
    if not infinite and not unordered:
        context.unsupported("isinf_only and isnan_only together")
    worst = b.scalar(0, i32)
    for x in node.inputs:
        for wrong in ([b.isinf(x)] if infinite else []) + ([b.isnan(x)] if unordered else []):
            count = b.cast(wrong, dtype=i32)
            worst = b.max(worst, b.reduce(count, function="max", axes=tuple(range(x.rank)), keepdims=False))
    return b.eq(worst, 0)
