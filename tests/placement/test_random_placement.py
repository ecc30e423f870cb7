"""Random graphs on random devices: whatever these refuse, the results are those of the numpy meaning."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from placement_support import forget, host_steps, register

import tallow
from tallow import artifact
from tallow.builder import Builder
from tallow.compile import open_compiled
from tallow.dim import symbol
from tallow.dtype import dtype
from tallow.graph import TensorType

UNARY = ("neg", "exp", "sin", "abs", "tanh", "floor")
BINARY = ("add", "mul", "sub", "max")
ALL = (
    *UNARY,
    *BINARY,
    "reduce",
    "transpose",
    "reshape",
    "softmax",
    "nonzero",
    "gather",
    "cast",
    "concat",
    "select",
)


class Growing:
    """A graph that grows by one random operator at a time; `values` are f32 of rank 2."""

    def __init__(self, draw):
        self.draw, self.b, self.count = draw, Builder("random"), 0
        columns = draw(st.sampled_from(["m", 3]))
        self.values = [self.b.input(name, "f32", ["n", columns]) for name in ("x", "y")]

    def pick(self):
        return self.draw(st.sampled_from(self.values))

    def like(self, value):
        return self.draw(st.sampled_from([v for v in self.values if v.shape == value.shape]))

    def grow(self, deep: bool = True) -> None:
        b, x = self.b, self.pick()
        kinds = [
            "unary",
            "binary",
            "reduce",
            "transpose",
            "reshape",
            "softmax",
            "concat",
            "where",
            "constant",
        ]
        kind = self.draw(st.sampled_from([*kinds, *(["if", "loop", "nonzero"] * deep)]))
        match kind:
            case "unary":
                made = b.emit(self.draw(st.sampled_from(UNARY)), x)
            case "binary":
                made = b.emit(self.draw(st.sampled_from(BINARY)), x, self.like(x))
            case "constant":
                made = b.mul(x, b.constant(np.linspace(-1, 1, 3, dtype="f4")[self.draw(st.integers(0, 2))]))
            case "reduce":
                function = self.draw(st.sampled_from(["add", "max"]))
                least = b.broadcast(b.constant(np.float32(0)), shape=(1, x.shape[1]))
                total = b.reduce(b.concat(x, least, axis=0), function=function, axes=(0,), keepdims=True)
                made = b.sub(x, total)
            case "transpose":
                made = b.transpose(x, permutation=(1, 0))
            case "reshape":
                made = b.neg(b.reshape(x, shape=(1, x.type.size)))
            case "softmax":
                made = b.softmax(x, axis=1)
            case "concat":
                made = b.concat(x, self.like(x), axis=self.draw(st.integers(0, 1)))
            case "where":
                made = b.select(b.gt(x, 0.25), x, self.like(x))
            case "nonzero":
                self.count += 1
                where = b.nonzero(b.gt(x, 0.0), defines=(f"found{self.count}",))
                made = b.cast(where, dtype=dtype("f32"))
            case "if":
                made = self.branch(x)
            case "loop":
                made = self.loop(x)
        self.values.append(made)

    def inside(self, inner: Builder, values) -> Growing:
        growing = object.__new__(Growing)
        growing.draw, growing.b, growing.count, growing.values = self.draw, inner, 0, list(values)
        for _ in range(self.draw(st.integers(1, 3))):
            kind = self.draw(st.sampled_from(["unary", "binary"]))
            x = growing.pick()
            ops = UNARY if kind == "unary" else BINARY
            operands = [x] if kind == "unary" else [x, growing.like(x)]
            growing.values.append(inner.emit(self.draw(st.sampled_from(ops)), *operands))
        return growing

    def branch(self, x):
        b = self.b
        flag = b.gt(b.reduce(x, function="add", axes=(0, 1), keepdims=False), 0.5)
        regions = {}
        for name in ("then", "otherwise"):
            inner = Builder(name, b)
            like = [v for v in self.inside(inner, self.values).values if v.shape == x.shape]
            regions[name] = inner.finish({"z": like[-1]})
        return b.emit("if", flag, **regions, types=(x.type,))

    def loop(self, x):
        b, inner = self.b, Builder("body", self.b)
        inner.input("trip", "i64", [])
        go, state = inner.input("go", "bool", []), inner.input("state", "f32", x.shape)
        like = [v for v in self.inside(inner, [*self.values, state]).values if v.shape == x.shape]
        body = inner.finish({"go": go, "state": inner.tanh(like[-1]), "seen": inner.neg(state)})
        self.count += 1
        name = f"trips{self.count}"
        seen = TensorType(x.dtype, (symbol(name), *x.shape))
        trips = b.constant(np.int64(self.draw(st.integers(0, 3))))
        types = {"types": (x.type, seen), "defines": (name,)}
        return b.emit("loop", trips, b.constant(np.asarray(True)), x, body=body, **types)[0]

    def finish(self):
        last = self.draw(st.lists(st.sampled_from(self.values[-4:]), min_size=1, max_size=3))
        return self.b.finish({f"r{n}": v for n, v in enumerate(last)})


@st.composite
def graphs(draw):
    growing = Growing(draw)
    for _ in range(draw(st.integers(1, 8))):
        growing.grow()
    return growing.finish()


refusals = st.lists(st.sampled_from(ALL), max_size=5, unique=True)
kinds = st.sampled_from(["host", "processor", "graphics"])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.lists(st.tuples(refusals, kinds), min_size=2, max_size=3), st.data())
def test_results_do_not_depend_on_devices(graph, devices, data):
    names = [register(f"dev{n}", refused, kind) for n, (refused, kind) in enumerate(devices)]
    try:
        run = tallow.compile(graph, names)
        for step in host_steps(run):
            assert all(f"{name}: " in step.reason for name in names) or not step.outputs
        n, m = data.draw(st.sampled_from([(2, 3), (0, 3), (1, 1), (3, 0)]))
        rng = np.random.default_rng(n + m)
        columns = graph.inputs[0].shape[1]
        shape = (n, m if not isinstance(columns, int) else columns)
        inputs = {name: rng.standard_normal(shape).astype(np.float32) for name in ("x", "y")}
        wanted = tallow.evaluate(graph, inputs)
        for each in (run, open_compiled(artifact_of(run), device=names)):
            got = each.run(inputs)
            for name, array in wanted.items():
                assert got[name].shape == array.shape
                np.testing.assert_allclose(got[name], array, rtol=2e-5, atol=1e-6)
    finally:
        forget()


def artifact_of(run):
    """What was compiled, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = run.save(Path(folder, "model.tallow"))
        return artifact.read(path)
