"""cut: items on two sides so that what they cost there and what moves between costs least, exactly.

A minimum cut of a graph that says it all: what an item costs on a side is an edge to the other side, and a
value that crosses costs once, however many read it. Maximum flow is by Dinic, "Algorithm for solution of a
problem of maximum flow in a network with power estimation" (1970).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

INFINITE = 1 << 60  # a cost that must not be


class Move(NamedTuple):
    """A value that an item makes and others read: what it costs if one of these is on the other side."""

    maker: int
    readers: tuple[int, ...]
    cost: int


def cut(costs: Sequence[tuple[int, int]], moves: Sequence[Move]) -> list[bool]:
    """For each item, whether it is on the second side; of equal costs, as few as can be. `costs`: what
    each costs on the first and on the second, integers of 0 or more, INFINITE where it cannot be."""
    first, second = len(costs), len(costs) + 1
    network = _Network(len(costs) + 2 + 2 * len(moves))
    for item, (here, there) in enumerate(costs):
        both = min(here, there)
        network.join(first, item, there - both)
        network.join(item, second, here - both)
    for number, (maker, readers, cost) in enumerate(moves):
        away, back = len(costs) + 2 + 2 * number, len(costs) + 3 + 2 * number
        network.join(maker, away, cost)
        network.join(back, maker, cost)
        for reader in readers:
            network.join(away, reader, INFINITE)
            network.join(reader, back, INFINITE)
    network.fill(first, second)
    held = network.reaching(second)
    return [item in held for item in range(len(costs))]


class _Network:
    """Edges with what they still let through; edge n ^ 1 is edge n backwards."""

    def __init__(self, nodes: int):
        self.edges: list[list[int]] = [[] for _ in range(nodes)]
        self.ends: list[int] = []
        self.rest: list[int] = []

    def join(self, start: int, end: int, capacity: int) -> None:
        if capacity:
            for at, to, amount in ((start, end, capacity), (end, start, 0)):
                self.edges[at].append(len(self.ends))
                self.ends.append(to)
                self.rest.append(amount)

    def fill(self, source: int, sink: int) -> None:
        """As much as can flow from source to sink, level by level."""
        while True:
            levels = self._levels(source)
            if levels[sink] < 0:
                return
            begun = [0] * len(self.edges)
            while self._push(source, sink, levels, begun):
                pass

    def _levels(self, source: int) -> list[int]:
        levels = [-1] * len(self.edges)
        levels[source] = 0
        queue = [source]
        for node in queue:
            for edge in self.edges[node]:
                end = self.ends[edge]
                if self.rest[edge] and levels[end] < 0:
                    levels[end] = levels[node] + 1
                    queue.append(end)
        return levels

    def _push(self, source: int, sink: int, levels: list[int], begun: list[int]) -> bool:
        """One path of rising levels, filled; `begun` says which edges of a node are still worth a try."""
        path: list[int] = []
        node = source
        while node != sink:
            edges = self.edges[node]
            while begun[node] < len(edges):
                edge = edges[begun[node]]
                if self.rest[edge] and levels[self.ends[edge]] == levels[node] + 1:
                    break
                begun[node] += 1
            if begun[node] < len(edges):
                path.append(edges[begun[node]])
                node = self.ends[path[-1]]
            elif path:
                node = self.ends[path.pop() ^ 1]
                begun[node] += 1
            else:
                return False
        amount = min(self.rest[edge] for edge in path)
        for edge in path:
            self.rest[edge] -= amount
            self.rest[edge ^ 1] += amount
        return True

    def reaching(self, sink: int) -> set[int]:
        """The nodes from which more could flow to the sink."""
        found, queue = {sink}, [sink]
        for node in queue:
            for edge in self.edges[node]:
                start = self.ends[edge]
                if self.rest[edge ^ 1] and start not in found:
                    found.add(start)
                    queue.append(start)
        return found
