"""decide: which device runs each node, the first that can unless moving there and back costs more than it gains.

The order of a list is the user's: seconds of work count where another device than the first does it, and seconds
of copies count. What is least in sum is found exactly; of more than two devices, the first against the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tallow.graph import Graph, Node, Value, consumers, producers, walk
from tallow.placement.cut import INFINITE, Move, cut
from tallow.placement.rates import USUAL, Rates, usual_bytes
from tallow.placement.survey import Finding, Survey

MOVED = "moving there and back would cost more than it gains"
TICKS, LONGEST = 1e12, 1 << 50  # of a second, which costs are counted in; the most of them that count
MOST_TRIPS = 1 << 20
ENTER = 40e-6  # seconds that a step on another device takes to begin

Known = Mapping[Value, Node]  # who makes each constant


@dataclass(eq=False)
class Decision:
    """Where the nodes of one graph run.

    device: the number of a device; of nodes that no device has a kernel for, None. why: of those that leave
    the first. inner: decisions of regions whose control flow stays on the first. lost: seconds of other devices'
    work and of copies.
    """

    device: dict[Node, int | None] = field(default_factory=dict)
    why: dict[Node, str] = field(default_factory=dict)
    inner: dict[Graph, Decision] = field(default_factory=dict)
    lost: float = 0.0

    @property
    def leaves(self) -> bool:
        """Whether any node runs on another device than the first."""
        return any(self.device.values()) or any(each.leaves for each in self.inner.values())


@dataclass(eq=False)
class Costs:
    """What a node costs on each device in seconds, none on the first, or why it cannot be there. inner:
    decisions of its regions if it is control flow that stays on the first, and costs what is lost there."""

    seconds: list[float | None]
    refusals: list[str | None]
    inner: dict[Graph, Decision] = field(default_factory=dict)

    def why_not(self, device: int, names: Sequence[str]) -> str:
        """Why a node is on this device and on none before it."""
        if self.refusals[0] is None:
            return MOVED
        refused = zip(names[:device], self.refusals, strict=False)
        return "; ".join(f"{name}: {reason}" for name, reason in refused if reason is not None)


def decide(graph: Graph, surveys: Sequence[Survey], known: Known) -> Decision:
    """The devices of a graph's nodes; `known` are constants of the graphs around it."""
    known = {**known, **_constants(graph.nodes)}
    costs = {node: _costs(node, surveys, known) for node in graph.nodes if node.op != "constant"}
    working = [node for node in costs if any(s is not None for s in costs[node].seconds)]
    decision = Decision(dict.fromkeys(costs))
    decision.device |= _assign(graph, working, costs, surveys, range(len(surveys)))
    for node in working:
        device = decision.device[node]
        decision.lost += costs[node].seconds[device]
        if device == 0:
            decision.inner |= costs[node].inner
        else:
            decision.why[node] = costs[node].why_not(device, [s.site.name for s in surveys])
    rates = [survey.rates for survey in surveys]
    decision.lost += sum(_copies(graph, decision.device, rates)) + ENTER * any(decision.device.values())
    return decision


def _constants(nodes: Iterable[Node]) -> dict[Value, Node]:
    return {node.output: node for node in nodes if node.op == "constant"}


# What nodes cost ---------------------------------------------------------------------------------


def _costs(node: Node, surveys: Sequence[Survey], known: Known) -> Costs:
    if not node.outputs:  # sizes, which the host reads
        return Costs([None] * len(surveys), [None] * len(surveys))
    if node.regions:
        return _control_costs(node, surveys, known)
    found = [survey.find(node, known) for survey in surveys]
    seconds = [f.seconds * bool(number) if f.refusal is None else None for number, f in enumerate(found)]
    return Costs(seconds, [f.refusal for f in found])


def _control_costs(node: Node, surveys: Sequence[Survey], known: Known) -> Costs:
    """Control flow can be on the first device, where its regions are placed by themselves, or with all that
    is in it on another."""
    inner = {region: decide(region, surveys, known) for region in node.regions.values()}
    known = {**known, **_constants(_inside(node))}
    times = _trips(node, known)
    costs = Costs([], [], inner)
    for survey in surveys:
        found = [_whole(each, survey, surveys, known) for each in _inside(node)]
        reasons = sorted({each.refusal for each in found if each.refusal is not None})
        costs.refusals.append("; ".join(reasons) or None)
        costs.seconds.append(None if reasons else times * sum(each.seconds for each in found))
    costs.seconds[0] = times * sum(each.lost for each in inner.values())
    return costs


