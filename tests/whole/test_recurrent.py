"""LSTM, GRU and RNN: compiled layers agree with evaluate and with onnxruntime."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.dim import evaluate
from tallow.dtype import DTYPES
from tallow.errors import GraphError
from tallow.ops.recurrence import ACTIVATIONS
from tallow.stages import lower, prepare

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RESULTS = {"LSTM": ["Y", "Y_h", "Y_c"], "GRU": ["Y", "Y_h"], "RNN": ["Y", "Y_h"]}
PLENTY = {"LSTM": 3, "GRU": 2, "RNN": 1}  # activations of a direction


@dataclass
class Layer:
    """One recurrent node with sizes `batch` and `seq` left open."""

    kind: str
    hidden: int = 17
    direction: str = "forward"
    inputs: int = 5
    optional: frozenset = frozenset({"bias"})
    attributes: dict = field(default_factory=dict)

    def save(self, path):
        count, rows = (2 if self.direction == "bidirectional" else 1), GATES[self.kind] * self.hidden
        rng = np.random.default_rng(self.hidden)
        batch_first = self.attributes.get("layout", 0) == 1

        def weights(*shape):
            return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype("f4")

        constants = {"W": weights(count, rows, self.inputs), "R": weights(count, rows, self.hidden)}
        if "bias" in self.optional:
            constants["B"] = weights(count, 2 * rows)
        if "peepholes" in self.optional:
            constants["P"] = weights(count, 3 * self.hidden)
        x = ["batch", "seq"] if batch_first else ["seq", "batch"]
        state = ["batch", count, self.hidden] if batch_first else [count, "batch", self.hidden]
        ports = {"X": ([*x, self.inputs], "FLOAT")}
        if "lengths" in self.optional:
            ports["lengths"] = (["batch"], "INT32")
        for name in ["h0", *(["c0"] if self.kind == "LSTM" else [])] if "states" in self.optional else []:
            ports[name] = (state, "FLOAT")
        names = ["X", "W", "R", "B", "lengths", "h0", *(["c0", "P"] if self.kind == "LSTM" else [])]
        node = helper.make_node(
            self.kind,
            [n if n in ports or n in constants else "" for n in names],
            RESULTS[self.kind],
            hidden_size=self.hidden,
            direction=self.direction,
            **self.attributes,
        )
        made = [helper.make_tensor_value_info(n, getattr(TensorProto, t), s) for n, (s, t) in ports.items()]
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in RESULTS[self.kind]]
        tensors = [numpy_helper.from_array(a, n) for n, a in constants.items()]
        graph = helper.make_graph([node], "g", made, results, tensors)
        path.write_bytes(
            helper.make_model(
                graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8
            ).SerializeToString()
        )
        return path

    def feed(self, model, batch, seq, seed=0):
        rng = np.random.default_rng(seed)
        sizes = {"batch": batch, "seq": seq}
        feed = {}
        for port in model.inputs:
            shape = tuple(sizes.get(str(d), d) for d in port.shape)
            feed[port.name] = (
                rng.integers(0, seq + 1, shape).astype("i4")
                if port.name == "lengths"
                else rng.normal(size=shape).astype("f4")
            )
        return feed


def close(got, want, tolerance=2e-6):
    for name, expected in want.items():
        assert got[name].shape == expected.shape and got[name].dtype == expected.dtype
        np.testing.assert_allclose(
            got[name].astype("f8"), expected.astype("f8"), tolerance, tolerance, err_msg=name
        )


def native(executable):
    """No step of the recurrence runs in Python."""
    assert not [s.label for s in executable.plan.steps if s.place == "host"], str(executable.plan)


def check(layer, tmp_path, sizes=((5, 7),), device="cpu"):
    path = layer.save(tmp_path / "layer.onnx")
    model = tallow.load(path)
    executable = tallow.compile(model, device)
    native(executable)
    for batch, seq in sizes:
        feed = layer.feed(model, batch, seq)
        got = executable.run(feed)
        close(got, tallow.evaluate(model.graph, feed))
        if batch and seq and not layer.attributes.get("layout"):  # onnxruntime takes no other
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            if "lengths" in feed:  # of an empty sequence it forgets the initial states
                feed["lengths"] = np.maximum(feed["lengths"], 1)
            close(
                executable.run(feed),
                dict(zip(RESULTS[layer.kind], session.run(None, feed), strict=True)),
                2e-5,
            )


FULL = frozenset({"bias", "lengths", "states"})
LAYERS = {
    "lstm": Layer("LSTM", 17),
    "lstm with everything": Layer("LSTM", 33, "bidirectional", optional=FULL | {"peepholes"}),
    "lstm of one direction back": Layer("LSTM", 3, "reverse", optional=frozenset({"lengths"})),
    "lstm of coupled gates": Layer("LSTM", 20, attributes={"input_forget": 1}),
    "lstm of two blocks": Layer("LSTM", 32, "bidirectional", optional=FULL, attributes={"clip": 0.3}),
    "gru": Layer("GRU", 33, "bidirectional", optional=FULL),
    "gru after reset": Layer("GRU", 17, optional=FULL, attributes={"linear_before_reset": 1}),
    "gru back": Layer("GRU", 3, "reverse", optional=FULL, attributes={"clip": 0.4}),
    "rnn": Layer("RNN", 17, "bidirectional", optional=FULL),
    "rnn of many blocks": Layer("RNN", 200, "forward", optional=frozenset()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    check(LAYERS[name], tmp_path, [(1, 7), (5, 7), (8, 2), (0, 7), (5, 0), (1, 1)])


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("arch", ["x86-64-v2", "x86-64-v3"])
def test_other_register_files(kind, arch, tmp_path):
    check(Layer(kind, 33, "bidirectional", optional=FULL), tmp_path, [(1, 7), (6, 3)], f"cpu:{arch}")


@pytest.mark.parametrize("kind", GATES)
def test_batch_first(kind, tmp_path):
    layer = Layer(kind, 17, "bidirectional", optional=FULL, attributes={"layout": 1})
    check(layer, tmp_path, [(1, 7), (5, 3)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, tmp_path):
    parameters = {
        "activations": ["Tanh", name],
        "activation_alpha": [0.5, 0.7],
        "activation_beta": [0.5, 0.4],
    }
    check(Layer("RNN", 17, "bidirectional", attributes=parameters), tmp_path)


def test_default_parameters_of_activations(tmp_path):
    for name in ("LeakyRelu", "HardSigmoid", "Elu"):
        check(Layer("RNN", 17, attributes={"activations": [name]}), tmp_path)


def test_unknown_activations_are_refused():
    b = Builder()
    x, w = b.input("x", "f32", [2, 1, 3]), b.constant(np.zeros((1, 4, 3), "f4"))
    r, bias = b.constant(np.zeros((1, 4, 4), "f4")), b.constant(np.zeros((1, 8), "f4"))
    h, lengths = b.constant(np.zeros((1, 1, 4), "f4")), b.constant(np.zeros(1, "i8"))
    spec = {"direction": "forward", "alphas": (), "betas": (), "clip": 0.0}
    with pytest.raises(GraphError, match="unknown activation 'Swish': expected one of Sigmoid, Tanh"):
        b.rnn(x, w, r, bias, h, lengths, activations=("Swish",), **spec)
    with pytest.raises(GraphError, match="do not fit bidirectional"):
        b.rnn(x, w, r, bias, h, lengths, activations=("Tanh",), **{**spec, "direction": "bidirectional"})


def built(kind, dtype, hidden=17, constant=False, activations=None):
    """A layer whose weights are inputs, unless they are constant."""
    b = Builder()
    x = b.input("x", dtype, ["seq", "batch", 6])
    rows = GATES[kind] * hidden
    rng = np.random.default_rng(0)
    feed = {}

    def weights(name, *shape):
        array = (rng.normal(size=shape) / 3).astype(DTYPES[dtype].numpy)
        if constant:
            return b.constant(array)
        feed[name] = array
        return b.input(name, dtype, list(shape))

    operands = [weights("w", 1, rows, 6), weights("r", 1, rows, hidden), weights("b", 1, 2 * rows)]
    states = [b.input(n, dtype, [1, "batch", hidden]) for n in ("h0", "c0")[: 1 + (kind == "LSTM")]]
    lengths = b.input("lengths", "i64", ["batch"])
    spec = {"direction": "forward", "alphas": (), "betas": (), "clip": 0.0}
    extra = {"LSTM": {"input_forget": False}, "GRU": {"linear_before_reset": False}, "RNN": {}}[kind]
    names = (
        activations
        or {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}[kind]
    )
    results = b.emit(kind.lower(), x, *operands, *states, lengths, activations=names, **spec, **extra)
    for state in states:
        feed[state.name] = rng.normal(size=(1, 3, hidden)).astype(DTYPES[dtype].numpy)
    feed["x"] = rng.normal(size=(4, 3, 6)).astype(DTYPES[dtype].numpy)
    feed["lengths"] = np.array([4, 0, 2])
    return b.finish(dict(zip(RESULTS[kind], results, strict=True))), feed


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("dtype,tolerance", [("f64", 1e-13), ("f32", 2e-6), ("f16", 2e-3), ("bf16", 1e-2)])
@pytest.mark.parametrize("constant", [True, False])
def test_dtypes_and_weights_that_are_inputs(kind, dtype, tolerance, constant):
    graph, feed = built(kind, dtype, constant=constant)
    executable = tallow.compile(graph)
    native(executable)
    close(executable.run(feed), tallow.evaluate(graph, feed), tolerance)


def test_what_has_no_kernel_says_why():
    graph, feed = built("RNN", "f64", activations=("Elu",))
    executable = tallow.compile(graph)
    reasons = [s.reason for s in executable.plan.steps if s.place == "host"]
    assert reasons == ["no expm1 of f64 in kernels"]
    close(executable.run(feed), tallow.evaluate(graph, feed), 1e-13)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("hidden", [0, "hidden"])
def test_states_of_no_width_and_of_unknown_width_run_on_the_host(kind, hidden):
    b, size = Builder(), 0 if hidden == 0 else 4
    width = b.input("h0", "f32", [1, "batch", hidden])
    states, hidden = [width, *([width] if kind == "LSTM" else [])], width.shape[2]
    rows = hidden * GATES[kind]
    x, w = b.input("x", "f32", ["seq", "batch", 3]), b.input("w", "f32", [1, rows, 3])
    r, bias = b.input("r", "f32", [1, rows, hidden]), b.input("b", "f32", [1, rows * 2])
    lengths = b.input("lengths", "i64", ["batch"])
    names = ("Sigmoid", "Tanh", "Tanh")[-PLENTY[kind] :]
    spec = {"direction": "forward", "activations": names, "alphas": (), "betas": (), "clip": 0.0}
    spec |= {"LSTM": {"input_forget": False}, "GRU": {"linear_before_reset": False}, "RNN": {}}[kind]
    y, *_ = b.emit(kind.lower(), x, w, r, bias, *states, lengths, **spec)
    graph = b.finish({"Y": y})
    sizes = {"seq": 3, "batch": 2, "hidden": size}
    rng = np.random.default_rng(0)
    feed = {
        v.name: rng.normal(size=[evaluate(d, sizes) for d in v.shape]).astype("f4")
        for v in graph.inputs
        if v.name != "lengths"
    }
    executable = tallow.compile(graph)
    assert [s.place for s in executable.plan.steps].count("host") == 1
    feed["lengths"] = np.array([3, 1])
    close(executable.run(feed), tallow.evaluate(graph, feed))


def test_initial_states_of_one_sequence_serve_all():
    b = Builder()
    x, h = b.input("x", "f32", ["seq", "batch", 3]), b.input("h", "f32", [1, 1, 5])
    rng = np.random.default_rng(0)
    w, r, bias = (b.constant(rng.normal(size=s).astype("f4")) for s in ((1, 5, 3), (1, 5, 5), (1, 10)))
    spec = {"direction": "forward", "activations": ("Tanh",), "alphas": (), "betas": (), "clip": 0.0}
    y, last = b.rnn(x, w, r, bias, h, b.input("lengths", "i64", ["batch"]), **spec)
    graph = b.finish({"Y": y, "Y_h": last})
    feed = {"x": rng.normal(size=(4, 1, 3)).astype("f4"), "h": rng.normal(size=(1, 1, 5)).astype("f4")}
    feed["lengths"] = np.array([3])
    native(executable := tallow.compile(graph))
    close(executable.run(feed), tallow.evaluate(graph, feed))


def test_steps_refuse_what_does_not_fit():
    b = Builder()
    h, lengths = b.input("h", "f32", [1, 2, 17]), b.input("lengths", "i64", [2])
    projected, weights = b.input("p", "f32", [6, 17]), b.input("w", "f32", [1, 2, 17, 1, 16])
    spec = {"direction": "forward", "activations": ("Tanh",), "alphas": (), "betas": (), "clip": 0.0}
    with pytest.raises(GraphError, match=r"rnn_steps: expected projected inputs \[8, 17\]"):
        b.rnn_steps(projected, lengths, h, weights, steps=4, **spec)
    with pytest.raises(GraphError, match=r"expected packed weights \[1, 2, 17, 1, 16\], got f32\[6, 17\]"):
        b.rnn_steps(projected, lengths, h, projected, steps=3, **spec)
    assert b.rnn_steps(projected, lengths, h, weights, steps=3, **spec)[0].shape == (3, 1, 2, 17)


@pytest.mark.parametrize("kind", GATES)
def test_the_common_lowering_on_the_interpreter(kind):
    graph, feed = built(kind, "f32", hidden=5, constant=True)
    executable = tallow.compile(graph, "fake")
    assert [s.label for s in executable.plan.steps if s.place == "host"] == ["matmul"]
    close(executable.run(feed), tallow.evaluate(graph, feed))


@pytest.mark.parametrize("kind", GATES)
def test_threads_do_not_change_bits(kind, tmp_path):
    layer = Layer(kind, 33, "bidirectional", optional=FULL)
    path = layer.save(tmp_path / "layer.onnx")
    feed = layer.feed(tallow.load(path), 9, 11)
    runs = [tallow.compile(path, threads=t).run(feed) for t in (1, 2, 4)]
    for name in RESULTS[kind]:
        np.testing.assert_array_equal(runs[0][name], runs[1][name])
        np.testing.assert_array_equal(runs[0][name], runs[2][name])


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_a_sequence_has_the_same_bits_in_any_batch(batch, tmp_path):
    layer = Layer("LSTM", 33, "bidirectional")
    path = layer.save(tmp_path / "layer.onnx")
    open_sizes, model = tallow.compile(path), tallow.load(path)
    feed = layer.feed(model, batch, 6)
    fixed = tallow.compile(model, dims={"batch": batch, "seq": 6}).run(feed)
    many = open_sizes.run(feed)
    one = open_sizes.run({"X": feed["X"][:, -1:]})
    np.testing.assert_array_equal(fixed["Y"], many["Y"])
    np.testing.assert_array_equal(many["Y"][:, :, -1:], one["Y"])


def test_infinity_and_nan_stay_in_their_sequence(tmp_path):
    layer = Layer("LSTM", 17)
    path = layer.save(tmp_path / "layer.onnx")
    model = tallow.load(path)
    feed = layer.feed(model, 6, 4)
    feed["X"][1, 2], feed["X"][2, 4] = np.nan, np.inf
    got, want = tallow.compile(model).run(feed), tallow.evaluate(model.graph, feed)
    for name, expected in want.items():
        np.testing.assert_allclose(got[name], expected, 2e-6, 2e-6)
    assert np.isnan(got["Y"][1:, :, 2]).all() and np.isfinite(got["Y"][:, :, [0, 1, 3, 5]]).all()


@st.composite
def layers(draw):
    kind = draw(st.sampled_from(list(GATES)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    count = 2 if direction == "bidirectional" else 1
    names = st.sampled_from(["Sigmoid", "Tanh", "Relu", "Softsign", "HardSigmoid"])
    attributes = {
        "activations": draw(st.lists(names, min_size=PLENTY[kind] * count, max_size=PLENTY[kind] * count))
    }
    if draw(st.booleans()):
        attributes["clip"] = 0.5
    if kind == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    optional = draw(st.frozensets(st.sampled_from(["bias", "lengths", "states", "peepholes"])))
    if kind != "LSTM":
        optional -= {"peepholes"}
    hidden = draw(st.sampled_from([1, 3, 16, 17, 33, 64]))
    return Layer(kind, hidden, direction, draw(st.integers(1, 9)), optional, attributes)


@settings(max_examples=20, deadline=None)
@given(layers(), st.integers(0, 9), st.integers(0, 5), st.integers(0, 3))
def test_random_layers(layer, batch, seq, seed):
    with tempfile.TemporaryDirectory() as folder:
        model = tallow.load(layer.save(Path(folder) / "layer.onnx"))
    feed = layer.feed(model, batch, seq, seed)
    executable = tallow.compile(model)
    native(executable)
    close(executable.run(feed), tallow.evaluate(model.graph, feed), 5e-6)


def test_kernels_for_other_processors_compile():
    graph, _ = built("LSTM", "f32", constant=True)
    backend = plugins.backend("cpu")
    for arch in ("aarch64-linux-gnu", "x86-64"):
        target = backend.target(arch)
        scheduled = lower(prepare(graph, backend, target), backend, target)
        assert backend.compile(list(scheduled.kernels.values()), target).blob
