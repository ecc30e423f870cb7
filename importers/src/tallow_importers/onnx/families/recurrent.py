"""LSTM, GRU and RNN of ONNX."""

from __future__ import annotations

from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

_DEFAULTS = {"LSTM": (4, ["Sigmoid", "Tanh", "Tanh"]), "GRU": (3, ["Sigmoid", "Tanh"]), "RNN": (1, ["Tanh"])}


@onnx_op("LSTM", "GRU", "RNN")
def recurrent(context: Context, node: NodeView) -> list[Value]:
    x, w, r, bias, lengths, h0 = (node.input(i) for i in range(6))
    b, kind = context.builder, node.op_type
    gates, functions = _DEFAULTS[kind]
    batch_first = node.attribute("layout", 0)
    if batch_first:
        x = b.transpose(x, permutation=(1, 0, 2))
    directions, hidden = r.shape[0], r.shape[2]
    steps, batch = x.shape[:2]

    def state(value: Value | None) -> Value:
        if value is None:
            return b.broadcast(b.scalar(0, x.dtype), shape=(directions, batch, hidden))
        return b.transpose(value, permutation=(1, 0, 2)) if batch_first else value

    if bias is None:
        bias = b.broadcast(b.scalar(0, x.dtype), shape=(directions, 2 * gates * hidden))
    if lengths is None:
        lengths = b.broadcast(context.size(steps), shape=(batch,))
    lengths = b.cast(lengths, dtype=i64)
    activations = [
        a.title() if a.islower() else a for a in node.attribute("activations") or functions * directions
    ]
    options = {
        "direction": node.attribute("direction", "forward"),
        "activations": tuple(activations),
        "alphas": tuple(node.attribute("activation_alpha") or ()),
        "betas": tuple(node.attribute("activation_beta") or ()),
        "clip": float(node.attribute("clip", 0.0)),
    }
    if kind == "LSTM":
        peepholes = node.input(7)
        options["input_forget"] = bool(node.attribute("input_forget", 0))
        extra = [] if peepholes is None else [peepholes]
        results = b.lstm(x, w, r, bias, state(h0), state(node.input(6)), lengths, *extra, **options)
    elif kind == "GRU":
        options["linear_before_reset"] = bool(node.attribute("linear_before_reset", 0))
        results = b.gru(x, w, r, bias, state(h0), lengths, **options)
    else:
        results = b.rnn(x, w, r, bias, state(h0), lengths, **options)
    y, *finals = results
    if batch_first:
        y = b.transpose(y, permutation=(2, 0, 1, 3))
        finals = [b.transpose(f, permutation=(1, 0, 2)) for f in finals]
    return [y, *finals]