def _inside(node: Node) -> Iterator[Node]:
    """Every node in a node's regions, at any depth."""
    for region in node.regions.values():
        yield from walk(region)


def _whole(node: Node, survey: Survey, surveys: Sequence[Survey], known: Known) -> Finding:
    """A node that goes where its region goes; those that no device can run are the host's."""
    if node.op == "constant" or node.regions or not node.outputs:
        return Finding(None)
    found = survey.find(node, known)
    if found.refusal is None:
        return found
    stuck = all(each.find(node, known).refusal is not None for each in surveys)
    return Finding(None) if stuck else Finding(f"{node.op}: {found.refusal}")


def _trips(node: Node, known: Known) -> int:
    """How often the regions of a node run."""
    if node.op != "loop":
        return 1
    if node.inputs[0] not in known:
        return USUAL
    return min(max(int(np.reshape(known[node.inputs[0]]["value"], ())), 0), MOST_TRIPS)


def _copies(graph: Graph, device: Mapping[Node, int | None], rates: Sequence[Rates]) -> Iterator[float]:
    """Seconds of each copy between devices."""
    for value, maker, readers in _values(graph, device):
        others = {device[reader] for reader in readers} - {device[maker]}
        for each in {device[maker], *others} - {None} if others else ():
            yield rates[each].copy(usual_bytes(value.type))


def _values(graph: Graph, among: Mapping[Node, object]) -> Iterator[tuple[Value, Node, list[Node]]]:
    """The values that some of these nodes make and others read."""
    readers = consumers(graph)
    for value, maker in producers(graph).items():
        reading = [node for node in readers.get(value, ()) if node in among]
        if maker in among and reading:
            yield value, maker, reading


# Who runs what -----------------------------------------------------------------------------------


def _assign(
    graph: Graph,
    nodes: Sequence[Node],
    costs: Mapping[Node, Costs],
    surveys: Sequence[Survey],
    devices: Sequence[int],
) -> dict[Node, int]:
    """The device of each node: the first of these or one of the rest, and of the rest again. All other nodes
    of the graph count as the host's: what they make or read goes through its memory."""
    first, rest = devices[0], devices[1:]
    if not rest or not nodes:
        return dict.fromkeys(nodes, first)
    here, there = surveys[first].rates, [surveys[device].rates for device in rest]
    item = {node: number for number, node in enumerate(dict.fromkeys([*nodes, *costs]))}
    sides = [_sides(costs[node], first, rest) for node in nodes]
    sides += [_host_side(here, there)] * (len(item) - len(nodes))
    moves = []
    for value, maker, readers in _values(graph, item):
        size = usual_bytes(value.type)
        seconds = ENTER + here.copy(size) + min(rates.copy(size) for rates in there)
        moves.append(Move(item[maker], tuple(item[reader] for reader in readers), _ticks(seconds)))
    away = cut(sides, moves)
    staying = {node: first for node in nodes if not away[item[node]]}
    leaving = [node for node in nodes if node not in staying]
    return staying | _assign(graph, leaving, costs, surveys, rest)


def _sides(costs: Costs, first: int, rest: Sequence[int]) -> tuple[int, int]:
    """What a node costs on the first of some devices and on the best of the rest."""
    here = costs.seconds[first] if first == 0 or costs.seconds[first] is None else 0.0
    there = min((s for device in rest if (s := costs.seconds[device]) is not None), default=None)
    return tuple(INFINITE if seconds is None else _ticks(seconds) for seconds in (here, there))


def _host_side(here: Rates, there: Sequence[Rates]) -> tuple[int, int]:
    """What the host's nodes cost on either side: they are where the host's memory is, if that is a side's."""
    if here.is_host:
        return 0, INFINITE
    return (INFINITE, 0) if any(rates.is_host for rates in there) else (0, 0)


def _ticks(seconds: float) -> int:
    return min(round(seconds * TICKS), LONGEST)
