"""Cases of the kit: products, convolutions, pools, norms, attention and recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tallow.builder import Builder
from tallow.dtype import DTYPES
from tallow.graph import Value
from tallow.testing.accuracy import EXACT, Accuracy, sum_of
from tallow.testing.case import FLOATS, INTEGERS, LINE, Case, Write

PRODUCTS = (
    {"n": 3, "k": 17, "m": 5},
    {"n": 1, "k": 33, "m": 19},
    {"n": 37, "k": 1, "m": 1},
    {"n": 5, "k": 0, "m": 7},
    {"n": 0, "k": 4, "m": 4},
    {"n": 33, "k": 40, "m": 67},
)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(-1, 1, shape)


def constant(b: Builder, dtype: str, *shape: int) -> Value:
    return b.constant(weights(*shape), dtype_=dtype)


def _products() -> Iterator[Case]:
    def plain(b, d):
        return b.matmul(b.input("x", d, ("n", "k")), b.input("w", d, ("k", "m")))

    def packed(b, d):
        return b.matmul(b.input("x", d, ("n", 19)), constant(b, d, 19, 37))

    def fused(b, d):
        return b.relu(b.add(b.matmul(b.input("x", d, ("n", 19)), constant(b, d, 19, 37)), constant(b, d, 37)))

    def batched(b, d):
        return b.matmul(b.input("x", d, ("n", "k", 5)), b.input("w", d, ("n", 5, "m")))

    def shared(b, d):
        return b.matmul(b.input("x", d, (2, "n", "k")), b.input("w", d, ("k", "m")))

    def turned(b, d):
        w = b.transpose(b.input("w", d, ("m", "k")), permutation=(1, 0))
        return b.matmul(b.input("x", d, ("n", "k")), w)

    lines = ({"n": 1}, {"n": 7}, {"n": 0}, {"n": 66})
    how = {"dtypes": (*FLOATS, *INTEGERS), "accuracy": sum_of(40), "special": False}
    yield Case("matmul", plain, quick=("f32", "f16", "i32"), sizes=PRODUCTS, **how)
    yield Case("matmul, constant weights", packed, sizes=lines, **how)
    yield Case("matmul, bias and relu", fused, sizes=lines, **how | {"dtypes": FLOATS})
    yield Case("matmul, batched", batched, quick=("f32",), sizes=PRODUCTS, **how)
    yield Case("matmul, one operand for all", shared, quick=("f32",), sizes=PRODUCTS, **how)
    yield Case("matmul, transposed", turned, quick=("f32",), sizes=PRODUCTS, **how)


def _window(rank: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> dict:
    return {"strides": (stride,) * rank, "pads": ((pad, pad),) * rank, "dilations": (dilation,) * rank}


def _convolutions() -> Iterator[Case]:
    pictures = tuple({"n": n, "h": h} for n, h in ((1, 9), (2, 7), (0, 5), (1, 14)))

    def conv(channels: int, results: int, size: int, groups: int = 1, **how):
        def write(b, d):
            x = b.input("x", d, ("n", channels, "h", 9))
            w = constant(b, d, results, channels // groups, size, size)
            return b.conv(x, w, groups=groups, **_window(2, **how))

        terms = channels // groups * size * size
        name = f"conv {size}x{size}, {channels} to {results}, {groups} groups, {how or 'plain'}"
        # Winograd's algorithm multiplies rounding errors by up to about ten
        return Case(name, write, FLOATS, ("f32",), pictures, sum_of(10 * terms), special=False)

    yield conv(3, 5, 3, pad=1)
    yield conv(16, 24, 3, pad=1)
    yield conv(8, 9, 1)
    yield conv(3, 8, 5, stride=2, pad=2)
    yield conv(6, 6, 3, groups=6, pad=1)
    yield conv(8, 12, 3, groups=4, dilation=2)

    def run_time(b, d):
        return b.conv(b.input("x", d, (1, 4, "h")), b.input("w", d, (3, 4, 3)), groups=1, **_window(1, pad=1))

    yield Case(
        "conv, weights that are an input",
        run_time,
        FLOATS,
        ("f32",),
        ({"h": 9}, {"h": 1}, {"h": 40}),
        sum_of(14),
        special=False,
    )

    def transposed(b, d):
        x, w = b.input("x", d, ("n", 4, "h", 9)), constant(b, d, 4, 3, 3, 3)
        return b.conv_transpose(x, w, groups=1, output_padding=(0, 0), **_window(2, stride=2, pad=1))

    yield Case("conv_transpose", transposed, FLOATS, ("f32",), pictures, sum_of(40), special=False)

    def interleaved(b, d):
        x, w = b.input("x", d, ("n", 4, "h", 9)), constant(b, d, 4, 3, 4, 2)
        return b.conv_transpose(x, w, groups=2, output_padding=(0, 1), **_window(2, stride=2, pad=1))

    what = "conv_transpose, as many taps at each place of a stride"
    yield Case(what, interleaved, FLOATS, ("f32",), pictures, sum_of(40), special=False)
    for function in ("max", "add"):
        yield Case(
            f"pool {function}",
            lambda b, d, f=function: b.pool(
                b.input("x", d, ("n", 5, "h", 9)), function=f, kernel=(3, 2), **_window(2, stride=2, pad=1)
            ),
            FLOATS,
            ("f32", "f16"),
            pictures,
            sum_of(6) if function == "add" else EXACT,
            special=False,
        )


def _layers() -> Iterator[Case]:
    for name in ("softmax", "log_softmax"):
        yield Case(
            name,
            lambda b, d, name=name: b.emit(name, b.input("x", d, ("n", "m")), axis=1),
            accuracy=Accuracy(16, 0, 1.0 if name == "log_softmax" else 1 / 64),
        )
    for name, count in (("layer_norm", 2), ("rms_norm", 1)):
        yield Case(
            name,
            lambda b, d, name=name, count=count: b.emit(
                name, b.input("x", d, ("n", 33)), *[constant(b, d, 33)] * count, axis=1, epsilon=1e-5
            ),
            sizes=LINE,
            accuracy=Accuracy(64, 0, 1.0),
        )
    for approximate in ("none", "tanh"):
        yield Case(
            f"gelu, {approximate}",
            lambda b, d, a=approximate: b.gelu(b.input("x", d, ("n", "m")), approximate=a),
            accuracy=Accuracy(16, 0, 1.0),
            special=False,
        )
    yield Case("relu", lambda b, d: b.relu(b.input("x", d, ("n", "m"))), (*FLOATS, *INTEGERS), ("f32", "i32"))
    yield Case(
        "iota",
        lambda b, d: b.add(b.iota(dtype=DTYPES[d], shape=(7, 5), axis=0), b.input("x", d, (7, 5))),
        ("f32", "i32", "i64"),
        ("f32", "i32"),
        ({},),
    )

    def attention(causal: bool, mask: bool):
        def write(b, d):
            q, k, v = (b.input(n, d, (1, 2, "n" if n == "q" else "m", 9)) for n in "qkv")
            masks = [b.input("mask", "bool", (1, 1, "n", "m"))] * mask
            more = {"safe": True} if mask else {}
            return b.attention(q, k, v, *masks, scale=1 / 3, causal=causal, **more)

        return write

    pairs = ({"n": 3, "m": 7}, {"n": 1, "m": 1}, {"n": 37, "m": 65})
    for causal, mask in ((False, False), (True, False), (False, True)):
        yield Case(
            f"attention{', causal' * causal}{', masked' * mask}",
            attention(causal, mask),
            FLOATS,
            ("f32", "f16"),
            tuple(s for s in pairs if not causal or s["m"] >= s["n"]),
            Accuracy(64, 0, 1.0),
            special=False,
        )
    for kind, gates in (("lstm", 4), ("gru", 3), ("rnn", 1)):
        yield Case(
            kind,
            _recurrent(kind, gates),
            ("f32", "f64", "f16"),
            ("f32",),
            ({"n": 3}, {"n": 1}),
            Accuracy(64, 0, 1.0),
            (-1, 1),
            False,
        )


def recurrent(b: Builder, kind: str, gates: int, x: Value, hidden: int) -> tuple[Value, ...]:
    """A layer over x[steps, batch, depth] that starts from nothing and goes forward."""
    d, batch, depth = x.dtype.name, x.shape[1], x.shape[2]
    states = [b.broadcast(b.scalar(0.0, d), shape=(1, batch, hidden))] * (2 if kind == "lstm" else 1)
    steps = b.broadcast(b.dims(values=(x.shape[0],), shape=(1,)), shape=(batch,))
    shapes = ((1, gates * hidden, depth), (1, gates * hidden, hidden), (1, 2 * gates * hidden))
    operands = [x, *(constant(b, d, *shape) for shape in shapes), *states, steps]
    names = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}[kind]
    more = {"lstm": {"input_forget": False}, "gru": {"linear_before_reset": False}, "rnn": {}}[kind]
    return b.emit(
        kind, *operands, direction="forward", activations=names, alphas=(), betas=(), clip=0.0, **more
    )


def _recurrent(kind: str, gates: int) -> Write:
    return lambda b, d: recurrent(b, kind, gates, b.input("x", d, (4, "n", 6)), 5)


CASES = (*_products(), *_convolutions(), *_layers())
