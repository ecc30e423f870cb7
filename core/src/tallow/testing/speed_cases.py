"""Cases of the micro-benchmark: single operators with their arithmetic, and the few that the kit measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tallow.builder import Builder
from tallow.graph import Graph, Value


@dataclass(frozen=True, slots=True)
class Case:
    """One graph. `name` begins with its family. `operations` counts a multiplication and an addition
    as two, and is 0 where memory is the only honest ceiling."""

    name: str
    write: Callable[[Builder], Value]
    operations: int = 0

    def graph(self) -> Graph:
        builder = Builder("micro")
        return builder.finish({"y": self.write(builder)})


def bytes_moved(graph: Graph) -> int:
    """The least that must be moved: each input, weight and result once."""
    weights = [node["value"].nbytes for node in graph.nodes if node.op == "constant"]
    ports = [math.prod(v.shape) * v.dtype.numpy.itemsize for v in (*graph.inputs, *graph.outputs)]
    return sum(weights) + sum(ports)


def _x(builder: Builder, *shape: int, name: str = "x") -> Value:
    return builder.input(name, "f32", shape)


def _weights(builder: Builder, *shape: int, fan: int = 1) -> Value:
    noise = np.random.default_rng(len(builder.nodes)).standard_normal(shape, np.float32)
    return builder.constant(noise / np.float32(math.sqrt(fan)))


def matmul(m: int, k: int, n: int, packed: bool) -> Case:
    def write(b: Builder) -> Value:
        return b.matmul(_x(b, m, k), _weights(b, k, n, fan=k) if packed else _x(b, k, n, name="w"))

    family = "gemv" if m == 1 else "gemm"
    return Case(f"{family} {'packed' if packed else 'run-time'} {m}x{k}x{n}", write, 2 * m * k * n)


def batched(batch: int, m: int, k: int, n: int) -> Case:
    return Case(
        f"gemm run-time {batch} of {m}x{k}x{n}",
        lambda b: b.matmul(_x(b, batch, m, k), _x(b, batch, k, n, name="w")),
        2 * batch * m * k * n,
    )


def conv(
    what: str,
    channels: int,
    size: int,
    results: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Case:
    """A convolution with a bias and relu; padded so that stride 1 keeps the size."""
    pad = dilation * (kernel - 1) // 2
    fan = channels // groups * kernel * kernel
    after = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1

    def write(b: Builder) -> Value:
        y = b.conv(
            _x(b, 1, channels, size, size),
            _weights(b, results, channels // groups, kernel, kernel, fan=fan),
            groups=groups,
            strides=(stride, stride),
            pads=((pad, pad), (pad, pad)),
            dilations=(dilation, dilation),
        )
        return b.relu(b.add(y, _weights(b, results, 1, 1)))

    name = f"{what} {kernel}x{kernel} {channels} to {results} at {size}"
    name += f" stride {stride}" * (stride > 1) + f" dilation {dilation}" * (dilation > 1)
    name += f" in {groups} groups" * (1 < groups < channels)
    return Case(name, write, 2 * results * fan * after * after)


def depthwise(channels: int, size: int, kernel: int, stride: int = 1) -> Case:
    return conv("depthwise", channels, size, channels, kernel, stride, groups=channels)


def attention(heads: int, queries: int, keys: int, width: int, causal: bool = False) -> Case:
    def write(b: Builder) -> Value:
        q = _x(b, 1, heads, queries, width, name="q")
        k, v = (_x(b, 1, heads, keys, width, name=name) for name in "kv")
        return b.attention(q, k, v, scale=width**-0.5, causal=causal)

    name = f"attention {heads} heads, {queries} on {keys} of {width}" + ", causal" * causal
    pairs = queries * (queries + 1) // 2 if causal else queries * keys
    return Case(name, write, 4 * heads * pairs * width)


def rows(family: str, *shape: int) -> Case:
    def write(b: Builder) -> Value:
        x = _x(b, *shape)
        axis = len(shape) - 1
        if family in ("softmax", "log_softmax"):
            return b.emit(family, x, axis=axis)
        weights = [_weights(b, shape[-1]) for _ in range(1 if family == "rms_norm" else 2)]
        return b.emit(family, x, *weights, axis=axis, epsilon=1e-5)

    return Case(f"{family} {'x'.join(map(str, shape))}", write)


def _chain(b: Builder, *shape: int) -> Value:
    """gelu(x * scale + shift) + residual, as after a layer of a transformer."""
    scaled = b.add(b.mul(_x(b, *shape), _weights(b, shape[-1])), _weights(b, shape[-1]))
    return b.add(b.gelu(scaled, approximate="none"), _x(b, *shape, name="residual"))


def copy(*shape: int) -> Case:
    """The least work on an array that is still a kernel: its elements with the other sign."""
    return Case(f"elementwise neg {'x'.join(map(str, shape))}", lambda b: b.neg(_x(b, *shape)))


def elementwise() -> Iterator[Case]:
    for name in ("exp", "tanh", "sigmoid", "erf", "relu"):
        yield Case(f"elementwise {name} 1024x1024", lambda b, name=name: b.emit(name, _x(b, 1024, 1024)))
    yield Case("elementwise add 4096x4096", lambda b: b.add(_x(b, 4096, 4096), _x(b, 4096, 4096, name="y")))
    for rows, columns in ((128, 3072), (4096, 4096)):
        yield Case(f"elementwise chain {rows}x{columns}", lambda b, r=rows, c=columns: _chain(b, r, c))


CASES = (
    matmul(1024, 1024, 1024, True),
    matmul(1024, 1024, 1024, False),
    matmul(197, 768, 2304, True),
    matmul(1, 4096, 4096, True),
    conv("conv", 64, 56, 64, 3),
    conv("conv", 256, 56, 64, 1),
    conv("conv", 3, 224, 64, 7, stride=2),
    depthwise(144, 56, 3),
    attention(12, 197, 197, 64),
    rows("softmax", 12, 512, 512),
    rows("layer_norm", 4096, 1024),
    *elementwise(),
)
