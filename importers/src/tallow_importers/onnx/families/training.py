"""Optimizer steps of ai.onnx.preview.training, written out in tensors."""

from __future__ import annotations

from tallow.dtype import f64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

TRAINING = "ai.onnx.preview.training"


def _groups(context: Context, node: NodeView, kinds: int):
    """Rate and count as scalars, and one tuple (x, gradient, states...) for each optimized tensor."""
    rate, count, *rest = node.inputs
    if len(rest) % kinds:
        context.unsupported(f"{len(rest)} tensors after rate and count, expected a multiple of {kinds}")
    size = len(rest) // kinds
    rows = list(zip(*(rest[i * size : (i + 1) * size] for i in range(kinds)), strict=True))
    b = context.builder
    return b.reshape(rate, shape=()), b.reshape(count, shape=()), rows


def _regularized(context: Context, node: NodeView, x: Value, gradient: Value) -> Value:
    b = context.builder
    return b.add(b.mul(x, float(node.attribute("norm_coefficient", 0.0))), gradient)


def _columns(rows: list[tuple[Value, ...]]) -> list[Value]:
    """All new tensors, then all new states of each kind."""
    return [value for column in zip(*rows, strict=True) for value in column]


@onnx_op("Adagrad", domain=TRAINING)
def adagrad(context: Context, node: NodeView) -> list[Value]:
    b = context.builder
    rate, count, rows = _groups(context, node, 3)
    results = []
    for x, gradient, squares in rows:
        slowed = b.add(b.mul(b.cast(count, dtype=x.dtype), float(node.attribute("decay_factor", 0.0))), 1.0)
        step = b.div(b.cast(rate, dtype=x.dtype), slowed)
        gradient = _regularized(context, node, x, gradient)
        squares = b.add(squares, b.mul(gradient, gradient))
        scale = b.add(b.sqrt(squares), float(node.attribute("epsilon", 1e-6)))
        results.append((b.sub(x, b.div(b.mul(gradient, step), scale)), squares))
    return _columns(results)


@onnx_op("Adam", domain=TRAINING)
def adam(context: Context, node: NodeView) -> list[Value]:
    b = context.builder
    rate, count, rows = _groups(context, node, 4)
    alpha, beta = float(node.attribute("alpha", 0.9)), float(node.attribute("beta", 0.999))
    wide = b.cast(count, dtype=f64)

    def left(base: float) -> Value:
        """1 - base ** count, and 1 before the first update."""
        power = b.pow(b.scalar(base, f64), wide)
        return b.select(b.gt(wide, 0), b.add(b.neg(power), 1.0), b.scalar(1, f64))

    adjusted = b.div(b.mul(b.cast(rate, dtype=f64), b.sqrt(left(beta))), left(alpha))
    results = []
    for x, gradient, mean, squares in rows:
        gradient = _regularized(context, node, x, gradient)
        mean = b.add(b.mul(mean, alpha), b.mul(gradient, 1 - alpha))
        squares = b.add(b.mul(squares, beta), b.mul(b.mul(gradient, gradient), 1 - beta))
        scale = b.add(b.sqrt(squares), float(node.attribute("epsilon", 1e-6)))
        new = b.sub(x, b.div(b.mul(mean, b.cast(adjusted, dtype=x.dtype)), scale))
        new = b.mul(new, 1 - float(node.attribute("norm_coefficient_post", 0.0)))
        results.append((new, mean, squares))
    return _columns(results)


@onnx_op("Momentum", domain=TRAINING)
def momentum(context: Context, node: NodeView) -> list[Value]:
    b = context.builder
    rate, count, rows = _groups(context, node, 3)
    alpha, beta = float(node.attribute("alpha")), float(node.attribute("beta"))
    results = []
    for x, gradient, velocity in rows:
        gradient = _regularized(context, node, x, gradient)
        share = b.select(b.gt(count, 0), b.scalar(beta, x.dtype), b.scalar(1, x.dtype))
        velocity = b.add(b.mul(velocity, alpha), b.mul(gradient, share))
        nesterov = node.attribute("mode") == "nesterov"
        direction = b.add(gradient, b.mul(velocity, alpha)) if nesterov else velocity
        results.append((b.sub(x, b.mul(direction, b.cast(rate, dtype=x.dtype))), velocity))
    return _columns(results)
