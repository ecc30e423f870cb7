"""AttnLSTM of the com.microsoft domain: an LSTM that reads a memory at every step (Bahdanau et al., 2015)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tallow.dtype import bool_, i64
from tallow.graph import TensorType, Value
from tallow.ops.recurrence import Function, backwards, functions_of
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.control import emit_loop
from tallow_importers.onnx.families.microsoft.attention import part, parts
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.families.recurrent import Layer, layer_of
from tallow_importers.onnx.known import KnownBuilder
from tallow_importers.onnx.registry import onnx_op


@dataclass(slots=True)
class Memory:
    """What is read: values [batch, places, depth], their keys [batch, places, size], which places count,
    and the weights of queries, of scores and, if it has any, of the layer that follows."""

    values: Value
    keys: Value
    counted: Value
    query: Value
    score: Value
    layer: Value | None

    def read(self, b: KnownBuilder, h: Value) -> Value:
        """What the cell gets beside its next input, [batch, width], after a step that ended in h."""
        batch, places, size = self.keys.shape
        query = b.reshape(b.matmul(h, self.query), shape=(batch, 1, size))
        scores = b.mul(b.tanh(b.add(self.keys, query)), self.score)
        scores = b.reduce(scores, function="add", axes=(2,), keepdims=False)
        shares = b.softmax(b.select(self.counted, scores, -math.inf), axis=1)
        weighted = b.mul(self.values, b.reshape(shares, shape=(batch, places, 1)))
        found = b.reduce(weighted, function="add", axes=(1,), keepdims=False)
        return found if self.layer is None else b.matmul(b.concat(h, found, axis=1), self.layer)


@onnx_op("AttnLSTM", domain=MS)
def attention_lstm(context: Context, node: NodeView):
    r = node.input(2)
    directions, hidden = r.shape[0], r.shape[2]
    missing = [n for n, i in (("QW", 8), ("MW", 9), ("V", 10), ("M", 11)) if node.input(i) is None]
    if missing:
        context.unsupported(f"no operand {', '.join(missing)}")
    layer = layer_of(context, node, "LSTM", directions, hidden)
    both = [_run(context, node, layer, d, hidden) for d in range(directions)]
    b, results = context.builder, []
    for axis, values in zip((1, 0, 0), zip(*both, strict=True), strict=True):
        opened = [b.reshape(v, shape=(*v.shape[:axis], 1, *v.shape[axis:])) for v in values]
        results.append(b.concat(*opened, axis=axis) if directions > 1 else opened[0])
    return results


def _entry(context: Context, x: Value | None, direction: int) -> Value | None:
    """What one direction has of an operand of all."""
    if x is None:
        return None
    return context.builder.reshape(part(context, x, 0, direction, 1), shape=x.shape[1:])


def _memory(context: Context, node: NodeView, direction: int) -> Memory:
    b, lengths = context.builder, node.input(12)
    query, keys, score, layer = (_entry(context, node.input(i), direction) for i in (8, 9, 10, 13))
    values = node.input(11)
    batch, places, _ = values.shape
    place = b.iota(shape=(1, places), axis=1, dtype=i64)
    ends = (
        context.size(places) if lengths is None else b.cast(b.reshape(lengths, shape=(batch, 1)), dtype=i64)
    )
    return Memory(values, b.matmul(values, keys), b.lt(place, ends), query, score, layer)


def _run(context: Context, node: NodeView, layer: Layer, direction: int, hidden: int) -> list[Value]:
    """The results of all steps [steps, batch, hidden], and of the last, of one direction."""
    b, (steps, batch, width) = context.builder, layer.x.shape
    w, r, bias, h, c, peepholes = (
        _entry(context, v, direction)
        for v in (node.input(1), node.input(2), layer.bias, layer.h0, layer.c0, layer.peepholes)
    )
    x = layer.x
    turned = _turned(context, layer.lengths, steps) if backwards(layer.options, direction) else None
    if turned is not None:
        x = b.gather_elements(x, b.broadcast(turned, shape=x.shape), axis=0)
    of_input, of_read = parts(context, w, 1, [width, w.shape[1] - width])
    of_input, of_read, of_state = (b.transpose(v, permutation=(1, 0)) for v in (of_input, of_read, r))
    projected = b.add(b.matmul(x, of_input), b.add(*parts(context, bias, 0, [4 * hidden] * 2)))
    cell = Cell(
        hidden,
        of_read,
        of_state,
        peepholes,
        layer.options,
        functions_of(layer.options, layer.bias.shape[0])[direction],
    )
    memory = _memory(context, node, direction)

    def body(types):
        inner = b.region("step")
        step, going = (
            Value(inner.unique(n), TensorType(t, ())) for n, t in (("step", i64), ("going", bool_))
        )
        old = [Value(inner.unique(n), t) for n, t in zip(("h", "c", "read"), types, strict=True)]
        inner.inputs += [step, going, *old]
        new = cell.step(context.inside(inner), inner.gather(projected, step, axis=0), *old)
        alive = inner.reshape(inner.lt(step, layer.lengths), shape=(batch, 1))
        y = inner.select(alive, new[0], inner.scalar(0, x.dtype))
        kept = [inner.select(alive, n, o) for n, o in zip(new, old[:2], strict=True)]
        return inner.finish([inner.scalar(True, bool_), *kept, memory.read(inner, y), y])

    nothing = b.broadcast(b.scalar(0, x.dtype), shape=(batch, of_read.shape[0]))
    h, c, _, y = emit_loop(context, context.size(steps), b.scalar(True, bool_), [h, c, nothing], body)
    if turned is not None:
        y = b.gather_elements(y, b.broadcast(turned, shape=y.shape), axis=0)
    return [y, h, c]


def _turned(context: Context, lengths: Value, steps) -> Value:
    """For each step of each sequence the one as far from its end, [steps, batch, 1]; padding stays."""
    b, batch = context.builder, lengths.shape[0]
    step = b.iota(shape=(steps, 1, 1), axis=0, dtype=i64)
    ends = b.reshape(lengths, shape=(1, batch, 1))
    return b.select(b.lt(step, ends), b.sub(b.sub(ends, 1), step), step)


@dataclass(slots=True)
class Cell:
    """Gates of input, output, forgetting and content, in this order."""

    hidden: int
    of_read: Value
    of_state: Value
    peepholes: Value | None
    options: dict
    functions: tuple[Function, ...]

    def step(self, context: Context, projected: Value, h: Value, c: Value, read: Value) -> list[Value]:
        """The states h and c after a step."""
        b, (f, g, out) = context.builder, self.functions

        def do(function: str, *operands):
            return getattr(b, function)(*operands)

        total = b.add(b.add(projected, b.matmul(read, self.of_read)), b.matmul(h, self.of_state))
        i, o, forget, content = parts(context, total, 1, [self.hidden] * 4)
        peeps = [None] * 3 if self.peepholes is None else parts(context, self.peepholes, 0, [self.hidden] * 3)

        def opened(function: Function, gate: Value, peephole: Value | None, cell: Value) -> Value:
            gate = gate if peephole is None else b.add(gate, b.mul(cell, peephole))
            limit = self.options["clip"]
            gate = b.max(b.min(gate, limit), -limit) if limit else gate
            return function(do, gate)

        i = opened(f, i, peeps[0], c)
        forget = (
            b.sub(b.scalar(1, i.dtype), i) if self.options["input_forget"] else opened(f, forget, peeps[2], c)
        )
        new = b.add(b.mul(forget, c), b.mul(i, opened(g, content, None, c)))
        return [b.mul(opened(f, o, peeps[1], new), out(do, new)), new]
