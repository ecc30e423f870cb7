"""Three operators of one's own in one model: an index rule, a decomposition, and a numpy meaning alone."""

import numpy as np

import tallow
from tallow.builder import Builder
from tallow.graph import TensorType
from tallow.kernel.build import call, const


def hard_swish(arrays, attributes):
    (x,) = arrays
    return x * np.clip(x / 6 + 0.5, 0, 1).astype(x.dtype)


def hard_swish_element(node, index, read):
    x = read(0, index)
    gate = call("add", call("div", x, const(6.0, x.dtype)), const(0.5, x.dtype))
    return call("mul", x, call("min", call("max", gate, const(0.0, x.dtype)), const(1.0, x.dtype)))


def normalise(arrays, attributes):
    (x,) = arrays
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + np.float32(1e-6))


def write_normalise(builder, node):
    (x,) = node.inputs
    squares = builder.reduce(builder.mul(x, x), function="add", axes=(x.rank - 1,), keepdims=True)
    return builder.mul(x, builder.rsqrt(builder.add(squares, 1e-6)))


def median(arrays, attributes):
    return np.median(arrays[0], -1).astype(arrays[0].dtype)


def like_the_operand(types, attributes):
    return types[0]


def without_last_axis(types, attributes):
    return TensorType(types[0].dtype, types[0].shape[:-1])


def main() -> None:
    tallow.register_op(
        "mine.hard_swish", like_the_operand, hard_swish, index=hard_swish_element, pointwise=True
    )
    tallow.register_op("mine.normalise", like_the_operand, normalise, decompose=write_normalise)
    tallow.register_op("mine.median", without_last_axis, median)
    b = Builder("three")
    x = b.input("x", "f32", ["rows", 16])
    weights = np.random.default_rng(0).standard_normal((16, 16), np.float32)
    y = b.emit("mine.normalise", b.emit("mine.hard_swish", b.matmul(x, b.constant(weights))))
    graph = b.finish({"y": y, "median": b.emit("mine.median", y)})
    run = tallow.compile(graph)
    inputs = {"x": np.random.default_rng(1).standard_normal((5, 16), np.float32)}
    results, meant = run.run(inputs), tallow.evaluate(graph, inputs)
    off = max(float(np.abs(results[name] - meant[name]).max()) for name in meant)
    for step in run.plan.steps:
        print(f"{step.place:4} {step.label} {step.reason}")
    print(f"largest difference from the numpy meaning: {off:.1e}")


if __name__ == "__main__":
    main()
