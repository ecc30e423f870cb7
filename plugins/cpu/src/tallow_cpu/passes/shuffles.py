"""Channel shuffles moved down to the convolution that reads them, which then needs no copy for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tallow.backend import Target
from tallow.builder import Builder
from tallow.graph import Graph, Node, Value, consumers, walk
from tallow.ops import OPS
from tallow.passes.clean import remove_dead
from tallow.passes.rewrite import resolve, rewrite
from tallow_cpu.shuffle import unshuffle


def sink_shuffles(graph: Graph, target: Target) -> Graph:
    """f(shuffle(x)) becomes shuffle(f'(x)) for channel by channel operators f between a shuffle and a
    convolution of groups: their constants are put into the other order."""
    made = {v: n for n in walk(graph) for v in n.outputs}
    readers = consumers(graph)
    chains = [
        chain
        for node in graph.nodes
        if node.op == "conv" and node["groups"] > 1 and not _is_channelwise(node, 0, made)
        for chain in [_chain(node, made, readers, set(graph.outputs))]
        if chain
    ]
    operand = {node.output: (index, count) for nodes, count in chains for node, index in nodes}
    plain: dict[Value, Value] = {}

    def rule(builder: Builder, node: Node):
        index, count = operand.get(node.outputs[0], (None, 0)) if node.outputs else (None, 0)
        if index is None:
            return None
        given = made[node.output].inputs[index]
        found = shuffle_of(given, made)
        inner = plain[given] if given in plain else resolve(found[0], builder.replaced)
        inputs = [_reordered(builder, node, v, made, count) for v in node.inputs]
        inputs[index] = inner
        result = plain[node.output] = builder.emit(node.op, *inputs, **node.attributes)
        return emit_shuffle(builder, result, count)

    return remove_dead(rewrite(graph, rule)) if chains else graph


def shuffle_of(value: Value, made: Mapping[Value, Node]) -> tuple[Value, int] | None:
    """(x, count) if the value is shuffle(x, count) on axis 1, written with reshapes and a transpose."""
    last = made.get(value)
    middle = made.get(last.inputs[0]) if last is not None and last.op == "reshape" else None
    first = made.get(middle.inputs[0]) if middle is not None and middle.op == "transpose" else None
    if first is None or first.op != "reshape":
        return None
    x, split = first.inputs[0], first.output.shape
    swapped = (0, 2, 1, *range(3, len(split)))
    if x.type != value.type or x.rank < 3 or middle["permutation"] != swapped:
        return None
    if (split[0], *split[3:]) != (x.shape[0], *x.shape[2:]):
        return None
    count, each = split[1:3]
    fits = all(isinstance(d, int) for d in (count, each, x.shape[1])) and count * each == x.shape[1]
    return (x, count) if fits and count > 0 else None


def emit_shuffle(builder: Builder, x: Value, count: int) -> Value:
    """shuffle(x, count) in ordinary operators."""
    batch, channels, *spatial = x.shape
    split = builder.reshape(x, shape=(batch, count, channels // count, *spatial))
    turned = builder.transpose(split, permutation=(0, 2, 1, *range(3, x.rank + 1)))
    return builder.reshape(turned, shape=x.shape)


def _chain(
    conv: Node, made: Mapping[Value, Node], readers, results: set[Value]
) -> tuple[Sequence[tuple[Node, int]], int] | None:
    """The nodes between a shuffle and a convolution, each with the operand that is shuffled, and the
    shuffle's count; None where there are none, or others read what is between."""
    nodes: list[tuple[Node, int]] = []
    value = conv.inputs[0]
    while (found := shuffle_of(value, made)) is None:
        node = made.get(value)
        if node is None or value in results or len(readers.get(value, ())) != 1:
            return None
        wide = [i for i, v in enumerate(node.inputs) if made.get(v) is None or made[v].op != "constant"]
        if len(wide) != 1 or not _is_channelwise(node, wide[0], made):
            return None
        nodes.append((node, wide[0]))
        value = node.inputs[wide[0]]
    return (nodes[::-1], found[1]) if nodes else None


def _is_channelwise(node: Node, index: int, made: Mapping[Value, Node]) -> bool:
    """Whether each channel of the result is made of that channel of operand `index`."""
    x, y = node.inputs[index], node.output
    if node.op == "conv":
        return index == 0 and node["groups"] == x.shape[1] == y.shape[1]
    if node.op == "pool":
        return True
    return OPS[node.op].kind == "pointwise" and x.shape == y.shape


def _reordered(builder: Builder, node: Node, operand: Value, made: Mapping[Value, Node], count: int) -> Value:
    """A constant operand with its channels in the order before the shuffle; others as they are."""
    constant = made.get(operand)
    if constant is None or constant.op != "constant":
        return operand
    array = constant["value"]
    axis = 0 if node.op == "conv" else array.ndim - node.output.rank + 1
    if axis < 0 or array.shape[axis] == 1:
        return operand
    return builder.constant(unshuffle(array, count, axis))
