"""LSTM, GRU and RNN of ONNX."""

from __future__ import annotations

from dataclasses import dataclass

from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

_DEFAULTS = {"LSTM": (4, ["Sigmoid", "Tanh", "Tanh"]), "GRU": (3, ["Sigmoid", "Tanh"]), "RNN": (1, ["Tanh"])}


@dataclass(frozen=True, slots=True)
class Layer:
    """What the recurrent operators have in common: time-major operands with defaults filled in, and options."""

    x: Value
    bias: Value
    lengths: Value
    h0: Value
    c0: Value | None
    peepholes: Value | None
    options: dict
    batch_first: bool

    def results(self, context: Context, values) -> list[Value]:
        """The results in the layout that the node asks for."""
        y, *finals = values
        if not self.batch_first:
            return [y, *finals]
        b = context.builder
        turned = [b.transpose(f, permutation=(1, 0, 2)) for f in finals]
        return [b.transpose(y, permutation=(2, 0, 1, 3)), *turned]


def layer_of(context: Context, node: NodeView, kind: str, directions: int, hidden: int) -> Layer:
    """The layer of a node whose operands 0 and 3 to 7 stand where LSTM has them."""
    x, bias, lengths, h0, c0, peepholes = (node.input(i) for i in (0, 3, 4, 5, 6, 7))
    b = context.builder
    gates, functions = _DEFAULTS[kind]
    batch_first = bool(node.attribute("layout", 0))
    if batch_first:
        x = b.transpose(x, permutation=(1, 0, 2))
    steps, batch = x.shape[:2]

    def zeros(*shape) -> Value:
        return b.broadcast(b.scalar(0, x.dtype), shape=shape)

    def state(value: Value | None) -> Value:
        if value is None:
            return zeros(directions, batch, hidden)
        return b.transpose(value, permutation=(1, 0, 2)) if batch_first else value

    bias = zeros(directions, 2 * gates * hidden) if bias is None else bias
    lengths = b.broadcast(context.size(steps), shape=(batch,)) if lengths is None else lengths
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
        options["input_forget"] = bool(node.attribute("input_forget", 0))
        c0 = state(c0)
    elif kind == "GRU":
        options["linear_before_reset"] = bool(node.attribute("linear_before_reset", 0))
    lengths = b.cast(lengths, dtype=i64)
    return Layer(x, bias, lengths, state(h0), c0, peepholes, options, batch_first)


@onnx_op("LSTM", "GRU", "RNN")
def recurrent(context: Context, node: NodeView) -> list[Value]:
    b, kind, (w, r) = context.builder, node.op_type, node.inputs[1:3]
    layer = layer_of(context, node, kind, r.shape[0], r.shape[2])
    operands = [layer.x, w, r, layer.bias, layer.h0]
    if kind == "LSTM":
        extra = [] if layer.peepholes is None else [layer.peepholes]
        results = b.lstm(*operands, layer.c0, layer.lengths, *extra, **layer.options)
    elif kind == "GRU":
        results = b.gru(*operands, layer.lengths, **layer.options)
    else:
        results = b.rnn(*operands, layer.lengths, **layer.options)
    return layer.results(context, results)
