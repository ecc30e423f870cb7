"""place: a graph in which what other devices run than the first stands in regions, as few as its order allows."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from tallow.graph import OUTER_SIZES, Graph, Node, Value, consumers, reads, used_symbols, walk
from tallow.passes.bind import copied
from tallow.passes.decompose import decompose
from tallow.placement.decide import MOVED, Decision, decide
from tallow.placement.survey import Survey
from tallow.verify import checked

Segment = tuple[int, list[Node]]


def place(graph: Graph, surveys: Sequence[Survey]) -> Graph:
    """An understood graph for the first of some devices; nodes `on` hold what the others run. Composite
    operators that no device takes whole are written out, so that each can take its part."""
    graph = checked(decompose, graph, _taker(graph, surveys))
    decision = decide(graph, surveys, {})
    return _placed(graph, decision, surveys, {}) if decision.leaves else graph


def _taker(graph: Graph, surveys: Sequence[Survey]) -> Callable[[Node], bool]:
    """Whether any device takes a node as it is."""
    known = {node.output: node for node in walk(graph) if node.op == "constant"}
    return lambda node: any(survey.find(node, known).refusal is None for survey in surveys)


def _placed(
    graph: Graph, decision: Decision, surveys: Sequence[Survey], outer: Mapping[Value, Node]
) -> Graph:
    known = {**outer, **{n.output: n for n in graph.nodes if n.op == "constant"}}
    nodes: list[Node] = []
    readers, kept = consumers(graph), set(graph.outputs)

    def outside(value: Value, part: Sequence[Node]) -> bool:
        """Whether anything but these nodes reads a value."""
        return value in kept or not set(readers.get(value, ())) <= set(part)

    for device, part in segments(graph, decision.device, [s.rates.is_host for s in surveys]):
        if device:
            nodes.append(_region(part, device, decision, known, outside))
            continue
        for node in part:
            attributes = dict(node.attributes)
            for name, region in node.regions.items():
                inner = decision.inner.get(region)
                if inner is not None and inner.leaves:
                    attributes[name] = _placed(region, inner, surveys, known)
            nodes.append(Node(node.op, node.inputs, node.outputs, attributes, node.location))
    return Graph(graph.name, graph.inputs, graph.outputs, tuple(nodes), graph.output_names, graph.metadata)


def segments(graph: Graph, device: Mapping[Node, int | None], hosts: Sequence[bool]) -> list[Segment]:
    """The nodes in an order in which they can run, in runs on one device each: all that is ready on one,
    then all that is ready on another. Nodes of no device go with the first or with a device on the host."""
    waiting, followers = _dependencies(graph)
    ready: dict[int | None, list[int]] = {}
    number = {node: n for n, node in enumerate(graph.nodes)}

    def release(node: Node) -> None:
        heapq.heappush(ready.setdefault(device.get(node), []), number[node])

    for node in graph.nodes:
        if not waiting[node]:
            release(node)
    runs: list[Segment] = [(0, [])]
    while any(ready.values()):
        current, run = runs[-1]
        able = [current, *([None] if current == 0 or hosts[current] else [])]
        among = [ready[d][0] for d in able if ready.get(d)]
        if not among:
            waiting_on = [d or 0 for d, nodes in ready.items() if nodes]
            runs.append((min(waiting_on), []))
            continue
        node = graph.nodes[min(among)]
        heapq.heappop(ready[device.get(node)])
        run.append(node)
        for follower in followers[node]:
            waiting[follower].discard(node)
            if not waiting[follower]:
                release(follower)
    return [(at, run) for at, run in runs if run]


def _dependencies(graph: Graph) -> tuple[dict[Node, set[Node]], dict[Node, list[Node]]]:
    """Which nodes each waits for, by values and by sizes, and which wait for it."""
    makers: dict[object, Node] = {}
    waiting: dict[Node, set[Node]] = {}
    followers: dict[Node, list[Node]] = {node: [] for node in graph.nodes}
    for node in graph.nodes:
        needs = (*reads(node), *(used_symbols(node) - set(node.defines)))
        waiting[node] = {makers[need] for need in needs if need in makers}
        for maker in waiting[node]:
            followers[maker].append(node)
        makers.update(dict.fromkeys((*node.outputs, *node.defines), node))
    return waiting, followers


def _region(
    part: Sequence[Node], device: int, decision: Decision, known: Mapping[Value, Node], outside: Callable
) -> Node:
    """The node that runs a segment; constants are in it, everything else comes in as operands."""
    made = {v for node in part for v in node.outputs}
    needed = dict.fromkeys(v for node in part for v in reads(node) if v not in made)
    constants = tuple(known[v] for v in needed if v in known)
    operands = tuple(v for v in needed if v not in known)
    results = tuple(v for node in part for v in node.outputs if outside(v, part))
    defines = tuple(name for node in part for name in node.defines)
    sizes = {*defines, *(name for node in part for name in used_symbols(node))}
    metadata = {OUTER_SIZES: " ".join(sorted(sizes))}
    body = copied(Graph("on", operands, results, (*constants, *part), metadata=metadata))
    moved = [node for node in part if node in decision.why]
    refused = [node for node in moved if decision.why[node] != MOVED] or moved
    told = tuple((node.op, node.location.name, decision.why[node]) for node in moved)
    attributes = {"device": device, "defines": defines, "moved": told, "body": body}
    return Node("on", operands, results, attributes, refused[0].location)
